"""Attacks on classifiers whose worst case is known, and what all attacks have to keep to."""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence

import numpy as np
import pyautoattack
import pytest
import torch
from pyautoattack import checks
from torch import Tensor, nn

from cmap_cli.attacks.autoattack import UNKNOWN, AutoAttack, phrase, recorded_flags
from cmap_cli.attacks.disruption import ConsistencyDisruption
from cmap_cli.attacks.gradients import margin
from cmap_cli.attacks.noise import RandomNoise
from cmap_cli.attacks.pgd import PGD, fgsm, paper_pgd, resized_at_random
from cmap_cli.attacks.threat import ThreatModel, parse_threat
from cmap_cli.attacks.types import Attack
from cmap_cli.choices import Norm
from cmap_cli.core.purifier import Purifier
from cmap_cli.core.settings import PurifyConfig
from cmap_cli.defenses.base import Passes
from cmap_cli.defenses.jpeg import Undefended
from cmap_cli.defenses.purified import DefendedClassifier
from cmap_cli.errors import UsageError
from cmap_cli.models.networks.gaussian import GaussianConsistency
from tests.attack_toys import ConvClassifier, LinearClassifier, Noisy, images, templates
from tests.toys import BrightnessClassifier, IsotropicGaussian

NORMS: list[Norm] = ["Linf", "L2", "L1"]
EPS: dict[Norm, str] = {"Linf": "8/255", "L2": "0.5", "L1": "5"}
PURIFIER = Purifier(IsotropicGaussian(), PurifyConfig(num_latents=3, steps=3))


def threat(norm: Norm, eps: str | None = None) -> ThreatModel:
    return parse_threat(norm, eps or EPS[norm])


def own_labels(classifier: nn.Module, x: Tensor) -> Tensor:
    return classifier(x).argmax(1)


def cheap_attacks(norm: Norm) -> list[Attack]:
    model = threat(norm)
    disruption = ConsistencyDisruption(model, PURIFIER, ConvClassifier(), first=2, total=4, evaluations=2)
    pgd = PGD(model, "white-box", steps=5, restarts=2, eot=2, loss="margin")
    apgd = AutoAttack(model, "white-box", "apgd-ce", n_iter=5, n_restarts=1)
    return [
        pgd,
        fgsm(model, "white-box"),
        RandomNoise(model),
        apgd,
        AutoAttack(model, "black-box", "square", n_queries=10),
        disruption,
    ]


CHEAP = [pytest.param(attack, id=f"{norm}-{attack.name}") for norm in NORMS for attack in cheap_attacks(norm)]


@pytest.mark.parametrize("attack", CHEAP)
def test_results_are_in_the_ball_and_depend_on_the_seed_alone(attack: Attack) -> None:
    x, model = images(3, size=1.5)[0], Noisy(ConvClassifier(), 0.02)  # some pixels at 0 and 1
    x[0, :, :2] = 0.0
    x[1, :, :2] = 1.0
    y = own_labels(model.classifier, x)
    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    state = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    first = attack.run(model, x, y, 0)
    assert torch.equal(torch.get_rng_state(), state[0])
    assert (np.random.get_state()[1].tolist(), random.getstate()) == state[1:]
    torch.manual_seed(2), np.random.seed(2), random.seed(2)
    again = attack.run(model, x, y, 0)
    assert torch.equal(first.x_adv, again.x_adv)
    assert torch.equal(first.reported_success, again.reported_success)
    assert attack.threat.distance(first.x_adv, x).max() <= attack.threat.eps * (1 + 1e-6)  # type: ignore[attr-defined]
    assert first.x_adv.min() >= 0
    assert first.x_adv.max() <= 1
    assert first.reported_success.shape == (3,)
    assert not first.x_adv.requires_grad


@pytest.mark.parametrize("attack", [PGD(threat("Linf"), "white-box", steps=3), RandomNoise(threat("L2"))])
def test_another_seed_gives_another_result(attack: Attack) -> None:
    x, y = images(2)
    model = LinearClassifier()
    assert not torch.equal(attack.run(model, x, y, 0).x_adv, attack.run(model, x, y, 1).x_adv)


