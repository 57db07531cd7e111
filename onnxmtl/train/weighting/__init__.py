"""How the losses of several tasks become one update: fixed weights, weights that adapt, or gradients put together.

Every method sees ℓ_t = w_t L_t, the task's loss with the weight of the task file, and adapts from there:

    static              Σ ℓ_t
    uncertainty         Σ c_t exp(−s_t) ℓ_t + s_t / 2, s_t = log σ_t² trained (Kendall et al. 2018, Eq. 10)
    dwa                 Σ λ_t ℓ_t, λ from how fast each loss fell of late (Liu et al. 2019, Eq. 7)
    gradnorm            Σ v_t ℓ_t, v trained towards equal training rates (Chen et al. 2018, Eq. 1 and 2)
    torchjd:AGGREGATOR  gradients of shared parameters put together by UPGrad, MGDA, PCGrad, CAGrad …

Written ``NAME[,key=value …]``, e.g. ``dwa,temperature=1`` or ``torchjd:CAGrad,c=0.4``. A method of your own is a
subclass of :class:`Weighting` under :func:`register_weighting`.

A loss that is exactly 0 has no label in its batch; it leaves the state of its task alone.
"""

from __future__ import annotations

from onnxmtl.errors import TaskError
from onnxmtl.kinds import TaskSet, close_match
from onnxmtl.train.weighting import gradnorm as _gradnorm  # noqa: F401  (registers the method)
from onnxmtl.train.weighting import scalar as _scalar  # noqa: F401  (registers the methods)
from onnxmtl.train.weighting.base import (
    WEIGHTINGS,
    Backward,
    Setting,
    Weighting,
    WeightingSpec,
    register_weighting,
)

__all__ = [
    "WEIGHTINGS",
    "Backward",
    "Setting",
    "Weighting",
    "WeightingSpec",
    "make_weighting",
    "parse_weighting",
    "register_weighting",
]


def parse_weighting(text: str) -> WeightingSpec:
    """Read ``NAME[,key=value …]``; "" is static.

    Raises:
        TaskError: A setting is not of the form key=value.
    """
    name, *items = (item.strip() for item in text.split(","))
    settings: dict[str, Setting] = {}
    for item in items:
        key, equals, value = (part.strip() for part in item.partition("="))
        if not (key and equals and value) or key in settings:
            msg = f"weighting {text!r}: cannot read {item!r}: write each setting once, as in dwa,temperature=2"
            raise TaskError(msg)
        try:
            settings[key] = float(value)
        except ValueError:
            settings[key] = value
    return WeightingSpec(name or "static", settings)


def make_weighting(spec: WeightingSpec, tasks: TaskSet) -> Weighting:
    """A fresh object of the method.

    Raises:
        TaskError: Unknown method or setting; one line that starts with the method.
        MissingDependencyError: ``torchjd:`` without torchjd, or without what the aggregator needs.
    """
    family, _, aggregator = spec.name.partition(":")
    try:
        if family == "torchjd":
            from onnxmtl.train.weighting.torchjd import JacobianDescent

            return JacobianDescent(tasks, aggregator, spec.settings)
        if spec.name not in WEIGHTINGS:
            known = [*WEIGHTINGS, "torchjd:AGGREGATOR"]
            msg = f"unknown method{close_match(spec.name, WEIGHTINGS)}; known: {', '.join(known)}"
            raise TaskError(msg)
        return WEIGHTINGS[spec.name](tasks, spec.settings)
    except TaskError as error:
        msg = f"weighting {spec.name!r}: {error}"
        raise TaskError(msg) from error
