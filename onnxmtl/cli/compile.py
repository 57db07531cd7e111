"""``onnxmtl compile``: the main job."""

from __future__ import annotations

import enum
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from onnxmtl.cli.console import (
    Accelerator,
    AcceleratorOption,
    DevicesOption,
    JsonOption,
    QuietOption,
    SeedOption,
    TrainingProgress,
    check_devices,
    is_follower,
    tell_run,
)
from onnxmtl.cli.importing import (
    BACKBONE,
    BatchNorm,
    BatchNormOption,
    Dialect,
    DialectOption,
    FeaturesOption,
    InputSizeOption,
    OutputStrideOption,
    parse_size,
    split_names,
)
from onnxmtl.cli.training_options import (
    RUN,
    SEARCH,
    TRAINING,
    AtOption,
    BatchSizeOption,
    BlocksOption,
    CheckpointEveryOption,
    DataOption,
    DataSettingsOption,
    Float16Option,
    FuseSiblingsOption,
    PresetOption,
    ResumeOption,
    SearchInputSizeOption,
    SharedPrefixOption,
    SpaceOption,
    TasksOption,
    TrainSizeOption,
    ValSizeOption,
    VariantOption,
    WeightingOption,
    check_resume,
    parse_blocks,
    parse_options,
    parse_space,
    parse_weights,
)


class Norm(enum.StrEnum):
    """What a normalization does when its operator chooses."""

    FOLLOW = "follow"
    PER_TASK = "per_task"


class SkipForm(enum.StrEnum):
    """How an operator is skipped."""

    AUTO = "auto"
    GROUPED = "grouped1x1"
    DENSE = "dense1x1"
    NONE = "none"


class Granularity(enum.StrEnum):
    """What makes one site."""

    OP = "op"
    BLOCK = "block"


class PolicySource(enum.StrEnum):
    """Where the architecture comes from."""

    LEARNED = "learned"
    RANDOM = "random"


class Relaxed(enum.StrEnum):
    """What Choices do while the policy is trained."""

    SOFTMAX = "softmax"
    GUMBEL = "gumbel"
    HARD_GUMBEL = "hard-gumbel"


class Heads(enum.StrEnum):
    """Of networks that are given one per task."""

    OWN = "own"
    NEW = "new"


class Retrain(enum.StrEnum):
    """The selected model's weights before its last stage."""

    INHERIT = "inherit"
    SCRATCH = "scratch"


