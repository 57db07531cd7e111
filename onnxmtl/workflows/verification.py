"""Replaying an emitted model's certificate."""

from __future__ import annotations

import os
from typing import Literal

from onnxmtl.deploy.against_torch import torch_outputs
from onnxmtl.deploy.verify import VerifyReport
from onnxmtl.deploy.verify import verify as replay


def verify(path: str | os.PathLike[str], *, against: Literal["certificate", "torch"] = "certificate") -> VerifyReport:
    """Check that an emitted model still is, and still computes, what was trained.

    Args:
        path: A run's directory, or the ``model.onnx`` in it.
        against: ``torch`` recomputes the outputs too; otherwise torch is not needed.

    Returns:
        What was compared; all of it is well.

    Raises:
        VerificationError: Something differs, or there is no certificate.
    """
    return replay(path, reference=torch_outputs if against == "torch" else None).check()
