"""Runs the stages of a recipe: what a step is, for weights and for the policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from onnxmtl.analysis.table import SiteTable
from onnxmtl.cost.expected import MAX_TASKS, ExpectedCost
from onnxmtl.data import split
from onnxmtl.ir import Role
from onnxmtl.lowering import Draw, LoweredModule, together
from onnxmtl.policy.budget import Absolute
from onnxmtl.runs import Checkpoints
from onnxmtl.search.best import BestPolicy
from onnxmtl.search.recipe import Recipe, Stage
from onnxmtl.search.regularizers import TIMED, PolicyView, regularizer, separate_multiply_adds
from onnxmtl.search.relaxations import (
    average_draw,
    by_site,
    decided,
    gumbel_weights,
    harden,
    logits_by_site,
    own_branch_draw,
    shared_draw,
    softmax_weights,
)
from onnxmtl.search.setting import TRAIN_STREAM, Losses, Setting, figures, seed_dropout
from onnxmtl.search.training import rates, stitches, train_weights
from onnxmtl.train.history import History
from onnxmtl.train.loop import Listener, fit
from onnxmtl.train.optimizers import build_optimizer, set_lr
from onnxmtl.train.recalibrate import initial_statistics
from onnxmtl.train.weighting import WeightingSpec

__all__ = ["TRAIN_STREAM", "SearchStage", "Setting", "train_weights"]

CERTAIN = 30.0
"""By how much the logit of an option that is always taken is above the others': no draw will take them."""

_COSTS = 50  # times that the expected cost is told in one stage
_DECIDING = ("softmax", "gumbel", "hard-gumbel")  # relaxations in which the policy decides