@pytest.mark.parametrize("loss", ["ce", "margin"])
@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_pgd_finds_the_worst_case_of_a_linear_classifier(norm: Norm, loss: str) -> None:
    x, y = images(6, classes=2)
    model, t = LinearClassifier(2), threat(norm, "0.02" if norm == "Linf" else "0.1")
    w = (model.weight[1 - y] - model.weight[y]).reshape(x.shape)
    step = w.sign() if norm == "Linf" else w / w.flatten(1).norm(dim=1)[:, None, None, None]
    for random_start in (False, True):
        found = PGD(t, "white-box", steps=40, random_start=random_start, loss=loss).run(model, x, y, 0)  # type: ignore[arg-type]
        worst, reached, clean = (margin(model(z), y) for z in (x + t.eps * step, found.x_adv, x))
        # in L2 a little of a random start's own direction is left after 40 steps
        missing = 0.02 * (worst - clean).min() if norm == "L2" and random_start else 1e-4
        assert (worst - reached).abs().max() < missing


def test_momentum_finds_the_same_worst_case_and_carries_over_a_flat_place() -> None:
    x, y = images(6, classes=2)
    model, t = LinearClassifier(2), threat("Linf", "0.02")
    w = (model.weight[1 - y] - model.weight[y]).reshape(x.shape)
    found = PGD(t, "white-box", steps=40, momentum=1.0).run(model, x, y, 0)
    assert (margin(model(x + t.eps * w.sign()), y) - margin(model(found.x_adv), y)).abs().max() < 1e-4

    class Step(nn.Module):
        """Rises up to 0.52, is flat from there, and is wrong above 0.58."""

        def forward(self, x: Tensor) -> Tensor:
            level = x.mean((1, 2, 3))
            rising = level.clamp(max=0.52) - 1 + 2 * (level > 0.58)
            return torch.stack([-rising, rising], 1)

    grey, zero = torch.full((1, 3, 8, 8), 0.5), torch.tensor([0])
    plain, moving = (
        PGD(threat("Linf", "0.1"), "white-box", steps=10, step=0.1, random_start=False, momentum=momentum)
        for momentum in (0.0, 1.0)
    )
    assert not plain.run(Step(), grey, zero, 0).reported_success.any()
    assert moving.run(Step(), grey, zero, 0).reported_success.all()


def test_input_diversity_shows_smaller_images_on_black() -> None:
    x = torch.ones(20, 3, 32, 32)
    generators = [torch.Generator().manual_seed(seed) for seed in range(20)]
    assert torch.equal(resized_at_random(x, generators, 0.0), x)
    inside = x.clone().requires_grad_()
    shown = resized_at_random(inside, generators, 0.5)
    whole = (shown == 1).all(3).all(2).all(1)
    assert 4 <= int(whole.sum()) <= 16
    for image in shown[~whole]:
        rows, columns = (image[0] > 0).any(1).sum(), (image[0] > 0).any(0).sum()
        assert rows == columns and 25 <= int(rows) <= 32
        assert float(image.detach().sum()) == pytest.approx(3 * int(rows) ** 2)
    assert (torch.autograd.grad(shown.sum(), inside)[0].flatten(1) > 0).any(1).all()


def test_pgd_in_l1_spends_its_radius_on_the_pixels_that_count() -> None:
    x, y = images(6, classes=2)
    model, t = LinearClassifier(2), threat("L1", "0.2")
    gain = margin(model(PGD(t, "white-box").run(model, x, y, 0).x_adv), y) - margin(model(x), y)
    w = (model.weight[1 - y] - model.weight[y]).abs()
    assert (gain <= t.eps * w.amax(1) + 1e-4).all()
    assert (gain >= t.eps * w.topk(2).values.mean(1) * 0.9).all()


def test_fgsm_is_one_step_of_length_eps_from_the_image() -> None:
    x, y = images(4, classes=2)
    model, t = LinearClassifier(2), threat("Linf", "0.02")
    w = (model.weight[1 - y] - model.weight[y]).reshape(x.shape)
    torch.testing.assert_close(fgsm(t, "white-box").run(model, x, y, 0).x_adv, x + 0.02 * w.sign())
    assert fgsm(t, "white-box").name == "FGSM"


def test_the_papers_pgd_is_as_published() -> None:
    pgd = paper_pgd(threat("Linf"), "surrogate")
    assert (pgd.steps, pgd.step, pgd.random_start, pgd.eot, pgd.restarts) == (200, 1 / 200, False, 20, 1)
    assert pgd.name == "PGD-200+EOT20"


def test_pgd_prefers_an_image_that_fools_to_one_of_higher_loss() -> None:
    class Ring(nn.Module):
        """Wrong at one brightness on the way only; beyond it all ten classes are close, so the loss is higher."""

        def forward(self, x: Tensor) -> Tensor:
            brightness = x.mean((1, 2, 3))[:, None] - 0.5
            inside = (brightness - 0.02).abs() < 0.005
            rival, others = torch.where(inside, 0.01, -0.2), torch.where(inside, -50.0, -0.2).expand(-1, 8)
            return torch.cat([0 * brightness, rival + brightness, others + brightness], 1)

    x, y = torch.full((1, 3, 8, 8), 0.5), torch.tensor([0])
    found = PGD(threat("Linf", "0.1"), "white-box", steps=10, step=0.1, random_start=False).run(Ring(), x, y, 0)
    assert found.reported_success.all()
    assert nn.functional.cross_entropy(Ring()(x + 0.1), y) > nn.functional.cross_entropy(Ring()(found.x_adv), y)


