"""Where a backbone comes from, and what of it goes into run.json."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import onnx_ir as ir

from onnxmtl.frontends.source import Dialect, file_of, kind_of
from onnxmtl.runs import file_sha256


@dataclasses.dataclass(frozen=True)
class Source:
    """What :func:`onnxmtl.load` reads a backbone from; see there for the fields.

    Attributes:
        model: A path, or an object.
        example_input: For a torch module.
        weights: For a prototxt.
        dialect: Of a prototxt.
    """

    model: Any
    example_input: Any = None
    weights: str | os.PathLike[str] | None = None
    dialect: Dialect = "auto"

    @property
    def is_file(self) -> bool:
        """Whether it is on disk."""
        return kind_of(self.model) in ("onnx", "prototxt")

    @property
    def title(self) -> str:
        """What reports call it: the file's name, or the object's."""
        if self.is_file:
            return file_of(self.model).name
        if isinstance(self.model, ir.Model):
            return str(self.model.graph.name or "model")
        return str(getattr(self.model, "name", None) or type(self.model).__name__)

    def digests(self, backbone: str) -> dict[str, str | None]:
        """SHA-256 of the model (`backbone`, for an object) and of the weights beside it, if any."""
        return {
            "model": file_sha256(file_of(self.model)) if self.is_file else backbone,
            "weights": None if self.weights is None else file_sha256(self.weights),
        }

    def describe(self) -> dict[str, Any]:
        """Kind and paths, for people; what a run depends on are the digests."""
        return {
            "kind": kind_of(self.model),
            "path": str(file_of(self.model)) if self.is_file else None,
            "weights": None if self.weights is None else str(self.weights),
            "name": self.title,
        }
