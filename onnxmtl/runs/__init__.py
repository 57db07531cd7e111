"""Run directories: atomic results, phases, checkpoints, resume; and seeds. No heavy imports."""

from onnxmtl.runs.atomic import atomic_directory, atomic_write
from onnxmtl.runs.cache import cache_folder, cached
from onnxmtl.runs.checkpoints import Checkpoints
from onnxmtl.runs.directory import Phase, RunDirectory, free_path, versions
from onnxmtl.runs.jsonfile import content_key, file_sha256, read_json, write_json
from onnxmtl.runs.seeds import derive_seed

__all__ = [
    "Checkpoints",
    "Phase",
    "RunDirectory",
    "atomic_directory",
    "atomic_write",
    "cache_folder",
    "cached",
    "content_key",
    "derive_seed",
    "file_sha256",
    "free_path",
    "read_json",
    "versions",
    "write_json",
]
