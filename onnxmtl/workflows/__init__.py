"""The public Python API: every loop that crosses rooms lives here."""

from onnxmtl.deploy.exporting import export_prototxt
from onnxmtl.workflows.compilation import compile
from onnxmtl.workflows.config import CompileConfig
from onnxmtl.workflows.importing import load
from onnxmtl.workflows.phases.emission import Compiled
from onnxmtl.workflows.session import Observer
from onnxmtl.workflows.specialization import specialize
from onnxmtl.workflows.verification import verify

__all__ = ["CompileConfig", "Compiled", "Observer", "compile", "export_prototxt", "load", "specialize", "verify"]
