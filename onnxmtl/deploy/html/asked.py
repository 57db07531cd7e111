"""What a run was asked to do, in words, from its run.json."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping
from typing import Any

from onnxmtl.deploy.runfiles import RunFiles


def command_line(run: RunFiles) -> str:
    """The command as typed, the program by its name only; "" if the run was started from Python."""
    words = run.record.get("command")
    if not isinstance(words, list) or not words:
        return ""
    return shlex.join([os.path.basename(str(words[0])), *map(str, words[1:])])


def recipe_words(config: Mapping[str, Any]) -> str:
    """The recipe with its variant, preset and what was left out of it."""
    text = str(config.get("recipe", ""))
    if config.get("variant"):
        text += f", variant {config['variant']}"
    if config.get("preset"):
        text += f", preset {config['preset']}"
    if config.get("without"):
        text += f", without {', '.join(map(str, config['without']))}"
    if config.get("policy") == "random":
        text += ", random policy"
    return text


def asked(run: RunFiles) -> list[tuple[str, str]]:
    """Terms and what was asked; "" where there is nothing to say."""
    config = run.config
    stages = config.get("with_recipe", {}).get("stages", []) if isinstance(config.get("with_recipe"), dict) else []
    regularizers = config.get("with_recipe", {}).get("regularizers") if stages else None
    return [
        ("backbone", _backbone(run)),
        ("tasks", _tasks(config, run.tasks)),
        ("data", _data(config)),
        ("recipe", recipe_words(config)),
        ("space", str(config.get("with_recipe", {}).get("space", "")) if stages else ""),
        ("stages", ", ".join(_stage(stage) for stage in stages if isinstance(stage, dict))),
        ("regularizers", _pairs(regularizers)),
        ("budget", str(config.get("budget") or "none")),
        ("loss weighting", "" if config.get("weighting", "static") == "static" else str(config["weighting"])),
        ("architecture", "given with --architecture" if config.get("architecture") is not None else ""),
        ("steps", str(config.get("steps") or "")),
        ("batch size", str(config.get("batch_size") or "")),
        ("seed", str(run.record.get("seed", ""))),
        ("started", str(run.record.get("started", "")).replace("T", " ").replace("+00:00", " UTC")),
    ]


def versions(run: RunFiles) -> list[tuple[str, str]]:
    """Packages and their versions at the run's start."""
    found = run.record.get("versions")
    return sorted((str(k), str(v)) for k, v in found.items()) if isinstance(found, dict) else []


def _backbone(run: RunFiles) -> str:
    name = run.source("name")
    weights = run.source("weights")
    kind = run.source("kind")
    return name + (f" ({kind})" if kind and name else "") + (f" with {os.path.basename(weights)}" if weights else "")


def _tasks(config: Mapping[str, Any], names: tuple[str, ...]) -> str:
    try:
        tasks = config["tasks"]
        content = json.loads(tasks) if isinstance(tasks, str) else tasks
        parts = []
        for task in content["tasks"]:
            weight = task.get("weight", 1.0)
            more = f", weight {weight:g}" if weight != 1 else ""
            parts.append(f"{task['name']} ({task['kind']}, {task['channels']} channels{more})")
        return "; ".join(parts)
    except (KeyError, TypeError, ValueError):
        return ", ".join(names)


def _data(config: Mapping[str, Any]) -> str:
    text = str(config.get("data", ""))
    sizes = [f"{config[k]} {w}" for k, w in (("train_size", "to train"), ("val_size", "to validate")) if config.get(k)]
    options = _pairs(config.get("data_options"))
    return "; ".join(part for part in (text, ", ".join(sizes), options) if part)


def _stage(stage: Mapping[str, Any]) -> str:
    share = stage.get("share")
    return f"{stage.get('name')}{f' {share:.0%}' if isinstance(share, int | float) else ''}"


def _pairs(values: Any) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items()) if isinstance(values, dict) else ""
