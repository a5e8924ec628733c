"""Published certified accuracies, which the report shows beside those of a run; they were not measured here."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Reference:
    """A published result: name, ℓ2 radius, certified accuracy, and its source."""

    name: str
    radius: float
    value: float
    source: str


CIFAR10 = (
    Reference("Salman et al. 2020, classifier as it is", 0.25, 0.45, "arXiv 2003.01908, query access"),
    Reference("Cohen et al. 2019, classifier trained on noise", 0.25, 0.60, "arXiv 1902.02918"),
    Reference("Cohen et al. 2019, classifier trained on noise", 0.5, 0.43, "arXiv 1902.02918"),
    Reference("Carlini et al. 2022, large denoiser and ViT", 0.25, 0.767, "arXiv 2206.10550, as recalled, not checked"),
)
NOTE = "Quoted from the papers: other test images, larger networks, 100,000 samples per image. Not measured with cmap."


def references(dataset: str) -> tuple[Reference, ...]:
    """The published results for a data set."""
    return CIFAR10 if dataset == "cifar10" else ()
