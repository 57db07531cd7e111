"""An ONNX graph as a trainable torch module, and its weights back into the graph."""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import onnx_ir as ir
import torch
from torch import nn

from onnxmtl import ops
from onnxmtl.errors import ModelError
from onnxmtl.ir import Role, choices, role_of
from onnxmtl.lowering.draw import Draw, SiteTask
from onnxmtl.lowering.mixing import find_mixers, weighted_sum
from onnxmtl.lowering.ops import Context, check_supported
from onnxmtl.lowering.ops.reading import torch_tensor
from onnxmtl.lowering.program import Plan, build_program, hard_plan, soft_plan
from onnxmtl.lowering.sizes import baked_size, size_of

Mixing = Literal["auto", "always", "never"]
_PLANS_KEPT = 256


class LoweredModule(nn.Module):
    """What :func:`to_torch` returns. ``module(images)`` gives ``{task: raw output}``.

    Only what the asked tasks need runs. For a supermodel, `draw` says what the Choices do; without one they follow
    their logits, as the ONNX graph does.

    Args:
        model: The graph: a backbone, multi-task model or supermodel whose operators are all supported.
        dtype: Float type of weights and constants.
        mixing: ``auto`` lets Choices sink into weights where that is expected to pay, ``always`` where it is possible,
            ``never`` runs every option by itself (the plain way). Equal in real arithmetic.
    """

    def __init__(self, model: ir.Model, *, dtype: torch.dtype = torch.float32, mixing: Mixing = "auto") -> None:
        super().__init__()
        check_supported(model.graph)
        if len(model.graph.inputs) != 1:
            names = ", ".join(str(v.name) for v in model.graph.inputs) or "none"
            msg = f"the model needs exactly one input, the image; it has: {names}"
            raise ModelError(msg)
        self.tasks = tuple(str(v.name) for v in model.graph.outputs)
        self.mixing = mixing
        self.roles: dict[str, Role] = {}
        self.logits: dict[SiteTask, str] = {}
        self.options: dict[SiteTask, tuple[str, ...]] = {}
        for choice in choices(model.graph):
            self.logits[choice.site, choice.task] = str(choice.logits.name)
            self.options[choice.site, choice.task] = choice.names
        self._program = build_program(model)
        self._size = size_of(model.graph.inputs[0])
        self._mixers = {} if mixing == "never" else find_mixers(self._program)
        self._plans: OrderedDict[Any, Plan] = OrderedDict()
        self._deciding: dict[tuple[str, ...], frozenset[SiteTask]] = {}
        # Weights come last: they may be called anything, but not as what is set above.
        self._torch_names: dict[str, str] = {}
        trainable = ops.trainable_values(model.graph)
        for name, value in model.graph.initializers.items():
            self._add_weight(name, value, value in trainable and not ops.is_frozen(value), dtype)

    def _add_weight(self, name: str, value: ir.Value, trainable: bool, dtype: torch.dtype) -> None:
        if value.const_value is None:
            msg = f"initializer {name!r} has no data"
            raise ModelError(msg)
        tensor = torch_tensor(value.const_value)
        role = role_of(value)
        if tensor.is_floating_point():
            tensor = tensor.to(dtype)
        torch_name = name.replace(".", "/")
        while torch_name in self._parameters or torch_name in self._buffers or hasattr(self, torch_name):
            torch_name += "_"
        if tensor.is_floating_point() and (trainable or role is Role.LOGITS):
            self.register_parameter(torch_name, nn.Parameter(tensor))
        else:
            self.register_buffer(torch_name, tensor)
        self._torch_names[name] = torch_name
        self.roles[name] = role

    def weight(self, name: str) -> torch.Tensor:
        """The parameter or buffer of an initializer, by the initializer's name."""
        torch_name = self._torch_names[name]
        found = self._parameters.get(torch_name)
        tensor = found if found is not None else self._buffers[torch_name]
        assert tensor is not None
        return tensor

    def parameters_with(self, *roles: Role) -> dict[str, nn.Parameter]:
        """Initializer name -> parameter, of the given roles (all if none is given)."""
        return {
            name: parameter
            for name, torch_name in self._torch_names.items()
            if (parameter := self._parameters.get(torch_name)) is not None and (not roles or self.roles[name] in roles)
        }

    def tensors(self) -> dict[str, torch.Tensor]:
        """Initializer name -> parameter or buffer."""
        return {name: self.weight(name) for name in self._torch_names}

    @property
    def nodes(self) -> tuple[ir.Node, ...]:
        """The graph's nodes, in order. Read-only."""
        return tuple(op.node for op in self._program.ops)

    @property
    def has_choices(self) -> bool:
        """Whether this is a supermodel."""
        return bool(self.logits)

    def forward(
        self, images: torch.Tensor, tasks: Sequence[str] | None = None, draw: Draw | None = None
    ) -> dict[str, torch.Tensor]:
        """Raw outputs of the asked tasks (default: all) for images [N, C, H, W].

        Height and width may differ from the exported ones where nothing in the graph depends on them.

        Raises:
            ModelError: They differ, and a node has the exported size in it; names the node.
        """
        asked = self.tasks if tasks is None else tuple(tasks)
        soft: Mapping[SiteTask, torch.Tensor] = {}
        if not self.has_choices:
            plan = self._plan(("fixed", asked), lambda: hard_plan(self._program, asked, {}))
        elif draw is not None and draw.options is not None:
            soft = draw.weights or {}
            plan = self._decided(asked, draw, int(images.shape[0]))
        else:
            weights = None if draw is None else draw.weights
            soft = weights if weights is not None else self._from_logits()
            plan = self._soft(asked, int(images.shape[0]))
        try:
            return self._run(plan, images, soft)
        except RuntimeError as error:
            exported = self._size
            if isinstance(error, torch.OutOfMemoryError) or exported in (None, tuple(images.shape[2:])):
                raise
            with torch.no_grad():
                shapes: dict[int, torch.Size] = {}
                with contextlib.suppress(RuntimeError):
                    self._run(plan, images, soft, shapes)
            assert exported is not None
            raise baked_size(self._program, plan, images, exported, shapes) from error

    def _from_logits(self) -> dict[SiteTask, torch.Tensor]:
        return {key: torch.softmax(self.weight(name), -1) for key, name in self.logits.items()}

    def _decided(self, asked: tuple[str, ...], draw: Draw, batch: int) -> Plan:
        """The plan of a draw that decides all Choices, or some of them."""
        deciding = self._decided_for(asked)
        options = {key: option for key, option in (draw.options or {}).items() if key in deciding}
        soft = draw.weights or {}
        missing = [key for key in self.logits if key in deciding and key not in options and key not in soft]
        if missing:
            msg = f"the draw says nothing for site {missing[0][0]!r}, task {missing[0][1]!r}"
            raise ValueError(msg)
        return self._plan(
            ("decided", asked, batch if soft else 0, tuple(sorted(options.items()))),
            lambda: hard_plan(self._program, asked, options, self._mixed(batch) if soft else None),
        )

    def _decided_for(self, asked: tuple[str, ...]) -> frozenset[SiteTask]:
        """What is decided on the way to the asked outputs: also for other tasks, where one reads another (fusion)."""
        if asked not in self._deciding:
            steps = soft_plan(self._program, asked, {}).steps
            self._deciding[asked] = frozenset(step.op.choice for step in steps if step.op.choice is not None)
        return self._deciding[asked]

    def _soft(self, asked: tuple[str, ...], batch: int) -> Plan:
        return self._plan(("soft", asked, batch), lambda: soft_plan(self._program, asked, self._mixed(batch)))

    def _mixed(self, batch: int) -> dict[int, tuple[int, ...]]:
        """The Choices that run through their mixer, and what these read."""
        return {
            index: mixer.reads for index, mixer in self._mixers.items() if self.mixing == "always" or mixer.pays(batch)
        }

    def read_by(self, task: str) -> frozenset[str]:
        """Names of the initializers that the task's output depends on, whatever is drawn."""
        plan = self._plan(("read", task), lambda: soft_plan(self._program, (task,), {}))
        weights = self._program.weights
        return frozenset(weights[number] for step in plan.steps for number in step.inputs if number in weights)

    def _plan(self, key: Any, make: Any) -> Plan:
        plan: Plan | None = self._plans.get(key)
        if plan is None:
            plan = make()
            self._plans[key] = plan
            if len(self._plans) > _PLANS_KEPT:
                self._plans.popitem(last=False)
        else:
            self._plans.move_to_end(key)
        return plan

    def _run(
        self,
        plan: Plan,
        images: torch.Tensor,
        soft: Mapping[SiteTask, torch.Tensor],
        shapes: dict[int, torch.Size] | None = None,
    ) -> dict[str, torch.Tensor]:
        """Walk the plan's steps. `shapes` is filled with what was computed, by number; for explaining a failure."""
        program = self._program
        values: list[Any] = [None] * (program.count + 1)  # the last place stands for an omitted input (-1)
        values[program.input] = images
        for number, name in program.weights.items():
            values[number] = self.weight(name)
        context = Context(training=self.training)
        for step in plan.steps:
            op = step.op
            # Kernels move the statistics they are given; those that have moved already are given as copies.
            taken = [values[i].clone() if i in step.settled else values[i] for i in step.inputs]
            if op.choice is not None:
                p = soft[op.choice]
                if step.mixed:
                    mixer = self._mixers[op.index]
                    # Decided Choices hand on what they chose, under its own number.
                    read = dict(zip(mixer.reads, taken, strict=True))
                    result: Any = mixer(read, p, context)
                else:
                    result = weighted_sum(taken[:-1], p)
            else:
                assert op.kernel is not None
                result = op.kernel(taken, context)
            if isinstance(result, tuple):
                for number, tensor in zip(op.outputs, result, strict=False):
                    values[number] = tensor
            else:
                values[op.outputs[0]] = result
            if shapes is not None:
                shapes.update((n, values[n].shape) for n in op.outputs if isinstance(values[n], torch.Tensor))
            for number in step.release:
                values[number] = None
        return {task: values[number] for task, number in plan.outputs.items()}


def to_torch(model: ir.Model, *, dtype: torch.dtype = torch.float32, mixing: Mixing = "auto") -> LoweredModule:
    """Lower a graph to a trainable module. The model is not changed.

    Raises:
        ModelError: Operators without lowering (all listed at once), more than one input, weights without data.
    """
    return LoweredModule(model, dtype=dtype, mixing=mixing)


def write_back(module: LoweredModule, model: ir.Model) -> None:
    """Store the module's floats in the model's initializers, by name, in their own data type.

    Raises:
        ValueError: The model has an initializer the module does not know, or of another shape.
    """
    for name, value in model.graph.initializers.items():
        if value.const_value is None or not value.const_value.dtype.is_floating_point():
            continue
        tensor = module.weight(name).detach().cpu()
        if tuple(tensor.shape) != tuple(value.const_value.shape.numpy()):
            msg = f"initializer {name!r} has shape {value.const_value.shape}, the module has {tuple(tensor.shape)}"
            raise ValueError(msg)
        array = tensor.numpy().astype(value.const_value.dtype.numpy())
        value.const_value = ir.tensor(array, name=name)
