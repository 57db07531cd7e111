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
from onnxmtl.ir.diagnostics import Diagnostic, diagnostics, report
from onnxmtl.ir.io import load, save, to_bytes
from onnxmtl.ir.naming import Namer, name_nodes
from onnxmtl.ir.provenance import head_of, set_sources, sources, stamp, tasks_of_nodes, unite
from onnxmtl.ir.roles import Role, role_of, set_role

__all__ = [
    "Choice",
    "Diagnostic",
    "Namer",
    "Role",
    "as_choice",
    "attach_functions",
    "choices",
    "copy_initializer",
    "copy_nodes",
    "diagnostics",
    "head_of",
    "is_choice",
    "is_supermodel",
    "load",
    "make_choice",
    "name_nodes",
    "new_initializer",
    "report",
    "role_of",
    "save",
    "set_role",
    "set_sources",
    "sources",
    "stamp",
    "tasks_of_nodes",
    "to_bytes",
    "unite",
]
