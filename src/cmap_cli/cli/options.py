"""Options that several commands share: the same concept has the same option everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cmap_cli.attacks.table import ATTACKS
from cmap_cli.choices import Method, Precision, Preset, Vote
from cmap_cli.cli import completion
from cmap_cli.cli.command import DETAILS_OF, output_folder, show_full_help

INPUT_OUTPUT = "Input and output"
THREAT = "Threat model"
METHOD = "Method"
RUNTIME = "Runtime"
THREAT_DETAILS = f"{DETAILS_OF} the threat model"
METHOD_DETAILS = f"{DETAILS_OF} the method"
RUNTIME_DETAILS = f"{DETAILS_OF} the runtime"


Out = Annotated[
    Path,
    typer.Option(
        *("--out", "-o"),
        help="Folder to write to.",
        metavar="DIR",
        parser=output_folder,
        rich_help_panel=INPUT_OUTPUT,
        show_default=False,
    ),
]
HelpAll = Annotated[
    bool,
    typer.Option("--help-all", is_eager=True, callback=show_full_help, help="Show this page with all options."),
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Discard what is in --out and start again.", rich_help_panel=INPUT_OUTPUT)
]
Json = Annotated[
    bool,
    typer.Option("--json", help="Print one JSON document on stdout, also on failure.", rich_help_panel=INPUT_OUTPUT),
]
Quiet = Annotated[
    bool,
    typer.Option("--quiet", "-q", help="Print nothing but the paths of what is written.", rich_help_panel=INPUT_OUTPUT),
]
Model = Annotated[
    str,
    typer.Option(
        help="auto takes cifar10-unet for pictures of 32×32 and photo-unet for all others. Or a consistency model: a "
        "name of cmap list models, a folder of cmap train or of diffusers, hf:org/repo, a TorchScript or torch.export "
        "file, package.module:factory.",
        metavar="NAME",
        autocompletion=completion.models,
        rich_help_panel=METHOD,
    ),
]
Classifier = Annotated[
    str | None,
    typer.Option(
        help="Classifies images before and after purification: a name of cmap list classifiers, torchvision:NAME, "
        "timm:NAME, hf:org/repo, folder of cmap train, ONNX, TorchScript or torch.export file, package.module:factory.",
        show_default=False,
        metavar="NAME",
        autocompletion=completion.classifiers,
        rich_help_panel=METHOD,
    ),
]
Normalisation = Annotated[
    str | None,
    typer.Option(
        help="What a classifier file expects of images in [0, 1]: none, cifar10, imagenet, half, or MEAN/STD "
        "such as 0.5,0.5,0.5/1,1,1.",
        show_default=False,
        metavar="NAME",
        rich_help_panel=METHOD_DETAILS,
    ),
]
ClassLabel = Annotated[
    str | None,
    typer.Option(
        "--class",
        help="For a class-conditional model: the class of all images, a number or a name that --classifier knows; "
        "by default what --classifier predicts.",
        show_default=False,
        metavar="NAME",
        rich_help_panel=METHOD_DETAILS,
    ),
]
PresetOption = Annotated[
    Preset,
    typer.Option(
        help="fast, balanced, paper or paper-imagenet100: how much is computed for each image.",
        metavar="NAME",
        rich_help_panel=METHOD,
    ),
]
MethodOption = Annotated[
    Method | None,
    typer.Option(
        "--method",
        help="optimise latents, or only denoise; instead of the preset's method.",
        show_default=False,
        rich_help_panel=METHOD_DETAILS,
    ),
]
DenoiseLevel = Annotated[
    float | None,
    typer.Option(
        min=0,
        help="Noise level t of the denoising, instead of the preset's; 0 for none after an optimisation.",
        metavar="T",
        show_default=False,
        rich_help_panel=METHOD_DETAILS,
    ),
]
Steps = Annotated[
    int | None,
    typer.Option(
        min=1, help="Optimisation steps, instead of the preset's.", metavar="N", rich_help_panel=METHOD_DETAILS
    ),
]
NumLatents = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Latents, or draws of noise, per image (K), instead of the preset's.",
        metavar="N",
        rich_help_panel=METHOD_DETAILS,
    ),
]
Seed = Annotated[int, typer.Option(help="Seed of the random numbers.", metavar="N", rich_help_panel=METHOD_DETAILS)]
Device = Annotated[
    str,
    typer.Option(
        envvar="CMAP_DEVICE",
        help="auto, cpu, cuda, cuda:1 or mps; auto takes an accelerator if there is one.",
        metavar="NAME",
        rich_help_panel=RUNTIME,
    ),
]
PrecisionOption = Annotated[
    Precision,
    typer.Option(
        help="What the network computes in; auto is bf16 where the hardware has it.", rich_help_panel=RUNTIME_DETAILS
    ),
]
BatchSize = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Images or patches per batch; by default what fits into memory.",
        show_default=False,
        metavar="N",
        rich_help_panel=RUNTIME_DETAILS,
    ),
]
WeightsDir = Annotated[
    Path | None,
    typer.Option(
        envvar="CMAP_WEIGHTS_DIR",
        help="Where downloaded weights are kept; by default the user's cache.",
        show_default=False,
        metavar="DIR",
        rich_help_panel=RUNTIME_DETAILS,
    ),
]
ShardOption = Annotated[
    str | None,
    typer.Option(
        "--shard",
        metavar="I/N",
        help="Do only shard I of N, from 1/N to N/N, for job arrays and CI; cmap merge combines them.",
        show_default="all; under torchrun each process takes its own",
        rich_help_panel=RUNTIME_DETAILS,
    ),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        "-n",
        help="Print what would be done and an estimate of the time; do nothing.",
        rich_help_panel=RUNTIME,
    ),
]
Verbose = Annotated[
    bool,
    typer.Option("--verbose", "-v", help="Print more about what is used and why.", rich_help_panel=RUNTIME_DETAILS),
]

Attacks = Annotated[
    list[str] | None,
    typer.Option(
        "--attack",
        help=f"{', '.join(ATTACKS)}, or NAME@ACCESS; repeat it for several attacks.",
        show_default="the protocol's",
        metavar="NAME",
        autocompletion=completion.attacks,
        rich_help_panel=THREAT,
    ),
]
Accesses = Annotated[
    list[str] | None,
    typer.Option(
        "--access",
        help="What the attacker knows: transfer (the bare classifier), surrogate (a one-step denoiser before it), bpda "
        "(the defence, its gradient replaced by the identity), white-box (the defence, differentiated), adaptive, "
        "black-box (the defence's scores).",
        show_default="the attack's own",
        metavar="ACCESS",
        autocompletion=completion.accesses,
        rich_help_panel=THREAT,
    ),
]
NormOption = Annotated[
    str,
    typer.Option(
        "--norm", help="Linf, L2 or L1.", metavar="NORM", autocompletion=completion.norms, rich_help_panel=THREAT
    ),
]
AttackSteps = Annotated[
    int,
    typer.Option(
        min=1,
        help="Steps of pgd and mdi-pgd (for publication 100 or more) and of hammer (30).",
        metavar="N",
        rich_help_panel=THREAT,
    ),
]
Restarts = Annotated[
    int, typer.Option(min=1, help="Random restarts of pgd and mdi-pgd.", metavar="N", rich_help_panel=THREAT_DETAILS)
]
EOT = Annotated[
    int,
    typer.Option(
        "--eot",
        min=1,
        help="Draws of the defence that each gradient averages; for publication 20.",
        metavar="N",
        rich_help_panel=THREAT,
    ),
]
Queries = Annotated[
    int, typer.Option(min=1, help="Queries of square; 5000 in AutoAttack.", metavar="N", rich_help_panel=THREAT_DETAILS)
]
DisruptionSteps = Annotated[
    int,
    typer.Option(min=5, help="Steps of disruption; 1000 in the paper.", metavar="N", rich_help_panel=THREAT_DETAILS),
]
Unroll = Annotated[
    str,
    typer.Option(
        help="How many of the last optimisation steps white-box gradients go back through: all, or a number.",
        metavar="N",
        rich_help_panel=THREAT_DETAILS,
    ),
]
Smoothing = Annotated[
    float,
    typer.Option(
        min=0,
        help="Width of the smoothing of |x| in white-box gradients, in units of [-1, 1]; 0 for the exact gradient.",
        metavar="WIDTH",
        rich_help_panel=THREAT_DETAILS,
    ),
]
Chunk = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Images attacked at once; an interruption loses the work on these.",
        show_default="1 on a CPU, 64 on CUDA",
        metavar="N",
        rich_help_panel=RUNTIME_DETAILS,
    ),
]
VoteOption = Annotated[
    Vote, typer.Option(help="How the candidates' predictions are combined.", rich_help_panel=METHOD_DETAILS)
]
Sigma = Annotated[
    float,
    typer.Option(
        help="Defence smoothed: standard deviation of its noise, for images in [0, 1].",
        metavar="SIGMA",
        rich_help_panel=METHOD_DETAILS,
    ),
]
Samples = Annotated[
    int,
    typer.Option(
        min=1,
        help="Defence smoothed: noisy samples in each vote.",
        metavar="N",
        rich_help_panel=METHOD_DETAILS,
    ),
]
