"""Options that several commands share: the same concept has the same option everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cmap_cli.attacks.table import ATTACKS
from cmap_cli.choices import FailOn, Precision, Preset, Vote

INPUT_OUTPUT = "Input and output"
THREAT = "Threat model"
METHOD = "Method"
RUNTIME = "Runtime"
CI = "Conditions for CI"

Out = Annotated[
    Path, typer.Option("--out", "-o", help="Folder to write to.", rich_help_panel=INPUT_OUTPUT, show_default=False)
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Forget what is in --out and start again.", rich_help_panel=INPUT_OUTPUT)
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
        help="Consistency model: a name of cmap download-weights --list, a folder of cmap train or of diffusers, "
        "hf:org/repo, a TorchScript or torch.export file, package.module:factory.",
        rich_help_panel=METHOD,
    ),
]
Classifier = Annotated[
    str | None,
    typer.Option(
        help="Classifies images before and after purification: a name of cmap download-weights --list, "
        "torchvision:NAME, timm:NAME, hf:org/repo, an ONNX, TorchScript or torch.export file, package.module:factory.",
        show_default=False,
        rich_help_panel=METHOD,
    ),
]
Normalisation = Annotated[
    str | None,
    typer.Option(
        help="What a classifier file expects of images in [0, 1]: none, cifar10, imagenet, half, or MEAN/STD as "
        "0.5,0.5,0.5/0.25,0.25,0.25.",
        show_default=False,
        rich_help_panel=METHOD,
    ),
]
ClassLabel = Annotated[
    str | None,
    typer.Option(
        "--class",
        help="For a class-conditional model: the class of all images, a number or a name that --classifier knows; "
        "by default what --classifier predicts.",
        show_default=False,
        rich_help_panel=METHOD,
    ),
]
PresetOption = Annotated[Preset, typer.Option(help="Settings of the optimisation.", rich_help_panel=METHOD)]
Steps = Annotated[
    int | None, typer.Option(min=1, help="Optimisation steps, instead of the preset's.", rich_help_panel=METHOD)
]
NumLatents = Annotated[
    int | None, typer.Option(min=1, help="Latents per image (K), instead of the preset's.", rich_help_panel=METHOD)
]
Seed = Annotated[int, typer.Option(help="Seed of the latents.", rich_help_panel=METHOD)]
Device = Annotated[
    str,
    typer.Option(
        envvar="CMAP_DEVICE",
        help="auto, cpu, cuda, cuda:1 or mps; auto takes the best there is.",
        rich_help_panel=RUNTIME,
    ),
]
PrecisionOption = Annotated[
    Precision,
    typer.Option(help="What the network computes in; auto is bf16 where the hardware has it.", rich_help_panel=RUNTIME),
]
BatchSize = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Images or patches per batch; by default what fits into memory.",
        show_default=False,
        rich_help_panel=RUNTIME,
    ),
]
WeightsDir = Annotated[
    Path | None,
    typer.Option(
        envvar="CMAP_WEIGHTS_DIR",
        help="Where downloaded weights are kept; by default the user's cache.",
        show_default=False,
        rich_help_panel=RUNTIME,
    ),
]
ShardOption = Annotated[
    str | None,
    typer.Option(
        "--shard",
        metavar="I/N",
        help="Do only shard I of N, from 1/N to N/N, for job arrays and CI; cmap merge combines them.",
        show_default="all; under torchrun each process takes its own",
        rich_help_panel=RUNTIME,
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
    bool, typer.Option("--verbose", "-v", help="Print more about what is used and why.", rich_help_panel=RUNTIME)
]

Attacks = Annotated[
    list[str] | None,
    typer.Option(
        "--attack",
        help=f"{', '.join(ATTACKS)}, or NAME@ACCESS; repeat it for several attacks.",
        show_default="the protocol's",
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
        rich_help_panel=THREAT,
    ),
]
NormOption = Annotated[str, typer.Option("--norm", help="Linf, L2 or L1.", rich_help_panel=THREAT)]
AttackSteps = Annotated[
    int, typer.Option(min=1, help="Steps of pgd; the reference is 100 or more.", rich_help_panel=THREAT)
]
Restarts = Annotated[int, typer.Option(min=1, help="Random restarts of pgd.", rich_help_panel=THREAT)]
EOT = Annotated[
    int,
    typer.Option(
        "--eot", min=1, help="Draws of the defence in every gradient; the reference is 20.", rich_help_panel=THREAT
    ),
]
Queries = Annotated[int, typer.Option(min=1, help="Of square; AutoAttack's is 5000.", rich_help_panel=THREAT)]
DisruptionSteps = Annotated[
    int, typer.Option(min=5, help="Of disruption; the paper's is 1000.", rich_help_panel=THREAT)
]
Unroll = Annotated[
    str,
    typer.Option(
        help="How many of the last optimisation steps white-box gradients go back through: all, or a number.",
        rich_help_panel=THREAT,
    ),
]
Smoothing = Annotated[
    float,
    typer.Option(
        min=0,
        help="Of the pixel term's kinks in white-box gradients, in units of [-1, 1]; 0 for the exact gradient.",
        rich_help_panel=THREAT,
    ),
]
Chunk = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Images attacked together; a run resumes at chunks, with 1 at every image.",
        show_default="8 on a CPU, 64 on CUDA",
        rich_help_panel=RUNTIME,
    ),
]
VoteOption = Annotated[Vote, typer.Option(help="How the candidates' predictions are combined.", rich_help_panel=METHOD)]
FailUnder = Annotated[
    list[str] | None,
    typer.Option(
        metavar="[ACCESS@EPS=]SHARE",
        help="Exit with 1 if robust accuracy is lower: 0.5, white-box@4/255=0.2 or 8/255@class:cat=0.1; repeat it for "
        "several conditions.",
        show_default=False,
        rich_help_panel=CI,
    ),
]
FailUnderClean = Annotated[
    float | None,
    typer.Option(min=0, max=1, help="Exit with 1 if defended clean accuracy is lower.", rich_help_panel=CI),
]
FailOnOption = Annotated[
    FailOn,
    typer.Option(
        "--fail-on", help="What must not be lower: the estimate, or its interval's lower end.", rich_help_panel=CI
    ),
]
FailOnFlags = Annotated[
    bool, typer.Option("--fail-on-flags", help="Exit with 1 if a masking check fires.", rich_help_panel=CI)
]
FailOnWeak = Annotated[
    bool,
    typer.Option(
        "--fail-on-weak",
        help="Exit with 1 if a budget is weak: few steps, queries, images or re-evaluations, one draw per gradient.",
        rich_help_panel=CI,
    ),
]
RequireAccess = Annotated[
    list[str] | None,
    typer.Option(
        "--require-access",
        help="Fail a run without attacks of this access; repeat it for several.",
        show_default=False,
        rich_help_panel=CI,
    ),
]
AcceptAccess = Annotated[
    list[str] | None,
    typer.Option(
        "--accept-access",
        help="Let --fail-under judge a run whose attacks do not go through the defence: transfer or surrogate.",
        show_default=False,
        rich_help_panel=CI,
    ),
]
Junit = Annotated[
    Path | None,
    typer.Option(help="Write the results as JUnit XML to this file.", show_default=False, rich_help_panel=CI),
]
Baseline = Annotated[
    Path | None,
    typer.Option(
        help="Folder or report.json of an earlier run on the same images to compare with, as cmap compare does.",
        show_default=False,
        rich_help_panel=CI,
    ),
]
FailOnRegression = Annotated[
    bool,
    typer.Option(
        "--fail-on-regression",
        help="Exit with 1 if the run is significantly worse than --baseline.",
        rich_help_panel=CI,
    ),
]
