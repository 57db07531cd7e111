"""Seeds derived from one seed: every random stream of a run has a name, and its numbers depend on nothing else.

A run has one ``--seed``. Data order, weight initialisation, Gumbel noise and sampled architectures each draw from
their own stream, ``derive_seed(seed, "data", epoch)`` and so on, so that a resumed run or one more consumer of random
numbers never shifts another stream.
"""

from __future__ import annotations

import hashlib

__all__ = ["derive_seed"]

_BITS = 63


def derive_seed(seed: int, *keys: str | int) -> int:
    """The seed of the stream that ``keys`` names, in ``[0, 2**63)``.

    Stable across processes, platforms and versions of Python (blake2b of a length-prefixed, type-tagged encoding, so
    that ``("a", "bc")`` differs from ``("ab", "c")`` and ``1`` from ``"1"``). Fits numpy and torch generators.
    """
    digest = hashlib.blake2b(digest_size=8, person=b"onnxmtl.seed")
    for key in (int(seed), *keys):
        text = key.encode() if isinstance(key, str) else str(int(key)).encode()
        tag = b"s" if isinstance(key, str) else b"i"
        digest.update(tag + len(text).to_bytes(8, "little") + text)
    return int.from_bytes(digest.digest(), "little") >> (64 - _BITS)
