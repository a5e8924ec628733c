"""The defences that attacks are pointed at: votes, gradients, randomness, counts."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Generator, Tensor, nn

from cmap_cli.core.consistency import karras_levels
from cmap_cli.core.predict import classify, hard_vote, soft_vote
from cmap_cli.core.purifier import Purifier
from cmap_cli.core.settings import PurifyConfig
from cmap_cli.defenses.base import Passes, RowSeeds
from cmap_cli.defenses.deployed import Defenses
from cmap_cli.defenses.jpeg import JpegDefense, Undefended, jpeg
from cmap_cli.defenses.onestep import OneStepDefense
from cmap_cli.defenses.purified import DefendedClassifier, hard_scores, soft_scores
from cmap_cli.defenses.unroll import purify_unrolled
from tests.attack_toys import ConvClassifier, images
from tests.toys import BrightnessClassifier, ConditionalGaussian, IsotropicGaussian

PURIFIER = Purifier(IsotropicGaussian(), PurifyConfig(num_latents=4, steps=3))


def gradient(model: nn.Module, x: Tensor, label: int = 1) -> Tensor:
    x = x.clone().requires_grad_()
    return torch.autograd.grad(model(x)[:, label].sum(), x)[0]


def generators(seeds: list[int]) -> list[Generator]:
    return [Generator().manual_seed(seed) for seed in seeds]


def test_scores_are_the_logs_of_the_votes() -> None:
    x, classifier = images(3)[0], ConvClassifier()
    logits = classify(classifier, PURIFIER(x, generators([5, 6, 7])).samples)
    for vote, expected in (("soft", soft_vote(logits)), ("hard", hard_vote(logits))):
        defended = DefendedClassifier(PURIFIER, classifier, vote=vote)  # type: ignore[arg-type]
        defended.freeze([5, 6, 7])
        torch.testing.assert_close(defended(x).exp(), expected, rtol=1e-5, atol=1e-3)


def test_soft_scores_do_not_underflow() -> None:
    scores = soft_scores(torch.tensor([[[0.0, 500.0, -500.0], [0.0, 400.0, -400.0]]]))
    torch.testing.assert_close(scores, torch.tensor([[-400 - math.log(2), 0.0, -800 - math.log(2)]]))


def test_hard_scores_decide_as_the_hard_vote_and_pull_back_the_soft_one() -> None:
    logits = torch.randn((200, 4, 5), generator=Generator().manual_seed(0)).requires_grad_()  # ties are frequent
    scores = hard_scores(logits)
    assert torch.equal(scores.argmax(-1), hard_vote(logits).argmax(-1))
    assert scores.isfinite().all()
    cotangent = torch.randn(scores.shape, generator=Generator().manual_seed(1))
    hard, soft = (torch.autograd.grad(s, logits, cotangent)[0] for s in (scores, soft_scores(logits)))
    assert torch.equal(hard, soft)


def test_the_bpda_gradient_is_the_sum_over_the_candidates() -> None:
    x, classifier = images(2)[0], ConvClassifier()
    defended = DefendedClassifier(PURIFIER, classifier, gradient="bpda")
    defended.freeze([3, 4])
    samples = PURIFIER(x, generators([3, 4])).samples.requires_grad_()
    scores = soft_scores(classify(classifier, samples))
    assert torch.equal(defended(x), scores)
    expected = torch.autograd.grad(scores[:, 1].sum(), samples)[0].sum(1)
    torch.testing.assert_close(gradient(defended, x), expected)


def test_the_unrolled_gradient_is_that_of_the_unrolled_purification() -> None:
    x, classifier = images(2)[0].requires_grad_(), ConvClassifier()
    defended = DefendedClassifier(PURIFIER, classifier, gradient="unrolled", unroll=2, smoothing=0.3)
    defended.freeze([3, 4])
    samples = purify_unrolled(PURIFIER, x, generators([3, 4]), unroll=2, smoothing=0.3)
    (expected,) = torch.autograd.grad(soft_scores(classify(classifier, samples))[:, 1].sum(), x)
    torch.testing.assert_close(gradient(defended, x.detach()), expected)


def test_without_a_gradient_asking_for_one_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="does not require grad"):
        gradient(DefendedClassifier(PURIFIER, ConvClassifier()), images(1)[0])


@pytest.mark.parametrize("kind", ["cmap", "onestep"])
def test_randomness_is_fresh_repeatable_or_frozen(kind: str) -> None:
    classifier, x = ConvClassifier(), images(3)[0]
    model: DefendedClassifier | OneStepDefense = (
        DefendedClassifier(PURIFIER, classifier) if kind == "cmap" else OneStepDefense(PURIFIER.model, classifier)
    )
    first, second = model(x), model(x)
    assert not torch.equal(first, second)
    model.reseed([0])
    assert torch.equal(model(x), first)
    model.freeze([7, 8, 9])
    frozen = model(x)
    assert torch.equal(model(x), frozen)
    with pytest.raises(ValueError, match="3 frozen seeds for 2 images"):
        model(x[:2])
    model.freeze([8])  # one for all rows, so that attacks may take rows out
    torch.testing.assert_close(model(x)[1], frozen[1], rtol=0, atol=1e-5)
    torch.testing.assert_close(model(x[1:2])[0], frozen[1], rtol=0, atol=1e-5)
    model.freeze(None)
    assert not torch.equal(model(x), model(x))


def test_rows_have_seeds_of_their_own() -> None:
    numbers = [float(torch.rand((), generator=g)) for g in RowSeeds(0).generators(50)]
    assert len(set(numbers)) == 50


@pytest.mark.parametrize("mode", ["bpda", "unrolled"])
def test_scores_and_gradients_do_not_depend_on_the_batch_size(mode: str) -> None:
    x, classifier, found = images(5)[0], ConvClassifier(), []
    for batch_size in (None, 2, 1):
        model = DefendedClassifier(PURIFIER, classifier, gradient=mode, batch_size=batch_size)  # type: ignore[arg-type]
        scores = model(x)
        model.reseed([0])
        found.append((scores, gradient(model, x)))
    for scores, grads in found[1:]:
        torch.testing.assert_close(scores, found[0][0], rtol=0, atol=1e-5)
        torch.testing.assert_close(grads, found[0][1], rtol=1e-3, atol=1e-5)


def test_passes_are_counted() -> None:
    x, classifier = images(3)[0], ConvClassifier()
    defences = [
        DefendedClassifier(PURIFIER, classifier, gradient="bpda", batch_size=2),
        OneStepDefense(PURIFIER.model, classifier),
        JpegDefense(classifier),
        Undefended(classifier),
    ]
    for model in defences:
        model(x)
        gradient(model, x[:2])
        assert model.passes == Passes(forward=5, backward=2)


def test_frozen_latents_are_those_of_the_attack_and_of_every_evaluation() -> None:
    x, classifier = images(3)[0], ConvClassifier()
    defenses = Defenses(("cmap-frozen", "cmap"), classifier, PURIFIER, "soft", 2, seed=4)
    attacked = defenses.target("white-box", "cmap-frozen")
    assert isinstance(attacked, DefendedClassifier)
    scores = attacked(x)
    assert torch.equal(attacked(x), scores)
    assert torch.equal(attacked.candidates(x, [1, 2, 3]), attacked.candidates(x, [4, 5, 6]))
    found = defenses.evaluate("cmap-frozen", x, 5)
    assert found.draws == [scores.argmax(1).tolist()]
    moved = defenses.evaluate("cmap-frozen", (x + 1e-6).clamp(0, 1), 1).purified
    assert found.purified is not None and moved is not None
    assert float((found.purified - moved).abs().max()) < 1e-3  # other pixels, the same latents
    own, shifted = (defenses.evaluate("cmap", z, 1).purified for z in (x, (x + 1e-6).clamp(0, 1)))
    assert own is not None and shifted is not None
    assert float((own - shifted).abs().max()) > 1e-3
    fresh = defenses.target("white-box", "cmap")
    assert isinstance(fresh, DefendedClassifier)
    assert not torch.equal(fresh(x), fresh(x))


def test_a_class_conditional_model_gets_the_prediction_on_the_image_that_comes_in() -> None:
    x = torch.full((2, 3, 8, 8), 0.45) + 0.1 * torch.arange(2)[:, None, None, None]
    purifier, classifier = (
        Purifier(ConditionalGaussian(s=0.2), PurifyConfig(num_latents=2, steps=2)),
        BrightnessClassifier(),
    )
    model = DefendedClassifier(purifier, classifier, gradient="unrolled")
    seen = model.candidates(x, [1, 2])
    expected = purifier(x, [torch.Generator().manual_seed(seed) for seed in (1, 2)], labels=torch.tensor([0, 1]))
    assert torch.equal(seen, expected.samples)
    moved = model.candidates(x + 0.1, [1, 2])  # both are of class 1 now
    assert float((moved[0] - seen[0]).abs().mean()) > 0.05
    assert gradient(model, x).any()
    assert gradient(OneStepDefense(purifier.model, classifier), x).any()


def test_the_grid_of_karras() -> None:
    levels = karras_levels()
    assert len(levels) == 18
    assert levels == sorted(levels)
    assert (levels[0], levels[-1]) == pytest.approx((0.002, 80.0))
    assert levels[4] == pytest.approx((0.002 ** (1 / 7) + 4 / 17 * (80 ** (1 / 7) - 0.002 ** (1 / 7))) ** 7)
    assert karras_levels(3, 1.0, 9.0, rho=1.0) == pytest.approx([1.0, 5.0, 9.0])
    with pytest.raises(ValueError, match="needs two"):
        karras_levels(1)


def test_one_step_adds_the_noise_of_level_five_and_denoises_once() -> None:
    model, x = IsotropicGaussian(s=0.4), images(2)[0]
    defence = OneStepDefense(model, ConvClassifier())
    assert defence.sigma == pytest.approx(0.1396, abs=1e-3)
    defence.freeze([1, 2])
    noise = torch.stack([torch.randn(x.shape[1:], generator=g) for g in generators([1, 2])])
    gain = float(model.gain(torch.tensor(defence.sigma)))
    expected = (gain * (2 * x - 1 + defence.sigma * noise)).clamp(-1, 1) / 2 + 0.5
    torch.testing.assert_close(defence.purify(x), expected)
    through = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(defence.purify(through).sum(), through)
    torch.testing.assert_close(slope, torch.full_like(x, gain))


def test_jpeg_is_lossy_in_front_and_the_identity_behind() -> None:
    x, classifier = images(2)[0], ConvClassifier()
    after = jpeg(x)
    assert 0.001 < (after - x).abs().mean() < 0.1
    assert torch.equal((after * 255).round() / 255, after)
    strong = JpegDefense(nn.Identity(), 20)(x)
    assert (strong - x).abs().mean() > (after - x).abs().mean()
    assert (jpeg(x, quality=100) - x).abs().mean() < (after - x).abs().mean()
    assert torch.equal(JpegDefense(classifier)(x), classifier(after))
    torch.testing.assert_close(gradient(JpegDefense(classifier), x), gradient(classifier, after))