def compile_command(
    models: Annotated[
        list[Path],
        typer.Argument(
            help="The backbone, an .onnx or a .prototxt file; or one trained network per task, in the tasks' order.",
            metavar="MODEL...",
        ),
    ],
    tasks: TasksOption,
    data: DataOption = "scenes",
    data_option: DataSettingsOption = None,
    weights: Annotated[
        list[Path] | None,
        typer.Option(help="The .caffemodel of a .prototxt (repeatable, in their order).", rich_help_panel=BACKBONE),
    ] = None,
    dialect: DialectOption = Dialect.AUTO,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Run directory; new or empty.", show_default="runs/compile-N", rich_help_panel=RUN
        ),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            help="Search method: automtl, adashare, bmtas, mtlnas; cross-stitch, sluice, nddr and mtan are given "
            "architectures; treemtl trains a --layout.",
            show_default="automtl, or treemtl with --layout",
            rich_help_panel=SEARCH,
        ),
    ] = None,
    variant: VariantOption = "",
    preset: PresetOption = "",
    without: Annotated[
        list[str] | None,
        typer.Option(
            "--without",
            help="Leave out regularizer, curriculum, warm-up, networks, sparsity, sharing, entropy or cost "
            "(repeatable).",
            rich_help_panel=SEARCH,
        ),
    ] = None,
    relaxation: Annotated[
        Relaxed | None,
        typer.Option(
            help="Of the policy while it is learnt: softmax (its probabilities), gumbel (a soft sample), hard-gumbel.",
            show_default="the recipe's",
            rich_help_panel=SEARCH,
        ),
    ] = None,
    policy: Annotated[
        PolicySource,
        typer.Option(help="random: nothing is searched, the architecture is drawn.", rich_help_panel=SEARCH),
    ] = PolicySource.LEARNED,
    budget: Annotated[
        str,
        typer.Option(
            help="Limits of the emitted model, as params<=0.6x,madds<=12M,latency<=4ms.", rich_help_panel=SEARCH
        ),
    ] = "",
    weighting: WeightingOption = "static",
    steps: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Steps of the whole search; stages take shares of it.",
            show_default="preset's or 400",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    batch_size: BatchSizeOption = None,
    features: FeaturesOption = None,
    output_stride: OutputStrideOption = 0,
    input_size: InputSizeOption = None,
    search_input_size: SearchInputSizeOption = None,
    blocks: BlocksOption = None,
    at: AtOption = None,
    batchnorm: BatchNormOption = BatchNorm.KEEP,
    heads: Annotated[
        Heads | None,
        typer.Option(
            help="Of one network per task: keep their own heads, or attach new ones.",
            show_default="own",
            rich_help_panel=BACKBONE,
        ),
    ] = None,
    norm: Annotated[
        Norm | None, typer.Option(help="Normalization follows its operator, or is per task.", rich_help_panel=SEARCH)
    ] = None,
    skip: Annotated[SkipForm | None, typer.Option(help="How an operator is skipped.", rich_help_panel=SEARCH)] = None,
    granularity: Annotated[
        Granularity | None, typer.Option(help="One site per operator, or with activation.", rich_help_panel=SEARCH)
    ] = None,
    shared_prefix: SharedPrefixOption = None,
    space_option: SpaceOption = None,
    regularizer: Annotated[
        list[str] | None,
        typer.Option(
            "--regularizer",
            help="NAME=WEIGHT, as multiply_adds=0.5, or latency=1 for time measured on this machine (repeatable).",
            rich_help_panel=SEARCH,
        ),
    ] = None,
    architecture: Annotated[
        Path | None,
        typer.Option(
            help="Train this architecture.json (of a run, or AutoMTL's policy) instead of searching one.",
            rich_help_panel=SEARCH,
        ),
    ] = None,
    layout: Annotated[
        Path | None,
        typer.Option(
            help="Train this tree, a layout.json as `recommend` writes it, instead of searching.",
            rich_help_panel=SEARCH,
        ),
    ] = None,
    samples: Annotated[
        int,
        typer.Option(
            min=0, help="Draw so many architectures, take the best; 0: the recipe's way.", rich_help_panel=SEARCH
        ),
    ] = 0,
    decode_prefix: Annotated[
        int,
        typer.Option(
            min=0, help="Share the first N sites whatever the policy says.", metavar="N", rich_help_panel=SEARCH
        ),
    ] = 0,
    retrain: Annotated[
        Retrain | None,
        typer.Option(
            help="The selected model goes on with the search's weights, or starts from scratch.", rich_help_panel=SEARCH
        ),
    ] = None,
    train_size: TrainSizeOption = 0,
    val_size: ValSizeOption = 0,
    baselines: Annotated[
        str,
        typer.Option(
            help="Trained for comparison, once: single-task, hard-sharing, random, random-cost, of trees also "
            "permutations, vanilla; or none.",
            rich_help_panel=TRAINING,
        ),
    ] = "single-task,hard-sharing",
    random_draws: Annotated[
        int, typer.Option(min=1, help="Random architectures of each kind.", rich_help_panel=TRAINING)
    ] = 8,
    fold: Annotated[
        bool, typer.Option("--fold/--no-fold", help="Fold normalization into convolutions.", rich_help_panel=RUN)
    ] = True,
    fuse_siblings: FuseSiblingsOption = False,
    float16: Float16Option = False,
    checkpoint_every: CheckpointEveryOption = 50,
    resume: ResumeOption = False,
    tensorboard: Annotated[
        Path | None, typer.Option(help="Write TensorBoard event files into this directory.", rich_help_panel=RUN)
    ] = None,
    trace_passes: Annotated[
        Path | None,
        typer.Option(help="Write the model after each graph pass into this directory.", rich_help_panel=RUN),
    ] = None,
    seed: SeedOption = 0,
    devices: DevicesOption = 1,
    accelerator: AcceleratorOption = Accelerator.AUTO,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Turn one backbone, or a network per task, and several tasks into one multi-task ONNX model.

    Imports the backbone, builds a supermodel with every sharing pattern, searches it on data, trains what was found,
    emits model.onnx, checks it in ONNX Runtime and reports. A run that was stopped goes on with --resume and ends
    with the same bytes.

    Example: onnxmtl compile samples/backbones/resnet18-small.onnx --tasks seg=segmentation,depth,normals
    Example: onnxmtl compile net.onnx --tasks nyuv2.toml --data nyuv2:PATH --recipe adashare --budget "params<=0.6x"
    Example: onnxmtl compile seg.onnx depth.onnx --tasks seg=segmentation,depth --recipe mtlnas
    """
    space: dict[str, Any] = {
        "norm": norm,
        "skip": skip,
        "granularity": granularity,
        "shared_prefix": shared_prefix,
        "groups": parse_blocks(blocks),
        "at": at,
    }
    size, search_size = parse_size(input_size), parse_size(search_input_size, "--search-input-size")
    settings = parse_space(space_option or [])
    pulls, options = parse_weights(regularizer or []), parse_options(data_option or [])
    check_resume(resume, output)
    check_devices(devices)

    from onnxmtl.passes.instruments import DumpOnnx
    from onnxmtl.workflows import CompileConfig, compile
    from onnxmtl.workflows.tensorboard import tensorboard as event_files

    config = CompileConfig(
        recipe=recipe or CompileConfig.recipe,
        variant=variant,
        preset=preset,
        without=split_names(without),
        relaxation=relaxation.value if relaxation else "",
        policy=policy.value,
        budget=budget,
        weighting=weighting,
        data=data,
        data_options=options,
        steps=steps or 0,
        batch_size=batch_size or 0,
        seed=seed,
        features=split_names(features),
        output_stride=output_stride,
        batchnorm=batchnorm.value,
        heads=heads.value if heads else "",
        input_size=size,
        search_input_size=search_size,
        space={k: getattr(v, "value", v) for k, v in space.items() if v is not None} | settings,
        regularizers=pulls,
        samples=samples,
        shared_prefix=decode_prefix,
        retrain=retrain.value if retrain else "",
        train_size=train_size,
        val_size=val_size,
        baselines=split_names([baselines]),
        random_draws=random_draws,
        fold=fold,
        fuse_siblings=fuse_siblings,
        float16=float16,
    )
    follower = is_follower(devices)  # says nothing, and writes nothing
    with (
        TrainingProgress(quiet=quiet or json or follower) as progress,
        event_files(progress, None if follower else tensorboard) as observer,
    ):
        done = compile(
            models[0] if len(models) == 1 else models,
            tasks,
            config,
            weights=weights,
            dialect=dialect.value,
            recipe=recipe,
            architecture=architecture,
            layout=layout,
            out=output,
            resume=resume,
            observer=observer,
            instruments=[DumpOnnx(trace_passes)] if trace_passes and not follower else [],
            command=sys.argv,
            checkpoint_every=checkpoint_every,
            devices=devices,
            accelerator=accelerator.value,
        )
    if not follower:
        tell_run(done, json=json, quiet=quiet)