def test_one_lucky_draw_is_no_success() -> None:
    class Moody(nn.Module):
        """Wrong in three of ten draws, whatever it is shown."""

        def reseed(self, seeds: Sequence[int]) -> None:
            self.generator = torch.Generator().manual_seed(seeds[0])

        def forward(self, x: Tensor) -> Tensor:
            right = torch.rand((len(x), 1), generator=self.generator) > 0.3
            return torch.cat([right.float(), 1 - right.float()], 1) + 0 * x.mean((1, 2, 3))[:, None]

    x, _ = images(8)
    result = PGD(threat("Linf"), "bpda", steps=20, eot=60).run(Moody(), x, torch.zeros(8, dtype=torch.int64), 0)
    assert not result.reported_success.any()


def test_the_defects_of_gradients_are_counted_and_survived() -> None:
    class Root(nn.Module):
        """An infinite slope where a pixel is 0, no slope in the lower half."""

        def forward(self, x: Tensor) -> Tensor:
            score = x[:, :, :4].sqrt().mean((1, 2, 3))
            return torch.stack([score, -score], 1)

    x = torch.full((2, 3, 8, 8), 0.5)
    x[:, :, 0] = 0
    pgd = PGD(threat("Linf"), "white-box", steps=1, random_start=False)
    result = pgd.run(Root(), x, torch.zeros(2, dtype=torch.int64), 0)
    assert result.x_adv.isfinite().all()
    assert result.diagnostics is not None
    assert result.diagnostics.non_finite == 3 * 2 * 3 * 8  # three gradients: one step and two for the cosine
    assert result.diagnostics.zero_share == 0.5
    assert result.diagnostics.cosine == pytest.approx(1)


def test_the_cosine_tells_noise_from_signal() -> None:
    (x, y), pgd = images(4), PGD(threat("Linf"), "white-box", steps=1)
    still, restless = (pgd.run(Noisy(ConvClassifier(4), std), x, y, 0).diagnostics for std in (0.0, 3.0))
    assert still is not None
    assert restless is not None
    assert still.cosine == pytest.approx(1)
    assert restless.cosine < 0.9


def test_noise_has_the_whole_radius() -> None:
    x = torch.full((3, 3, 8, 8), 0.5)
    for norm in NORMS:
        noise = RandomNoise(threat(norm)).run(ConvClassifier(), x, torch.zeros(3, dtype=torch.int64), 0).x_adv - x
        assert threat(norm).distance(noise, 0 * x).tolist() == pytest.approx([threat(norm).eps] * 3, rel=1e-4)
    linf = RandomNoise(threat("Linf")).run(ConvClassifier(), x, torch.zeros(3, dtype=torch.int64), 0).x_adv - x
    torch.testing.assert_close(linf.abs(), torch.full_like(x, 8 / 255))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("version", ["apgd-ce", "apgd-t", "fab-t", "square"])
def test_autoattack_is_pyautoattacks_bit_for_bit(version: str, norm: Norm) -> None:
    x, classifier = images(4)[0], ConvClassifier()
    y = own_labels(classifier, x)
    attack = AutoAttack(threat(norm), "transfer", version, n_iter=10, n_restarts=1, n_queries=50)  # type: ignore[arg-type]
    direct = pyautoattack.AutoAttack(
        classifier, norm=norm, eps=threat(norm).eps, seed=3, version="custom", attacks=[version]
    )
    for apgd in (direct.apgd, direct.apgd_targeted):
        apgd.n_iter, apgd.n_iter_orig, apgd.n_restarts = 10, 10, 1
        apgd.n_iter_2, apgd.n_iter_min, apgd.size_decr = 2, 1, 1
    direct.fab.n_iter = 10
    direct.square.n_queries = 50
    with torch.random.fork_rng():  # image by image, as the random numbers of a batch depend on all of it
        parts = [direct.run_standard_evaluation(x[i : i + 1], y[i : i + 1], batch_size=1) for i in range(len(x))]
    expected, labels = (torch.cat(each) for each in zip(*parts, strict=True))
    for model in (classifier, Undefended(classifier)):
        result = attack.run(model, x, y, 3)
        assert torch.equal(result.x_adv, expected)
        assert torch.equal(result.reported_success, labels != y)


