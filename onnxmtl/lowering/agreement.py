"""What several processes must not do apart: results of the first one for all, and errors that end all of them.

A process that waits in a sum for one that has raised would wait for ever. So whatever can fail in one process only
runs inside :func:`from_first` or :func:`agreed`: both end in all processes with a result, or in all with the error.
With one process they only call what they are given.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any, TypeVar, cast

import torch
from torch import distributed

from onnxmtl import errors
from onnxmtl.errors import OnnxMTLError, RunError
from onnxmtl.lowering.together import alone, connected, rank, reduce, world_size

T = TypeVar("T")


def from_first(work: Callable[[], T]) -> T:
    """What `work` gives in the first process, which does it :func:`~onnxmtl.lowering.together.alone`, for all.

    Args:
        work: Its result has to be made of JSON values (nan and infinity are allowed, tuples become lists).

    Raises:
        OnnxMTLError: What `work` raised; in all processes.
    """
    if world_size() == 1:
        return work()
    if rank() == 0:
        try:
            with alone():
                result = work()
        except Exception as error:  # whatever it is, the others must not wait for ever
            _send(_described(error))
            raise
        _send({"value": result})
        return result
    told = _receive(0)
    if "error" in told:
        raise _made(told)
    return cast(T, told["value"])


def agreed(work: Callable[[], T]) -> T:
    """What `work`, which every process does for itself, gives in this one.

    `work` must not wait for the other processes.

    Raises:
        OnnxMTLError: It failed in one of them; in all processes.
    """
    if world_size() == 1:
        return work()
    failure: Exception | None = None
    result: T | None = None
    try:
        with alone():
            result = work()
    except Exception as error:  # whatever it is, all have to hear of it
        failure = error
    failed = torch.zeros(world_size(), device=_device())
    failed[rank()] = float(failure is not None)
    ranks = reduce(failed).nonzero().reshape(-1).tolist()
    if not ranks:
        return cast(T, result)
    source = int(ranks[0])
    if rank() == source:
        assert failure is not None
        _send(_described(failure))
    told = _described(failure) if failure is not None and rank() == source else _receive(source)
    if rank() == 0 and failure is not None:
        raise failure
    raise _made(told) from failure


def spread(tensors: Iterable[torch.Tensor]) -> None:
    """Replace tensors by those of the first process."""
    if world_size() > 1:
        for tensor in tensors:
            value = tensor.detach().contiguous()
            with connected():
                distributed.broadcast(value, 0)
            with torch.no_grad():
                tensor.copy_(value)


def _described(error: Exception) -> dict[str, str]:
    text = " ".join(str(error).split())
    if not isinstance(error, OnnxMTLError):
        text = f"process {rank()}: {type(error).__name__}: {text}"
    return {"error": text, "kind": type(error).__name__}


def _made(told: dict[str, Any]) -> OnnxMTLError:
    """An error of another process; if it is not the first one's, the first one tells it."""
    kind = getattr(errors, str(told["kind"]), RunError)
    made = cast(OnnxMTLError, kind(told["error"]))
    made.told_elsewhere = rank() > 0
    return made


def _device() -> torch.device:
    """Where tensors must be to be sent."""
    return torch.device("cuda", torch.cuda.current_device()) if distributed.get_backend() == "nccl" else _CPU


_CPU = torch.device("cpu")


def _send(content: Any) -> None:
    text = bytearray(json.dumps(content).encode())
    with connected():
        distributed.broadcast(torch.tensor([len(text)], device=_device()), rank())
        distributed.broadcast(torch.frombuffer(text, dtype=torch.uint8).to(_device()), rank())


def _receive(source: int) -> dict[str, Any]:
    length = torch.zeros(1, dtype=torch.int64, device=_device())
    with connected():
        distributed.broadcast(length, source)
        text = torch.zeros(int(length), dtype=torch.uint8, device=_device())
        distributed.broadcast(text, source)
    return cast(dict[str, Any], json.loads(bytes(text.tolist())))
