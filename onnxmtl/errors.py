"""Every error a user can cause. The command line prints the message as one line and exits with 1."""

from __future__ import annotations


class OnnxMTLError(Exception):
    """A mistake in the input or in the run: one line that says what, where and what to do.

    Attributes:
        told_elsewhere: Whether another process of the same training tells it.
    """

    told_elsewhere: bool = False


class ModelError(OnnxMTLError):
    """The model file or its graph cannot be used as asked."""


class TaskError(OnnxMTLError):
    """The task list is wrong: an unknown kind, a bad option, a name used twice."""


class DataError(OnnxMTLError):
    """The data set cannot be read, or a sample does not fit its task."""


class BudgetError(OnnxMTLError):
    """The budget cannot be read, or no architecture of the supermodel fits it."""


class RunError(OnnxMTLError):
    """The run directory cannot be used: not empty, of another run, or the disk refused."""


class VerificationError(OnnxMTLError):
    """The emitted model does not compute what the trained model computes."""


class MissingDependencyError(OnnxMTLError):
    """An optional library is needed; the message has the command that installs it."""


# What the extra `train` installs, by the names of its modules.
_TRAINING = {"torch": "torch", "lightning_fabric": "lightning-fabric", "safetensors": "safetensors", "scipy": "scipy"}


def missing_training(error: BaseException) -> MissingDependencyError | None:
    """What to tell whoever called what trains, or reads what was trained, without the libraries for it.

    Returns:
        None if `error` is about something else.
    """
    name = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    if name not in _TRAINING:
        return None
    return MissingDependencyError(f"this needs {_TRAINING[name]}, which is not installed: pip install 'onnxmtl[train]'")
