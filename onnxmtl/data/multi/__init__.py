"""``multifashion`` and ``multimnist``: two real items per image.

items   read the items: idx files, csv
pairs   two of them in an image, with labels
"""

from onnxmtl.data.multi.items import Items, ItemSets, find_items, read_idx
from onnxmtl.data.multi.pairs import Pairs, open_pairs

__all__ = ["ItemSets", "Items", "Pairs", "find_items", "open_pairs", "read_idx"]
