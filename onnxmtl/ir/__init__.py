"""The graph IR: ``onnx_ir.Model`` plus Choice operators, roles, provenance and diagnostics."""

from onnxmtl.ir.choice import (
    Choice,
    as_choice,
    attach_functions,
    choices,
    is_choice,
    is_supermodel,
    make_choice,
)
from onnxmtl.ir.copying import copy_initializer, copy_nodes, new_initializer
from onnxmtl.ir.diagnostics import Diagnostic, carry, diagnostics, report
from onnxmtl.ir.external import MappedTensor, save_external
from onnxmtl.ir.io import EXTERNAL_DATA_BYTES, load, save, skeleton, to_bytes, weight_bytes
from onnxmtl.ir.memory import clone, collection_paused
from onnxmtl.ir.naming import Namer, name_nodes
from onnxmtl.ir.provenance import head_of, set_sources, sources, stamp, tasks_of_nodes, unite
from onnxmtl.ir.roles import Role, role_of, set_role
from onnxmtl.ir.wording import counted, dims_of, listed, shape_text, value_text

__all__ = [
    "EXTERNAL_DATA_BYTES",
    "Choice",
    "Diagnostic",
    "MappedTensor",
    "Namer",
    "Role",
    "as_choice",
    "attach_functions",
    "carry",
    "choices",
    "clone",
    "collection_paused",
    "copy_initializer",
    "copy_nodes",
    "counted",
    "diagnostics",
    "dims_of",
    "head_of",
    "is_choice",
    "is_supermodel",
    "listed",
    "load",
    "make_choice",
    "name_nodes",
    "new_initializer",
    "report",
    "role_of",
    "save",
    "save_external",
    "set_role",
    "set_sources",
    "shape_text",
    "skeleton",
    "sources",
    "stamp",
    "tasks_of_nodes",
    "to_bytes",
    "unite",
    "value_text",
    "weight_bytes",
]
