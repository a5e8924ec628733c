from __future__ import annotations

import pytest
import torch

from cmap_cli.core.predict import classify, hard_vote, select, soft_vote
from cmap_cli.core.types import Objective, Purification
from tests.toys import BrightnessClassifier


def purification() -> Purification:
    """One image with three flat candidates: 0.2, 0.3 and 0.9."""
    samples = torch.tensor([0.2, 0.3, 0.9])[None, :, None, None, None].expand(1, 3, 3, 4, 4)
    objective = Objective(torch.zeros(1, 3), torch.zeros(1, 3), torch.zeros(1), torch.zeros(1))
    return Purification(samples, torch.tensor([[2.0, 3.0, 1.0]]), samples, objective)


def test_votes_are_over_the_latents_not_over_the_batch() -> None:
    logits = torch.tensor([[[0.0, 5.0, 1.0], [0.0, 5.0, 1.0], [90.0, 0.0, 0.0]], [[9.0, 0.0, 0.0]] * 3])
    soft, hard = soft_vote(logits), hard_vote(logits)
    assert soft.shape == hard.shape == (2, 3)
    torch.testing.assert_close(soft.sum(1), torch.ones(2))
    torch.testing.assert_close(hard, torch.tensor([[1 / 3, 2 / 3, 0], [1, 0, 0]]))
    torch.testing.assert_close(soft[0], torch.stack([row.softmax(0) for row in logits[0]]).mean(0))


def test_classify_keeps_candidates_with_their_image() -> None:
    samples = torch.rand(2, 3, 3, 4, 4)
    logits = classify(BrightnessClassifier(), samples)
    torch.testing.assert_close(logits[1, 2], BrightnessClassifier()(samples[1, 2][None])[0])


def test_best_mean_medoid_and_vote_select_their_candidates() -> None:
    candidates = purification()
    logits = classify(BrightnessClassifier(), candidates.samples)
    level = {how: float(select(candidates, how, logits)[0, 0, 0, 0]) for how in ("best", "mean", "medoid", "vote")}
    assert level == pytest.approx({"best": 0.9, "mean": (0.2 + 0.3 + 0.9) / 3, "medoid": 0.3, "vote": 0.2})


def test_vote_needs_logits() -> None:
    with pytest.raises(ValueError, match="logits"):
        select(purification(), "vote")
