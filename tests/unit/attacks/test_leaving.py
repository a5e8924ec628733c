"""Images that are broken for good leave the batch of an attack; one lucky draw is not enough."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from cmap_cli.attacks.pgd import CONFIRMATIONS, PGD, fgsm, paper_pgd
from cmap_cli.attacks.table import ATTACKS, Budget
from cmap_cli.attacks.threat import parse_threat
from cmap_cli.attacks.types import Attack
from cmap_cli.choices import Access
from cmap_cli.defenses.base import Passes, RowSeeds
from tests.toys import BrightnessClassifier

LINF = parse_threat("Linf", "0.1")


class Steps(nn.Module):
    """Class 1 from a brightness of one half on; an image's chance of a wrong draw is told by its level.

    Below one half all draws are wrong; above it, each draw is wrong with the probability ``luck``.
    """

    def __init__(self, luck: float = 0.0) -> None:
        super().__init__()
        self.luck, self.seeds, self.rows = luck, RowSeeds(0), list[int]()

    def reseed(self, seeds: Sequence[int]) -> None:
        self.seeds.reseed(seeds)

    def attend(self, rows: Sequence[int] | None) -> None:
        self.seeds.attend(rows)

    def forward(self, x: Tensor) -> Tensor:
        self.rows.append(len(x))
        lucky = torch.stack([torch.rand((), generator=each) for each in self.seeds.generators(len(x))]) < self.luck
        level = x.mean((1, 2, 3)) - 0.5
        level = torch.where(lucky, -level.abs(), level)
        return torch.stack([-level, level], 1)


def grey(*levels: float) -> Tensor:
    return torch.tensor(levels)[:, None, None, None].expand(-1, 3, 4, 4).contiguous()


ONES = torch.ones(3, dtype=torch.int64)


def test_broken_images_leave_and_the_rest_is_attacked_on() -> None:
    # steps of 0.025: the first is wrong after one step, the second after four, the third stays right
    x = grey(0.51, 0.58, 0.65)
    model = Steps()
    attack = PGD(LINF, "bpda", steps=10, random_start=False, compares=False)
    found = attack.run(model, x, ONES, 0)
    assert found.reported_success.tolist() == [True, True, False]
    assert found.x_adv.mean((1, 2, 3)).tolist() == pytest.approx([0.485, 0.48, 0.55])
    gradients = [3, 3, 2, 2, 2, 1, 1, 1, 1, 1]
    confirmed = 2 * CONFIRMATIONS
    assert sum(model.rows) == sum(gradients) + confirmed + 2  # and two evaluations of the one that is left


def test_the_attack_stops_when_all_are_broken() -> None:
    model = Steps()
    PGD(LINF, "bpda", steps=50, restarts=5, compares=False).run(model, grey(0.4, 0.4, 0.4), ONES, 0)
    assert sum(model.rows) == 3 + 3 * CONFIRMATIONS


def test_only_images_that_are_left_get_restarts() -> None:
    model = Steps()
    attack = PGD(LINF, "bpda", steps=4, restarts=3, random_start=False, compares=False)
    attack.run(model, grey(0.45, 0.7), ONES[:2], 0)
    assert sum(model.rows) == 1 + CONFIRMATIONS + 3 * (4 + 2)


def test_a_lucky_draw_breaks_nothing() -> None:
    x, y, model = grey(*(0.9,) * 20), torch.ones(20, dtype=torch.int64), Steps(luck=0.5)
    PGD(LINF, "bpda", steps=10, random_start=False, compares=False).run(model, x, y, 0)
    assert model.rows.count(20) >= 10 + 2  # no image has left: ten gradients, and two evaluations at the end
    # a test ends with the first draw that is right, which is the second on average
    assert sum(model.rows) < 20 * (10 + 2 + 10)


@pytest.mark.parametrize("luck", [0.0, 0.4])
def test_an_image_gets_the_same_result_alone_and_among_images_that_leave(luck: float) -> None:
    x = grey(0.51, 0.58, 0.65)
    attack = PGD(LINF, "bpda", steps=6, restarts=2)
    together = attack.run(Steps(luck), x, ONES, 3)
    for row in range(3):
        alone = attack.run(Steps(luck), x[row : row + 1], ONES[:1], 3)
        torch.testing.assert_close(alone.x_adv[0], together.x_adv[row])
        assert bool(alone.reported_success[0]) == bool(together.reported_success[row])


@pytest.mark.parametrize(
    "attack", [paper_pgd(LINF, "surrogate"), fgsm(LINF, "bpda"), PGD(LINF, "bpda", steps=7, confirmations=0)]
)
def test_attacks_that_take_all_steps(attack: Attack) -> None:
    model = Steps()
    attack.run(model, grey(0.4, 0.4), ONES[:2], 0)
    assert set(model.rows) == {2}


@pytest.mark.parametrize(("access", "leave"), [("transfer", False), ("surrogate", False), ("bpda", True)])
def test_images_leave_early_only_where_the_defence_itself_is_attacked(access: Access, leave: bool) -> None:
    model = Steps()
    attack = ATTACKS["pgd"].build(LINF, access, Budget(steps=20), None)  # type: ignore[arg-type]
    attack.run(model, grey(0.4, 0.4), ONES[:2], 0)
    assert (sum(model.rows) < 2 * 20) == leave


def test_a_model_that_does_not_keep_the_randomness_of_images_apart_gets_all_steps() -> None:
    class Mixed(BrightnessClassifier):
        def reseed(self, seeds: Sequence[int]) -> None:
            self.rows = list[int]()

        def forward(self, x: Tensor) -> Tensor:
            self.rows.append(len(x))
            return super().forward(x)

    model = Mixed()
    PGD(LINF, "bpda", steps=5, compares=False).run(model, grey(0.3, 0.9), ONES[:2], 0)
    assert model.rows == [2] * 7


def test_seeds_of_rows_are_those_of_the_images() -> None:
    def drawn(seeds: RowSeeds, count: int) -> list[int]:
        return [generator.initial_seed() for generator in seeds.generators(count)]

    all_rows, some = RowSeeds(), RowSeeds()
    all_rows.reseed([1, 2, 3])
    some.reseed([1, 2, 3])
    some.attend([0, 2])
    first = drawn(all_rows, 3)
    assert drawn(some, 2) == [first[0], first[2]]
    some.attend(None)
    assert drawn(some, 3)[1] == first[1]
    frozen = RowSeeds()
    frozen.freeze([7, 8, 9])
    frozen.attend([1])
    assert drawn(frozen, 1) == [8]
    frozen.freeze([5])
    assert drawn(frozen, 1) == [5]


def test_images_without_a_comparison_of_draws_take_two_gradients_less() -> None:
    counts = []
    for compares in (True, False):
        model = Steps()
        found = PGD(LINF, "bpda", steps=3, compares=compares).run(model, grey(0.9), ONES[:1], 0)
        counts.append(sum(model.rows))
        assert found.diagnostics is not None and (found.diagnostics.cosine is None) == (not compares)
    assert counts[0] == counts[1] + 2


def test_passes_through_a_defence_are_those_of_the_images_that_are_left() -> None:
    class Counting(Steps):
        def __init__(self) -> None:
            super().__init__()
            self.passes = Passes()

        def forward(self, x: Tensor) -> Tensor:
            return self.passes.count(super().forward(x))

    model = Counting()
    PGD(LINF, "bpda", steps=10, random_start=False, compares=False).run(model, grey(0.4, 0.9), ONES[:2], 0)
    assert (model.passes.forward, model.passes.backward) == (1 + CONFIRMATIONS + 10 + 2, 1 + 10)