class SearchStage:
    """One stage that trains a supermodel: weight steps, policy steps, or both in turns.

    In a weight step the policy takes no gradient; in a policy step the weights take none, so that Choices can use dot
    products (:mod:`onnxmtl.lowering.mixing`). Policy steps use the part of the training data held out for them.
    Where nothing is to be decided (one task, or all sites forced to be shared) policy steps do nothing. Sites that do
    not decide yet run as in a hard draw: option 0, once for all tasks that come there with the same value.

    Args:
        module: The supermodel, changed in place.
        table: Its sites.
        recipe: For the regularizers.
        stage: What to do.
        setting: Data, seed, device.
        steps: How many steps the stage has.
        limits: The run's budget; costs beyond it are paid for in policy steps if the recipe has the regularizer
            ``budget``.
        weighting: How the tasks' losses are weighed.
        times: The table with measured times, for the regularizer ``latency`` and limits on it.
    """

    def __init__(
        self,
        module: LoweredModule,
        table: SiteTable,
        recipe: Recipe,
        stage: Stage,
        setting: Setting,
        steps: int,
        limits: Sequence[Absolute] = (),
        weighting: WeightingSpec | str | None = None,
        times: SiteTable | None = None,
    ) -> None:
        self.module, self.table, self.recipe, self.stage = module, table, recipe, stage
        self.setting, self.steps = setting, steps
        self.losses = Losses(module, setting, weighting, recipe.penalties if stage.weights else None)
        weights_of = dict(recipe.regularizers)
        options = {name: dict(settings) for name, settings in recipe.regularizer_options.items()}
        if "budget" in weights_of:
            options["budget"] = {**options.get("budget", {}), "limits": tuple(limits), "times": times}
        if TIMED in weights_of:
            options[TIMED] = {**options.get(TIMED, {}), "times": times}
        self.regularizers = [
            (weight, name, regularizer(name, table, options.get(name))) for name, weight in weights_of.items()
        ]
        policy = module.parameters_with(Role.LOGITS)
        self.logits = list(policy.values())
        added = self.losses.weighting.parameters()
        others = {name: p for name, p in module.parameters_with().items() if name not in policy} | added
        self.weights = list(others.values())
        self.optimizers: dict[str, torch.optim.Optimizer] = {}
        if stage.weights is not None:
            heads = module.parameters_with(Role.HEAD)
            self.optimizers["weights"] = build_optimizer(
                stage.weights,
                others,
                heads=heads,
                undecayed={*added, *stitches(module)},
                factors=rates(module, stage.weights),
            )
        if stage.policy is not None and policy:
            self.optimizers["policy"] = build_optimizer(stage.policy, policy)
        train = setting.data.train
        self.data = {"weights": train, "policy": train}
        if stage.alternates and stage.holdout > 0:
            kept, held = split(train, 1.0 - stage.holdout, setting.seed)
            self.data = {"weights": kept, "policy": held}
        epochs = (setting.epoch(self.data["policy"]), setting.epoch(self.data["weights"]))
        self.schedule = stage.schedule(steps, epochs)
        self.statistics = initial_statistics(module.nodes) if "statistics" in stage.reset else {}
        known = policy and len(table.tasks) <= MAX_TASKS
        self.best = (
            BestPolicy(module, setting, setting.held(stage.holdout)) if stage.keep == "best" and policy else None
        )
        self._cost = (ExpectedCost(table), separate_multiply_adds(table)) if known else None

    def run(self, checkpoints: Checkpoints | None = None, listener: Listener | None = None) -> History:
        """Train in place; the module is left in evaluation mode with all gradients switched on.

        Returns:
            Losses, regularizers, temperature, learning rates and expected cost over the steps.
        """
        self.module.train()
        try:
            history = fit(self.module, self.optimizers, self.step, self.steps, checkpoints=checkpoints,
                          every=self.setting.checkpoint_every, listener=listener, also=self)  # fmt: skip
            if self.best is not None:
                self.best.restore()
            self._settle()
            return history
        finally:
            for parameter in (*self.weights, *self.logits):
                parameter.requires_grad_(True)
            self.module.eval()

    def _settle(self) -> None:
        """Sites that never came to decide took option 0 for sure all the time: after the search the policy says so."""
        last = next((n for n in reversed(range(self.steps)) if self.schedule.is_policy(n)), None)
        searching = [stage.name for stage in self.recipe.stages if stage.policy is not None]
        if self.stage.curriculum is None or last is None or searching[-1:] not in ([], [self.stage.name]):
            return
        deciding = set(self.active(last))
        with torch.no_grad():
            for site in self.table.sites:
                for task in self.table.tasks_at(site) if site.index not in deciding else ():
                    logits = self.module.weight(self.module.logits[site.id, task])
                    logits[0] = logits.max() + CERTAIN

    def state(self) -> dict[str, torch.Tensor]:
        """What later steps depend on besides the module and the optimizers."""
        best = {} if self.best is None else self.best.state()
        found = {f"weighting/{name}": tensor for name, tensor in self.losses.weighting.state().items()}
        return found | {f"best/{name}": tensor for name, tensor in best.items()}

    def load(self, state: Mapping[str, torch.Tensor]) -> None:
        """Go on from what :meth:`state` returned."""
        parts: dict[str, dict[str, torch.Tensor]] = {"weighting": {}, "best": {}}
        for name, tensor in state.items():
            part, _, rest = name.partition("/")
            parts[part][rest] = tensor
        self.losses.weighting.load(parts["weighting"])
        if self.best is not None:
            self.best.load(parts["best"])

    def step(self, number: int) -> Mapping[str, float]:
        """One update, or one per task; a function of the state and `number`."""
        part = "policy" if self.schedule.is_policy(number) else "weights"
        spec = self.stage.policy if part == "policy" else self.stage.weights
        if spec is None or part not in self.optimizers:
            return {}
        if self.schedule.turns.begins(number):
            self._begin(part)
        lr = spec.lr_at(self.schedule.place(number), self.schedule.reference)
        set_lr(self.optimizers[part], lr)
        for parameter in self.weights:
            parameter.requires_grad_(part == "weights")
        for parameter in self.logits:
            parameter.requires_grad_(part == "policy")
        told = {f"lr/{part}": lr}
        relaxation = self.stage.relaxation_of(part)
        if relaxation in ("gumbel", "hard-gumbel"):
            told["temperature"] = self.schedule.temperature_at(number)
        if self.stage.curriculum is not None and relaxation in _DECIDING:
            told["active"] = float(len(self.active(number)))
        if self.stage.sequential in (True, part):
            for task in self.setting.tasks.names:
                told |= self._update(number, part, task)
        else:
            told |= self._update(number, part)
        if self.best is not None and self.schedule.judged_after(number, len(self.table.sites)):
            told |= self.best.judge()
        return told

    def _begin(self, part: str) -> None:
        """A turn begins: what the stage resets begins afresh."""
        if part in self.stage.reset:
            self.optimizers[part].state.clear()
        if part == "weights":
            for name, value in self.statistics.items():
                self.module.weight(name).fill_(value)

    def _update(self, number: int, part: str, task: str = "") -> dict[str, float]:
        """One update for all tasks, or for one of them on images of its own."""
        if part == "weights" or not self.statistics:
            return self._updated(number, part, task)
        kept = {name: self.module.weight(name).clone() for name in self.statistics}
        try:
            return self._updated(number, part, task)
        finally:
            for name, tensor in kept.items():
                self.module.weight(name).copy_(tensor)

    def _updated(self, number: int, part: str, task: str) -> dict[str, float]:
        setting = self.setting.alone(task) if task else self.setting
        stream = f"{self.stage.name}/{part}" + (f"/{task}" if task else "")
        optimizer = self.optimizers[part]
        seed_dropout(setting, stream, number)
        draw = self.draw(number, part)
        found = self.losses.of(setting.batches(self.data[part], stream, self.schedule.turn_place(number)), draw)
        told = figures("policy" if part == "policy" else "loss", found, self.stage.name, number, self.steps)
        optimizer.zero_grad(set_to_none=True)
        if part == "weights":
            told |= self.losses.backward(found, number, self.steps)
        else:
            total = self.losses.weighting.total(found)
            view = self.view(number, draw, setting.tasks.names)
            for weight, name, function in self.regularizers:
                value = function(view)
                total = total + together.once((weight * value).to(total.dtype))
                told |= figures("regularizer", {name: value}, self.stage.name, number, self.steps)
            told |= self._expected_cost(number, view)
            if not total.requires_grad:  # no task of this update comes by a site that decides
                return told
            self.setting.fabric.backward(total)
            together.sum_gradients(self.logits)
        optimizer.step()
        return told

    def active(self, number: int) -> tuple[int, ...]:
        """Indices of the sites that decide in step `number`: the last ones of the table."""
        sites = len(self.table.sites)
        return tuple(range(sites - self.schedule.active_at(number, sites), sites))

    def draw(self, number: int, part: str) -> Draw:
        """What the Choices do in step `number`."""
        if self.stage.relaxation == "average":
            return average_draw(self.module)
        if self.stage.relaxation == "shared":
            return shared_draw(self.module)
        if self.stage.relaxation == "own-branch":
            return own_branch_draw(self.module, self.table.tasks)
        relaxation = self.stage.relaxation_of(part)
        draw = self._sample(number, "gumbel", relaxation)
        return harden(draw) if relaxation == "hard-gumbel" and part == "weights" else draw

    def view(self, number: int, draw: Draw, tasks: Sequence[str]) -> PolicyView:
        """The policy as regularizers see it in step `number`, in which `tasks` learn."""
        if self.stage.sample == "fresh":
            draw = self._sample(number, "regularizer", self.stage.relaxation_of("policy"))
        return PolicyView(
            by_site(self.table, draw, tasks),
            logits_by_site(self.table, self.module, tasks),
            self.active(number),
            number / max(self.steps - 1, 1),
        )

    def _sample(self, number: int, stream: str, relaxation: str) -> Draw:
        if relaxation == "softmax":
            weights = softmax_weights(self.module)
        else:
            temperature = self.schedule.temperature_at(number)
            seed, stage = self.setting.seed, self.stage.name
            weights = gumbel_weights(self.module, temperature, seed=seed, stage=stage, step=number, stream=stream)
        deciding = set(self.active(number))
        return decided(weights, {site.id for site in self.table.sites if site.index not in deciding})

    def _expected_cost(self, number: int, view: PolicyView) -> dict[str, float]:
        """The expected multiply-adds of the policy as a share of separate models', now and then."""
        turns = self.schedule.turns
        every = max(1, round(turns.policy_steps(self.steps)) // _COSTS)
        if self._cost is None or round(turns.policy_steps(number)) % every:
            return {}
        cost, separate = self._cost
        with torch.no_grad():
            return {"cost": float(cost.multiply_adds(view.probabilities, like=view.zero())) / separate}
