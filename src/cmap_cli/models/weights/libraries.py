"""Artefacts that no manifest lists: ``torchvision:NAME``, ``timm:NAME`` and ``hf:org/repo``."""

from __future__ import annotations

import re

from cmap_cli.errors import UsageError, WeightsError, pip_install
from cmap_cli.models.weights.documents import Artefact, DownloadSource, Kind
from cmap_cli.models.weights.manifest import find_artefact, read_manifest

LIBRARIES = ("torchvision", "timm", "hf")
ANY_SIZE = (1, 32 << 30)
REPOSITORY = re.compile(r"([\w.-]+/[\w.-]+)(?:@([\w.-]+))?")


def artefact_of(name: str, kind: Kind) -> Artefact:
    """The artefact of a name on the command line: an entry of the manifest or a library's model.

    Args:
        name: of the manifest, or ``torchvision:NAME``, ``timm:NAME``, ``hf:org/repo`` or ``hf:org/repo@revision``.
        kind: of artefact that is needed.

    Raises:
        UsageError: there is no model or classifier of that name.
        WeightsError: as UsageError, or the library is not installed.
    """
    library, _, rest = name.partition(":")
    if library == "torchvision" and kind == "classifier":
        return torchvision_artefact(rest)
    if library == "timm" and kind == "classifier":
        return timm_artefact(rest)
    if library == "hf":
        return repository_artefact(rest, kind)
    return find_artefact(name, kind)


def torchvision_artefact(name: str) -> Artefact:
    """A torchvision classifier with its default weights; the file's name holds the beginning of its hash."""
    listed = read_manifest().get(f"torchvision-{name}")
    if listed is not None:
        return listed
    import torchvision

    try:
        weights = torchvision.models.get_model_weights(name).DEFAULT
        transform = weights.transforms()
        shape, mean, std = (3, *transform.crop_size * 2), tuple(transform.mean), tuple(transform.std)
        short_side, interpolation = transform.resize_size[0], transform.interpolation.value
        categories = weights.meta["categories"]
    except (ValueError, AttributeError, KeyError) as error:
        raise UsageError(
            f"torchvision has no classifier {name}", "see torchvision.models.list_models(module=torchvision.models)"
        ) from error
    file = weights.url.rsplit("/", 1)[-1]
    digest = re.search(r"-([0-9a-f]{8})\.pth", file)
    source = DownloadSource(weights.url, "state-dict", ANY_SIZE, digest[1] if digest else "", file)
    return Artefact(
        name=f"torchvision-{name}",
        kind="classifier",
        architecture=f"torchvision:{name}",
        licence="BSD-3-Clause",
        page=f"https://docs.pytorch.org/vision/stable/models/generated/torchvision.models.{name}.html",
        sources=(source,),
        shape=shape,
        range=(0, 1),
        classes=len(categories),
        labels="imagenet1k",
        short_side=short_side,
        interpolation=interpolation,
        mean=mean,
        std=std,
        typed=f"torchvision:{name}",
    )


def timm_artefact(name: str) -> Artefact:
    """A timm classifier with pretrained weights on Hugging Face; normalisation and size as timm declares them."""
    try:
        import timm
    except ImportError as error:
        raise WeightsError(f"timm:{name} needs timm, which is not installed", pip_install("timm")) from error
    config = timm.models.get_pretrained_cfg(name, allow_unregistered=False) if timm.is_model(name) else None
    if config is None or not config.hf_hub_id:
        raise UsageError(f"timm has no pretrained classifier {name}", "see timm.list_models(pretrained=True)")
    # timm writes hf_hub_id "timm/" where the repository is called as the model
    repository = config.hf_hub_id + (name if config.hf_hub_id.endswith("/") else "")
    source = DownloadSource(
        f"hf:{repository}@main/model.safetensors", "safetensors", ANY_SIZE, "", f"timm-{name}.safetensors"
    )
    return Artefact(
        name=f"timm-{name}",
        kind="classifier",
        architecture=f"timm:{name}",
        licence=config.license or "see its page",
        page=f"https://huggingface.co/{repository}",
        sources=(source,),
        shape=tuple(config.input_size),
        range=(0, 1),
        classes=config.num_classes,
        labels="imagenet1k" if config.num_classes == 1000 else "",
        short_side=int(min(config.input_size[1:]) / config.crop_pct),
        interpolation="bilinear" if config.interpolation == "bilinear" else "bicubic",
        mean=tuple(config.mean),
        std=tuple(config.std),
        typed=f"timm:{name}",
    )


def repository_artefact(rest: str, kind: Kind) -> Artefact:
    """A repository of Hugging Face: a diffusers consistency model or a transformers image classifier."""
    match = REPOSITORY.fullmatch(rest)
    if match is None or ".." in rest:
        raise UsageError(f"hf:{rest} is no repository of Hugging Face", "hf:org/repo or hf:org/repo@revision")
    repository, revision = match[1], match[2] or "main"
    name = f"hf-{repository.replace('/', '--')}-{revision}"
    source = DownloadSource(f"hf:{repository}@{revision}", "hf-repository", ANY_SIZE, "", name)
    # the manifest's known-wrong files stay refused here
    refused = tuple(each for artefact in read_manifest().values() for each in artefact.refused)
    return Artefact(
        name=name,
        kind=kind,
        architecture="hf-repository",
        licence="see its page",
        page=f"https://huggingface.co/{repository}",
        sources=(source,),
        refused=refused,
        typed=f"hf:{rest}",
    )