@pytest.mark.slow
@pytest.mark.parametrize("version", ["standard", "plus", "rand"])
def test_the_sets_of_autoattack_are_pyautoattacks_bit_for_bit(version: str) -> None:
    x, classifier = images(4)[0], ConvClassifier()
    y = own_labels(classifier, x)
    direct = pyautoattack.AutoAttack(classifier, eps=4 / 255, seed=3, version=version)
    with torch.random.fork_rng():  # image by image, as the random numbers of a batch depend on all of it
        parts = [direct.run_standard_evaluation(x[i : i + 1], y[i : i + 1], batch_size=1) for i in range(len(x))]
    expected, labels = (torch.cat(each) for each in zip(*parts, strict=True))
    result = AutoAttack(threat("Linf", "4/255"), "transfer", version).run(classifier, x, y, 3)  # type: ignore[arg-type]
    assert torch.equal(result.x_adv, expected)
    assert torch.equal(result.reported_success, labels != y)


def test_autoattack_returns_the_clean_image_where_it_fails() -> None:
    x, classifier = images(12)[0], ConvClassifier()
    y = own_labels(classifier, x)
    result = AutoAttack(threat("Linf", "0.01"), "transfer", "apgd-ce", n_iter=20, n_restarts=1).run(classifier, x, y, 0)
    unchanged = (result.x_adv == x).flatten(1).all(1)
    assert torch.equal(unchanged, ~result.reported_success)
    assert 0 < unchanged.sum() < 12


def test_autoattacks_flags_are_passed_on_and_taint_no_later_model() -> None:
    class Dynamic(ConvClassifier):
        def forward(self, x: Tensor) -> Tensor:
            v = torch.zeros(2, requires_grad=True)
            with torch.enable_grad():
                torch.autograd.grad(v.sum(), v)
            return super().forward(x)

    class Probabilities(ConvClassifier):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).softmax(1)

    x = images(3)[0]
    y = own_labels(ConvClassifier(), x)
    attack = AutoAttack(threat("Linf"), "white-box", "apgd-ce", n_iter=2, n_restarts=1)
    models = [Dynamic(), Noisy(ConvClassifier(), 0.1), Probabilities(), ConvClassifier()]
    flags = [attack.run(model, x, y, 0).flags for model in models]
    expected = ["computes gradients while it classifies", "--attack autoattack-rand", "returns probabilities"]
    for found, words in zip(flags[:3], expected, strict=True):
        assert len(found) == 1
        assert words in found[0]
    assert flags[3] == ()


def test_every_check_of_autoattack_has_words_of_ours() -> None:
    said: list[str] = []

    class Logger:
        def warning(self, message: str) -> None:
            said.append(message)

    logger, x, y = Logger(), torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64)
    checks.check_randomized(lambda x: torch.rand(2, 3), x, y, logger=logger)
    checks.check_range_output(lambda x: torch.full((2, 4), 0.25), x, logger=logger)
    checks.check_zero_gradients(torch.zeros(2, 3), logger=logger)
    checks.check_square_sr({"a": 0.5, "b": 0.5, "square": 0.2}, logger=logger)
    with recorded_flags():  # which repairs what the check leaves behind
        checks.funcs["grad"] = 1
        checks.check_dynamic(lambda x: x, x, logger=logger)
    checks.check_n_classes(2, ["apgd-dlr"], 9, 9, logger=logger)
    checks.check_n_classes(5, ["apgd-t", "fab-t"], 9, 9, logger=logger)
    ours = [phrase(message) for message in said]
    assert len(ours) == 7
    assert UNKNOWN not in ours
    for text in ours:
        assert "version=" not in text
        assert "flags_doc" not in text
    assert phrase("something new") == UNKNOWN
    assert ours[3].startswith("Square, which needs no gradients, lowered accuracy by another 30.00 %")


def test_autoattack_leaves_tracers_alone() -> None:
    before = sys.gettrace()

    def tracer(frame: object, event: str, arg: object) -> None:
        return None

    x = images(2)[0]
    attack = AutoAttack(threat("Linf"), "white-box", "apgd-ce", n_iter=2, n_restarts=1)
    sys.settrace(tracer)
    try:
        attack.run(ConvClassifier(), x, own_labels(ConvClassifier(), x), 0)
        assert sys.gettrace() is tracer
    finally:
        sys.settrace(before)


