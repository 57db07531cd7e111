"""Training of a model without Choices: the selected model, and the baselines it is compared with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from onnxmtl import ops
from onnxmtl.ir import Role, role_of
from onnxmtl.lowering import LoweredModule
from onnxmtl.runs import Checkpoints
from onnxmtl.search.setting import TRAIN_STREAM, Losses, Setting, figures, seed_dropout
from onnxmtl.train.history import History
from onnxmtl.train.loop import Listener, fit
from onnxmtl.train.optimizers import OptimizerSpec, build_optimizer, set_lr
from onnxmtl.train.weighting import WeightingSpec


def train_weights(
    module: LoweredModule,
    setting: Setting,
    spec: OptimizerSpec,
    steps: int,
    *,
    name: str,
    stream: str = TRAIN_STREAM,
    sequential: bool = False,
    reference: int = 0,
    weighting: WeightingSpec | str | None = None,
    per_task: bool = False,
    penalized: Mapping[str, float] | None = None,
    checkpoints: Checkpoints | None = None,
    listener: Listener | None = None,
) -> History:
    """Train all weights of a model without Choices for `steps` steps.

    Args:
        module: Changed in place, left in evaluation mode.
        setting: Data, seed, device.
        spec: The optimizer.
        steps: Number of updates.
        name: Of the stage; for messages.
        stream: Seeds the order of the data and dropout. Trainings that are compared have the same.
        sequential: One update per task and step, on images of its own; else one update for all tasks.
        reference: Steps that the decays of `spec` refer to; 0: `steps`.
        weighting: How the tasks' losses are weighed.
        per_task: The learning rate of every weight is divided by the number of tasks that use it (BMTAS).
        penalized: Penalty -> weight, see :mod:`onnxmtl.search.penalties`.
        checkpoints: For resuming.
        listener: Progress.

    Returns:
        Losses and learning rates over the steps.
    """
    losses = Losses(module, setting, weighting, penalized)
    parameters = {**module.parameters_with(), **losses.weighting.parameters()}
    optimizer = build_optimizer(
        spec,
        parameters,
        heads=module.parameters_with(Role.HEAD),
        undecayed={*losses.weighting.parameters(), *stitches(module)},
        factors=rates(module, spec, per_task=per_task),
    )
    whole = reference or steps

    def update(part: Setting, of_stream: str, number: int) -> dict[str, float]:
        seed_dropout(part, of_stream, number)
        found = losses.of(part.batches(part.data.train, of_stream, number))
        told = figures("loss", found, name, number, steps)
        optimizer.zero_grad(set_to_none=True)
        told |= losses.backward(found, number, steps)
        optimizer.step()
        return told

    def step(number: int) -> Mapping[str, float]:
        lr = spec.lr_at(number * whole / steps, whole)
        set_lr(optimizer, lr)
        told = {"lr/weights": lr}
        if sequential:
            for task in setting.tasks.names:
                told |= update(setting.alone(task), f"{stream}/{task}", number)
        else:
            told |= update(setting, stream, number)
        return told

    module.train()
    history = fit(module, {"weights": optimizer}, step, steps, checkpoints=checkpoints,
                  every=setting.checkpoint_every, listener=listener, also=losses.weighting)  # fmt: skip
    module.eval()
    return history


def rates(module: LoweredModule, spec: OptimizerSpec, *, per_task: bool = False) -> dict[str, float]:
    """Weight -> what its learning rate is multiplied by, where it is not 1.

    Args:
        module: The model.
        spec: Its factors by role, and for biases.
        per_task: Divided by the number of tasks that use the weight, too.
    """
    biases = {str(value.name) for node in module.nodes for slot, value in ops.weight_slots(node) if slot.name == "bias"}
    found = shares(module) if per_task else {}
    for name in module.parameters_with():
        found[name] = found.get(name, 1.0) * spec.factor_of(module.roles[name], bias=name in biases)
    return {name: factor for name, factor in found.items() if factor != 1.0}


def stitches(module: LoweredModule) -> set[str]:
    """Names of the trained factors of features: α of cross-stitch units, α and β of sluice networks.

    They take no weight decay: it pulls a weight to 0, and a factor of 0 is a feature that nobody reads any more, the
    task's own one too.
    """
    return {
        str(value.name)
        for node in module.nodes
        if node.op_type == "Mul"
        for _, value in ops.weight_slots(node)
        if role_of(value) is Role.FUSION
    }


def shares(module: LoweredModule) -> dict[str, float]:
    """Weight -> 1 / n, n being the number of tasks whose output depends on it (BMTAS, Supplementary A).

    A weight that n tasks use gets n times the gradients of one that a single task uses.
    """
    readers = Counter(name for task in module.tasks for name in module.read_by(task))
    return {name: 1.0 / readers[name] for name in module.parameters_with() if readers[name]}
