"""The selective attack on toys whose worst case is known."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Generator, Tensor, nn

from cmap_cli.attacks.climb import halving_checkpoints
from cmap_cli.attacks.gradients import difference_of_logits_ratio
from cmap_cli.attacks.pgd import PGD
from cmap_cli.attacks.selective import SelectiveAttack, shared_weights
from cmap_cli.attacks.table import ATTACKS, Budget
from cmap_cli.attacks.threat import parse_threat
from cmap_cli.core.purifier import Purifier
from cmap_cli.core.settings import PurifyConfig
from cmap_cli.defenses.base import Passes, RowSeeds
from cmap_cli.defenses.jpeg import Undefended
from cmap_cli.defenses.purified import DefendedClassifier
from cmap_cli.errors import UsageError
from tests.attack_toys import ConvClassifier, images
from tests.toys import IsotropicGaussian

SHAPE = (1, 2, 2)


class TwoKinds(nn.Module):
    """A defence of which three draws in four are wrong where the mean is above 0.6; the gradient of the fourth is ten
    times as large and points the other way.

    The mean gradient over draws leads to darker images, which no draw is wrong about.
    """

    def __init__(self) -> None:
        super().__init__()
        self.passes = Passes()
        self.seeds = RowSeeds(0)

    def candidates(self, x: Tensor, seeds: Sequence[int]) -> Tensor:
        kinds = [torch.rand((), generator=Generator().manual_seed(seed)) < 0.25 for seed in seeds]
        factors = torch.tensor([-10.0 if kind else 1.0 for kind in kinds])
        return (0.6 + factors[:, None, None, None] * (x - 0.6))[:, None]

    def vote_scores(self, candidates: Tensor) -> Tensor:
        level = candidates.flatten(1).mean(1) - 0.6
        return torch.stack([-level, level], 1)

    def forward(self, x: Tensor) -> Tensor:
        seeds = [each.initial_seed() for each in self.seeds.generators(len(x))]
        return self.passes.count(self.vote_scores(self.candidates(x, seeds)))


def test_draws_that_agree_get_the_weight() -> None:
    generator = Generator().manual_seed(0)
    shared = torch.randn(64, generator=generator)
    agreeing = shared + 0.3 * torch.randn((6, 64), generator=generator)
    others = 100 * torch.randn((4, 64), generator=generator)
    weights = shared_weights(torch.cat([agreeing, others])[:, None])
    torch.testing.assert_close(weights.sum(0), torch.ones(1))
    assert float(weights[:6].min()) > 5 * float(weights[6:].max())


@pytest.mark.parametrize("loss", ["ce", "margin"])
def test_it_follows_the_vulnerability_that_most_draws_share_where_the_mean_gradient_leads_away(loss: str) -> None:
    x, y = torch.full((2, *SHAPE), 0.55), torch.zeros(2, dtype=torch.int64)
    threat = parse_threat("Linf", "0.2")
    selective = SelectiveAttack(threat, "white-box", steps=10, draws=20, loss=loss)  # type: ignore[arg-type]
    found = selective.run(TwoKinds(), x, y, 0)
    assert float(found.x_adv.mean()) > 0.7  # most draws are wrong there
    assert found.reported_success.all()
    averaged = PGD(threat, "white-box", steps=10, eot=20, loss=loss, random_start=False)  # type: ignore[arg-type]
    assert float(averaged.run(TwoKinds(), x, y, 0).x_adv.mean()) < 0.55


@pytest.mark.parametrize(("norm", "eps"), [("Linf", "0.05"), ("L2", "0.5"), ("L1", "4")])
def test_an_image_gets_the_same_result_alone_and_in_a_batch_and_stays_in_the_ball(norm: str, eps: str) -> None:
    x, y = images(3)
    purifier, classifier, threat = (
        Purifier(IsotropicGaussian(), PurifyConfig(num_latents=2, steps=2)),
        ConvClassifier(),
        parse_threat(norm, eps),
    )
    y = classifier(x).argmax(1)

    def run(rows: slice) -> Tensor:
        model = DefendedClassifier(purifier, classifier, gradient="unrolled", batch_size=2)
        return SelectiveAttack(threat, "white-box", steps=5, draws=3).run(model, x[rows], y[rows], 7).x_adv

    together = run(slice(3))
    for row in range(3):
        torch.testing.assert_close(run(slice(row, row + 1))[0], together[row], atol=1e-5, rtol=0)
    assert (threat.distance(together, x) <= threat.eps * (1 + 1e-5)).all()
    assert 0 <= float(together.min()) <= float(together.max()) <= 1
    assert not torch.equal(together, x)


def test_passes_are_counted_and_broken_images_leave() -> None:
    attack = SelectiveAttack(parse_threat("Linf", "8/255"), "white-box", steps=50, draws=4)
    model, dark = TwoKinds(), torch.zeros((1, *SHAPE))
    planned = ATTACKS["hammer"].plan(Budget(steps=50, eot=4), "white-box")
    assert not attack.run(model, dark, torch.tensor([0]), 0).reported_success.any()
    # two evaluations at the end, and two gradients for the diagnostics
    assert (model.passes.forward, model.passes.backward) == (planned.forward + 2 * 4 + 2 * 5, planned.backward + 2)
    model = TwoKinds()
    model.vote_scores = lambda candidates: torch.tensor([[1.0, 0.0]]) + 0 * candidates.sum()  # type: ignore[method-assign]
    assert attack.run(model, dark, torch.tensor([1]), 0).reported_success.all()
    # one iteration, and as many draws to confirm it
    assert (model.passes.forward, model.passes.backward) == (4 + 4 + 2 * 5, 2)


def test_a_defence_without_candidates_is_refused() -> None:
    with pytest.raises(UsageError, match="purified candidates"):
        SelectiveAttack(parse_threat("Linf", "8/255"), "white-box").run(Undefended(ConvClassifier()), *images(1), 0)


def test_checkpoints_are_those_of_the_paper() -> None:
    assert halving_checkpoints(100)[:4] == (22, 41, 57, 70)
    assert halving_checkpoints(1) == (1,)


def test_dlr_is_invariant_to_scale_and_shift() -> None:
    scores, y = torch.randn((4, 5), generator=Generator().manual_seed(0)), torch.tensor([0, 1, 2, 3])
    torch.testing.assert_close(difference_of_logits_ratio(3 * scores + 2, y), difference_of_logits_ratio(scores, y))
    assert ((difference_of_logits_ratio(scores, y) > 0) == (scores.argmax(1) != y)).all()
    assert difference_of_logits_ratio(scores[:, :2], y % 2).isfinite().all()