def test_autoattack_with_few_classes_says_what_it_needs() -> None:
    x, y = images(2, classes=2)
    for version in ("standard", "plus", "rand", "apgd-t", "apgd-dlr"):
        with pytest.raises(UsageError, match="classes at least, the model has 2"):
            AutoAttack(threat("Linf"), "transfer", version).run(LinearClassifier(2), x, y, 0)  # type: ignore[arg-type]
    found = AutoAttack(threat("Linf", "0.3"), "transfer", "apgd-ce", n_iter=10).run(LinearClassifier(2), x, y, 0)
    assert found.reported_success.all()
    x, y = images(4, classes=4)  # fewer than the ten that the targeted attacks expect
    found = AutoAttack(threat("Linf", "0.3"), "transfer", "fab-t", n_iter=10).run(LinearClassifier(4), x, y, 0)
    assert found.reported_success.all()


def test_autoattacks_name_says_what_is_not_its_own() -> None:
    assert AutoAttack(threat("Linf"), "transfer").name == "AutoAttack standard"
    assert AutoAttack(threat("Linf"), "transfer", "square", n_queries=10).name == "square (n_queries=10)"
    with pytest.raises(UsageError, match="no apgd"):
        AutoAttack(threat("Linf"), "transfer", "apgd")  # type: ignore[arg-type]


def test_disruption_fools_only_with_its_adversarial_term() -> None:
    classifier, t = BrightnessClassifier(), threat("Linf", "0.06")
    x = torch.full((2, 3, 8, 8), 0.53) + torch.tensor([0.0, -0.06])[:, None, None, None]
    y = torch.tensor([1, 0])
    purifier = Purifier(IsotropicGaussian(s=0.2), PurifyConfig(num_latents=2, steps=30, lr=8.0, latent_weight=0.0))
    defence = DefendedClassifier(purifier, classifier)
    with_term, without = (
        ConsistencyDisruption(t, purifier, classifier, 30, 60, factor, evaluations=1).run(defence, x, y, 0)
        for factor in (1e4, 0.0)
    )
    assert with_term.reported_success.all()
    assert not without.reported_success.any()


def test_the_own_steps_of_disruption_are_counted_as_passes() -> None:
    classifier, x = BrightnessClassifier(), torch.full((2, 3, 8, 8), 0.53)
    purifier = Purifier(IsotropicGaussian(s=0.2), PurifyConfig(num_latents=2, steps=10))
    defence = DefendedClassifier(purifier, classifier)
    ConsistencyDisruption(threat("Linf"), purifier, classifier, 5, 25, evaluations=3).run(
        defence, x, torch.ones(2, dtype=torch.int64), 0
    )
    assert defence.passes == Passes(forward=2 * (2 * 3) + 5, backward=0)  # two candidates; 2 · 25 steps of ten a pass


def test_disruption_keeps_the_image_that_fails_most_often() -> None:
    (x, y), kept = images(2, classes=2), []

    class Spy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            kept.append(x)
            wrong = float(len(kept) in (3, 4))  # the calls that evaluate the second candidate
            return torch.tensor([[1 - wrong, wrong], [wrong, 1 - wrong]])

    result = ConsistencyDisruption(threat("L2"), PURIFIER, LinearClassifier(2), 1, 2, evaluations=2).run(Spy(), x, y, 0)
    assert len(kept) == 6
    assert torch.equal(result.x_adv, kept[2])
    assert not torch.equal(result.x_adv, kept[0])


def test_through_the_defence_is_stronger_than_past_it() -> None:
    basis = torch.linalg.svd(templates(4), full_matrices=True)[2]
    stds = torch.cat([torch.full((4,), 1.0), torch.full((20,), 0.05)])
    model = GaussianConsistency(torch.zeros(3, 8, 8), torch.cat([templates(4), basis[4:24]]), stds)
    classifier = LinearClassifier()
    classifier.weight += 30 * basis[-4:]  # fragile where the model generates nothing: purification removes it
    purifier = Purifier(model, PurifyConfig(num_latents=4, steps=10, lr=12.0, lr_schedule="cosine"))
    (x, y), t = images(8), threat("Linf", "0.07")
    deployed = DefendedClassifier(purifier, classifier, gradient="unrolled")

    def accuracy(x: Tensor) -> float:
        deployed.reseed([77])
        with torch.no_grad():
            return sum(float((deployed(x).argmax(1) == y).float().mean()) for _ in range(5)) / 5

    unrolled, transfer = (PGD(t, "white-box", steps=8).run(m, x, y, 0).x_adv for m in (deployed, classifier))
    assert accuracy(x) > 0.9
    assert (classifier(transfer).argmax(1) != y).all()
    assert accuracy(unrolled) < accuracy(transfer) - 0.1
