"""Training of a classifier on denoised noisy images: batches, loss, and a loop that resumes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from cmap_cli.defenses.smoothing import NoisyClassifier
from cmap_cli.errors import SettingsMismatchError
from cmap_cli.files import append_text
from cmap_cli.models.preprocessing import PreparedClassifier
from cmap_cli.training.adapt_recipe import AdaptationConfig
from cmap_cli.training.checkpoint import CHECKPOINT, recipe_text, restore_checkpoint, save_checkpoint
from cmap_cli.training.loop import TrainingStep, held_out
from cmap_cli.training.optimisation import LOG, LOG_EVERY

CHANGEABLE = ("images", "decay", "checkpoint_every")
"""Fields that may differ when a run is continued: its length, and when the learning rate falls."""
STATISTICS = 10
"""Number of batches that batch normalisations get before the first iteration, to adapt to denoised images."""
MEASURED = 500
MEASURED_SEED = 1_000_000
MARGIN_OF = 32
SMALLEST = 1e-8


@dataclass(frozen=True, slots=True)
class LabelledImages:
    """Training images in memory.

    Attributes:
        x: uint8, (N, 3, H, W).
        y: their classes, (N,).
    """

    x: Tensor
    y: Tensor

    def split(self) -> tuple[LabelledImages, LabelledImages]:
        """Those to train on, and those to measure with: :func:`~cmap_cli.training.loop.held_out`."""
        (x, measured), (y, classes) = held_out(self.x), held_out(self.y)
        return LabelledImages(x, y), LabelledImages(measured[:MEASURED], classes[:MEASURED])


def noisy_batch(images: LabelledImages, config: AdaptationConfig, iteration: int) -> tuple[Tensor, Tensor, Tensor]:
    """Two noisy versions of each image of an iteration, their sigma, and the classes of the images, on the CPU.

    The batch depends only on seed and iteration, so a resumed run is exact. The first half of the noisy images has the
    first sample of noise of each image, the second half the second sample, in the same order.

    Returns:
        Noisy images (2·n, 3, H, W), not clipped; their sigma, (2·n,); the classes, (n,).
    """
    generator = Generator().manual_seed(config.seed * 1_000_003 + iteration)
    count = config.batch_size // 2
    index = torch.randint(len(images.x), (count,), generator=generator)
    x = images.x[index].float() / 255
    flip = torch.rand(count, generator=generator) < 0.5
    x = torch.where(flip[:, None, None, None], x.flip(-1), x)
    x = moved(x, config.margin * x.shape[2] // MARGIN_OF, generator).repeat(2, 1, 1, 1)
    chosen = torch.randint(len(config.sigmas), (count,), generator=generator)
    sigma = torch.tensor(config.sigmas)[chosen].repeat(2)
    noise = torch.randn(x.shape, generator=generator)
    return x + sigma[:, None, None, None] * noise, sigma, images.y[index]


def moved(x: Tensor, margin: int, generator: Generator) -> Tensor:
    """Move each image by up to ``margin`` pixels in both directions; the free border is filled by reflection."""
    if not margin:
        return x
    count, _, height, width = x.shape
    padded = F.pad(x, (margin,) * 4, mode="reflect")
    rows = torch.randint(2 * margin + 1, (count, 1), generator=generator) + torch.arange(height)
    columns = torch.randint(2 * margin + 1, (count, 1), generator=generator) + torch.arange(width)
    cut: Tensor = padded[torch.arange(count)[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    return cut.permute(0, 3, 1, 2)


def agreement_loss(logits: Tensor, labels: Tensor, agreement: float) -> Tensor:
    """Mean cross entropy, plus ``agreement`` times the mean KL divergence of both predictions from their mean.

    Args:
        logits: (2·n, classes), for the two samples of each image in the order of :func:`noisy_batch`.
        labels: (n,).
        agreement: weight of the divergence.
    """
    log_p = logits.float().view(2, len(labels), -1).log_softmax(-1)
    entropy = (F.nll_loss(log_p[0], labels) + F.nll_loss(log_p[1], labels)) / 2
    mean = log_p.exp().mean(0)
    divergence = (mean * (mean.clamp_min(SMALLEST).log() - log_p)).sum(-1).mean()
    return entropy + agreement * divergence


def kept_layers(network: nn.Module, share: float) -> frozenset[str]:
    """Names of the network's first layers that together have at most this share of the weights."""
    sizes = {name: sum(each.numel() for each in part.parameters()) for name, part in network.named_children()}
    total, so_far, kept = sum(sizes.values()), 0, []
    for name, size in sizes.items():
        so_far += size
        if so_far > share * total:
            break
        kept.append(name)
    return frozenset(kept)


