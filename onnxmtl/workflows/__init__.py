"""The public Python API: every loop that crosses rooms lives here."""

from onnxmtl.workflows.compilation import Compiled, compile
from onnxmtl.workflows.config import CompileConfig
from onnxmtl.workflows.importing import load
from onnxmtl.workflows.session import Observer
from onnxmtl.workflows.verification import verify

__all__ = ["CompileConfig", "Compiled", "Observer", "compile", "load", "verify"]
