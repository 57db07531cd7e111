"""The phase ``decode``: from the policy to an architecture and the model that it selects."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import onnx_ir as ir

from onnxmtl import ir as graphs
from onnxmtl.analysis.sites import site_table
from onnxmtl.deploy.explain import write_diagnostics
from onnxmtl.deploy.results import DrawResult
from onnxmtl.errors import BudgetError
from onnxmtl.lowering import LoweredModule, write_back
from onnxmtl.policy import Architecture, Layout, Policy, count_layouts
from onnxmtl.policy.budget import Absolute
from onnxmtl.runs import atomic_write, read_json, write_json
from onnxmtl.train.delta import delta
from onnxmtl.workflows.phases import limits as budgets
from onnxmtl.workflows.phases.candidates import begins_shared, distinct, perturbed, propose, scores, with_prefix
from onnxmtl.workflows.phases.job import Job
from onnxmtl.workflows.session import Metrics, write_metrics

POLICY_FILE, CANDIDATES_FILE = "policy.json", "candidates.json"


@dataclasses.dataclass(frozen=True)
class Decision:
    """What was decided.

    Attributes:
        architecture: What the tasks share.
        selected: Its model with the weights of the search; running statistics recalibrated.
        sentence: How it was decided.
    """

    architecture: Architecture
    selected: ir.Model
    sentence: str


def decode(
    job: Job,
    supermodel: ir.Model,
    *,
    given: Architecture | None = None,
    limits: Sequence[Absolute] = (),
    single: Metrics | None = None,
    source: str = "",
) -> Decision:
    """Choose an architecture, select it and recalibrate its normalizations.

    Args:
        job: The run.
        supermodel: With the weights and logits of the search.
        given: The architecture, if it is known already.
        limits: What the emitted model may cost.
        single: Metrics of single-task models, for the candidates' Δ.
        source: The stage that the policy is from; "random" for a policy that is not learnt.
    """
    session, recipe = job.session, job.recipe
    table = site_table(supermodel)
    policy = Policy.uniform(table) if source == "random" else Policy.of_model(supermodel, table)

    def work(folder: Path) -> None:
        counts, sentence = ({given: 1}, "given") if given is not None else _candidates(job, policy, limits, source)
        found: list[tuple[Architecture, Metrics]] = []
        judged: list[Metrics] = []
        held = session.setting.held(recipe.holdout) if len(counts) > 1 else None
        for architecture in counts:
            selected, module = _selected(job, supermodel, architecture)
            found.append((architecture, session.evaluate(module)))
            if held is not None:  # the validation set chooses nothing
                judged.append(session.evaluate(module, dataset=held))
        ranks = scores(session.tasks, judged) if judged else [0.0]
        best = max(range(len(found)), key=ranks.__getitem__)
        architecture, metrics = found[best]
        if len(found) > 1:
            selected, _ = _selected(job, supermodel, architecture)
        atomic_write(folder / "architecture.json", architecture.to_json().encode())
        graphs.save(selected, folder / "selected.onnx")
        write_metrics(folder, metrics)
        write_diagnostics(folder, select=selected)
        if source:
            write_json(folder / POLICY_FILE, policy_to_json(policy, source))
        rows = []
        for i, (candidate, values) in enumerate(found):
            costs = job.graphs.costs_of(candidate)
            change = delta(session.tasks, values, single) if single is not None else None
            row = DrawResult(
                source="given" if given is not None or job.graphs.layout is not None else "policy",
                metrics=values,
                parameters=costs.parameters,
                multiply_adds=costs.multiply_adds,
                delta=change.tasks if change is not None else {},
                total=change.total if change is not None else None,
                count=counts[candidate],
                taken=i == best,
            )
            rows.append({**row.to_json(), "architecture": candidate.to_dict(), "score": ranks[i]})
        write_json(folder / CANDIDATES_FILE, rows)
        write_json(folder / "decoding.json", {"sentence": sentence, "candidates": len(rows)})

    folder = session.phase(
        "decode",
        work,
        decoder=recipe.decoder,
        samples=recipe.samples,
        with_argmax=recipe.with_argmax,
        holdout=recipe.holdout,
        given=None if given is None else given.to_dict(),
        limits=[dataclasses.asdict(limit) for limit in limits],
    )
    architecture = Architecture.from_json((folder / "architecture.json").read_text())
    return Decision(
        architecture, graphs.load(folder / "selected.onnx"), str(read_json(folder / "decoding.json")["sentence"])
    )


def given_layout(layout: Layout) -> str:
    """That the tree was given, in words, with the number that TreeMTL's code has for it."""
    return f"the layout was given (number {layout.number} of {count_layouts(len(layout.tasks), len(layout.groups))})"


def _selected(job: Job, supermodel: ir.Model, architecture: Architecture) -> tuple[ir.Model, LoweredModule]:
    """The model of an architecture and its module, the running statistics recalibrated."""
    selected = job.graphs.select(supermodel, architecture)
    module = job.session.module(selected)
    job.session.recalibrate(module, selected)
    write_back(module, selected)
    return selected, module


def _candidates(
    job: Job, policy: Policy, limits: Sequence[Absolute], source: str
) -> tuple[dict[Architecture, int], str]:
    """Architecture -> how often it was drawn, and how they were found, in words."""
    recipe, config = job.recipe, job.session.config
    if not policy.table.sites:
        layout = job.graphs.layout
        return {Architecture({}): 1}, "nothing to decide" if layout is None else given_layout(layout)
    prefix = max(recipe.shared_prefix, config.shared_prefix)
    draws = recipe.samples if recipe.decoder == "sample" else 0
    if source == "random":
        draws = max(1, config.samples)
    policy = with_prefix(policy, prefix) if prefix else policy
    word = "random policy" if source == "random" else "policy"
    shown = f", the first {prefix} sites forced to share" if prefix else ""
    if not limits:
        drawn = propose(policy, samples=draws, with_argmax=recipe.with_argmax and source != "random", seed=config.seed)
        how = f"the best of {draws} draws from the {word}" if draws else f"the most probable architecture of the {word}"
        return distinct(policy, drawn), how + shown
    policies = [policy] if not draws or (recipe.with_argmax and source != "random") else []
    policies += [perturbed(policy, config.seed, draw) for draw in range(draws)]
    counts: dict[Architecture, int] = {}
    sentence = ""
    for one in policies:
        fitted = budgets.fit(job.graphs, one, limits)
        if not begins_shared(fitted.architecture, policy, prefix):
            msg = f"{', '.join(map(str, limits))}: not with the first {prefix} sites forced to share; force fewer"
            raise BudgetError(msg)
        counts[fitted.architecture] = counts.get(fitted.architecture, 0) + 1
        sentence = sentence or fitted.sentence
    if draws:
        sentence = f"the best of {draws} draws from the {word} within the budget"
    return distinct(policy, counts), sentence + shown


def policy_to_json(policy: Policy, source: str) -> dict[str, object]:
    """A policy as JSON values; rows in the order of the site's ``tasks``, columns in that of its ``options``."""
    table = policy.table
    sites = []
    for site, logits, probabilities in zip(table.sites, policy.logits, policy.probabilities(), strict=True):
        names = table.tasks_at(site)
        rows = [table.tasks.index(name) for name in names]
        sites.append(
            {
                "id": site.id,
                "depth": site.depth,
                "options": list(site.option_names),
                "tasks": list(names),
                "logits": logits[rows].tolist(),
                "probabilities": probabilities[rows].tolist(),
            }
        )
    return {"tasks": list(table.tasks), "sites": sites, "source": source}