@dataclass(frozen=True, slots=True)
class AdaptationRun:
    """The state of a run.

    Attributes:
        config: the recipe.
        noisy: denoiser and classifier; the classifier is trained.
        optimiser: optimiser of the classifier's weights.
        folder: folder of the checkpoint and the log.
        facts: values that must be equal when the run is continued, besides the recipe.
    """

    config: AdaptationConfig
    noisy: NoisyClassifier
    optimiser: torch.optim.SGD
    folder: Path
    facts: Mapping[str, object]

    @property
    def recipe(self) -> str:
        """What a checkpoint must have been made with."""
        return recipe_text(self.config, CHANGEABLE, self.facts)

    @property
    def networks(self) -> dict[str, nn.Module]:
        """What has weights that change, by name."""
        return {"classifier": self.noisy.classifier}

    def resume(self) -> tuple[int, float]:
        """Iterations done and seconds taken, from the checkpoint if there is one; errors as of its ``restore``."""
        path = self.folder / CHECKPOINT
        if not path.exists():
            return 0, 0.0
        done, seconds = restore_checkpoint(path, self.recipe, self.networks, {"sgd": self.optimiser})
        if done > self.config.iterations:
            raise SettingsMismatchError(
                f"{path} has {done} iterations already, more than {self.config.iterations}",
                "train for as long or longer, or start again with --overwrite",
            )
        return done, seconds

    def save(self, iteration: int, seconds: float) -> None:
        """Write the checkpoint."""
        path = self.folder / CHECKPOINT
        save_checkpoint(path, iteration, self.recipe, self.networks, {"sgd": self.optimiser}, seconds)

    def denoised(self, images: LabelledImages, iteration: int) -> tuple[Tensor, Tensor]:
        """Denoised images of an iteration, and the classes, on the device."""
        x, sigma, y = noisy_batch(images, self.config, iteration)
        device = next(self.noisy.classifier.parameters()).device
        with torch.no_grad():
            clean = self.noisy.denoise(x.to(device), sigma.to(device))
        return clean.contiguous(memory_format=torch.channels_last), y.to(device)

    def loss(self, images: LabelledImages, iteration: int) -> Tensor:
        """The loss of an iteration."""
        x, y = self.denoised(images, iteration)
        dtype = self.noisy.dtype
        with torch.autocast(x.device.type, dtype, enabled=dtype != torch.float32):
            logits = self.noisy.classifier(x)
        return agreement_loss(logits, y, self.config.agreement)

    def update(self, iteration: int, loss: Tensor) -> None:
        """One step down the loss's gradient."""
        self.optimiser.zero_grad()
        self.optimiser.param_groups[0]["lr"] = self.config.lr_at(iteration)
        torch.autograd.backward(loss)
        self.optimiser.step()

    def log(self, **values: object) -> None:
        """Append a line to training.jsonl."""
        append_text(self.folder / LOG, json.dumps(values) + "\n")

    def find_statistics(self, images: LabelledImages) -> None:
        """Bring the statistics of batch normalisations to denoised images."""
        dtype = self.noisy.dtype
        for number in range(STATISTICS):
            x, _ = self.denoised(images, -1 - number)
            with torch.no_grad(), torch.autocast(x.device.type, dtype, enabled=dtype != torch.float32):
                self.noisy.classifier(x)

    def accuracy(self, images: LabelledImages) -> dict[float, float]:
        """Share of noisy images that are classified correctly, by sigma; one sample of noise each."""
        self.noisy.eval()
        device = next(self.noisy.classifier.parameters()).device
        found = {}
        with torch.no_grad():
            for level in sorted(set(self.config.sigmas)):
                generator, right = Generator().manual_seed(MEASURED_SEED), 0
                for x, y in zip(torch.split(images.x, 64), torch.split(images.y, 64), strict=True):
                    noisy = x.float() / 255 + level * torch.randn(x.shape, generator=generator)
                    logits = self.noisy(noisy.to(device), torch.full((len(x),), level, device=device))
                    right += int((logits.argmax(1).cpu() == y).sum())
                found[level] = round(right / len(images.x), 4)
        self.noisy.classifier.train()
        return found


def start_adaptation(
    config: AdaptationConfig, noisy: NoisyClassifier, folder: Path, facts: Mapping[str, object]
) -> AdaptationRun:
    """A run before its first iteration; sets the classifier to training mode and freezes its first layers."""
    classifier = noisy.classifier
    assert isinstance(classifier, PreparedClassifier)
    network = classifier.network.to(memory_format=torch.channels_last)
    kept = kept_layers(network, config.kept)
    weights = [each for name, each in network.named_parameters() if name.partition(".")[0] not in kept]
    for each in weights:
        each.requires_grad_(True)
    classifier.train()
    optimiser = torch.optim.SGD(weights, config.lr, 0.9, weight_decay=config.weight_decay, nesterov=True)
    return AdaptationRun(config, noisy, optimiser, folder, facts)


def adapt(
    run: AdaptationRun, images: LabelledImages, on_progress: Callable[[TrainingStep], None]
) -> tuple[dict[str, dict[float, float]], float]:
    """Train. The same call, or one with more images, continues from the checkpoint in the run's folder.

    The classifier is in evaluation mode and frozen afterwards.

    Args:
        run: from :func:`start_adaptation`.
        images: training images; every 100th is held out to measure accuracy.
        on_progress: called after every iteration.

    Returns:
        The accuracy on held-out images before and after training, by sigma; the seconds of training of all runs.

    Raises:
        SettingsMismatchError: the checkpoint is of another recipe.
        WeightsError: the checkpoint is damaged.
    """
    config, (trained, measured) = run.config, images.split()
    accuracy = {"before": run.accuracy(measured)}
    start, before = run.resume()
    if not start:
        run.find_statistics(trained)
    seconds, began = before, time.monotonic() - before
    for iteration in range(start, config.iterations):
        loss = run.loss(trained, iteration)
        run.update(iteration, loss)
        done, seconds = iteration + 1, time.monotonic() - began
        on_progress(TrainingStep(done, config.iterations, loss.detach()))
        if done % LOG_EVERY == 0:
            run.log(iteration=done, seconds=round(seconds, 1), loss=float(loss), lr=config.lr_at(iteration))
        if done % config.checkpoint_every == 0 or done == config.iterations:
            run.save(done, seconds)
    accuracy["after"] = run.accuracy(measured)
    run.log(iteration=config.iterations, seconds=round(seconds, 1), held_out=accuracy)
    run.noisy.classifier.eval().requires_grad_(False)
    return accuracy, seconds
