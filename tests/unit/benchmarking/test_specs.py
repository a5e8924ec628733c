from __future__ import annotations

import pytest
import torch

from cmap_cli.attacks.autoattack import AutoAttack
from cmap_cli.attacks.pgd import PGD, paper_pgd
from cmap_cli.attacks.table import ATTACKS, Budget
from cmap_cli.attacks.threat import parse_threat
from cmap_cli.benchmarking.specs import AttackSpec, controls, large_control, parse_attacks, parse_defenses
from cmap_cli.core.purifier import Purifier
from cmap_cli.core.settings import PurifyConfig
from cmap_cli.defenses.deployed import Defenses
from cmap_cli.defenses.jpeg import JpegDefense, Undefended
from cmap_cli.defenses.onestep import OneStepDefense
from cmap_cli.defenses.purified import DefendedClassifier
from cmap_cli.defenses.table import DEFENSES
from cmap_cli.errors import UsageError
from tests.toys import BrightnessClassifier, IsotropicGaussian

THREAT = parse_threat("linf", "8/255")


def names(specs: tuple[AttackSpec, ...]) -> list[str]:
    return [str(spec) for spec in specs]


def test_an_attack_that_misses_the_defence_gets_companions_that_do_not() -> None:
    assert names(parse_attacks(["autoattack"], [], "end-to-end", ["cmap"])) == [
        "autoattack@transfer",
        "pgd@bpda",
        "pgd@white-box",
    ]
    assert names(parse_attacks(["square"], [], "end-to-end", ["cmap"])) == ["square@black-box"]
    assert names(parse_attacks(["autoattack"], [], "end-to-end", ["none"])) == ["autoattack@transfer"]
    assert names(parse_attacks(["autoattack"], ["transfer"], "end-to-end", ["cmap"])) == ["autoattack@transfer"]
    assert names(parse_attacks(["autoattack@transfer"], [], "end-to-end", ["cmap"])) == ["autoattack@transfer"]
    assert names(parse_attacks(["autoattack"], [], None, ["cmap"])) == ["autoattack@transfer"]


def test_access_is_the_attacks_own_unless_it_is_given() -> None:
    given = parse_attacks(["pgd", "apgd-ce@bpda"], ["surrogate", "white-box"], "end-to-end", ["cmap"])
    assert names(given) == ["pgd@surrogate", "pgd@white-box", "apgd-ce@bpda"]
    assert names(parse_attacks([], [], "paper", ["cmap"])) == ["pgd@surrogate", "autoattack@surrogate"]
    with pytest.raises(UsageError, match="attacks the surrogate"):
        parse_attacks(["pgd@white-box"], [], "paper", ["cmap"])
    with pytest.raises(UsageError) as caught:
        parse_attacks(["magic", "square@bpda"], ["telepathy"], "end-to-end", ["cmap"])
    assert len(caught.value.problems) == 3


def test_attacks_that_are_possible_on_a_defence() -> None:
    assert AttackSpec("pgd", "transfer").applies_to("none")
    assert not AttackSpec("pgd", "bpda").applies_to("none")
    assert not AttackSpec("pgd", "white-box").applies_to("jpeg")
    assert AttackSpec("pgd", "white-box").applies_to("onestep")
    assert not AttackSpec("disruption", "adaptive").applies_to("onestep")


def test_controls_depend_on_the_attacks_that_they_check() -> None:
    specs = parse_attacks(["pgd@bpda", "pgd@white-box", "autoattack@transfer"], [], None, ["cmap"])
    assert names(controls(specs)) == ["noise@transfer", "fgsm@bpda", "fgsm@white-box"]
    assert all(spec.control for spec in controls(specs))
    assert large_control(specs) == AttackSpec("pgd", "bpda", control=True)
    assert large_control(specs[2:]) is None


@pytest.fixture
def defenses() -> Defenses:
    purifier = Purifier(IsotropicGaussian(), PurifyConfig(num_latents=3, steps=2))
    return Defenses(("cmap", "onestep", "smoothed", "jpeg", "none"), BrightnessClassifier(), purifier, "soft", 2, 0)


def test_an_attacker_is_pointed_at_what_the_access_says(defenses: Defenses) -> None:
    budget = Budget(unroll=1)

    def target(access: str, defense: str | None) -> object:
        return defenses.target(access, defense, unroll=budget.unroll, smoothing=budget.smoothing)  # type: ignore[arg-type]

    assert type(target("transfer", None)) is Undefended
    assert type(target("surrogate", None)) is OneStepDefense
    assert type(target("bpda", "jpeg")) is JpegDefense
    assert [target("bpda", name).quality for name in ("jpeg", "jpeg-50", "jpeg-20")] == [75, 50, 20]  # type: ignore[attr-defined]
    assert type(target("white-box", "onestep")) is OneStepDefense
    for access, gradient in (("bpda", "bpda"), ("white-box", "unrolled"), ("black-box", "none"), ("adaptive", "none")):
        module = target(access, "cmap")
        assert isinstance(module, DefendedClassifier)
        assert (module.gradient, module.unroll) == (gradient, 1)


def test_the_papers_protocol_is_the_published_one(defenses: Defenses) -> None:
    paper = Budget(paper=True)
    assert ATTACKS["pgd"].build(THREAT, "surrogate", paper, defenses) == paper_pgd(THREAT, "surrogate")
    auto = ATTACKS["autoattack"].build(THREAT, "surrogate", paper, defenses)
    assert isinstance(auto, AutoAttack)
    assert (auto.version, auto.eot_iter) == ("standard", 20)
    plain = ATTACKS["pgd"].build(THREAT, "surrogate", Budget(steps=7, eot=3), defenses)
    assert plain == PGD(THREAT, "surrogate", steps=7, eot=3, confirmations=0)


def test_evaluations_depend_on_the_image_and_the_draw_alone(defenses: Defenses) -> None:
    x = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    for name in defenses.names:
        draws, purified, votes = defenses.evaluate(name, x, 3)
        single = [defenses.evaluate(name, image[None], 3) for image in x]
        assert len(draws) == (3 if name in ("cmap", "onestep", "smoothed") else 1)
        assert draws == [[one[0][k][0] for one in single] for k in range(len(draws))]
        assert (purified is None) == (name in ("jpeg", "none", "smoothed"))
        if name == "smoothed":
            assert votes == [[one.votes[k][0] for one in single] for k in range(3)]
            assert all(sum(each) == defenses.samples for draw in votes for each in draw)


def test_every_row_of_the_tables_resolves(defenses: Defenses) -> None:
    for name, entry in ATTACKS.items():
        for access in entry.accesses:
            assert entry.build(THREAT, access, Budget(), defenses).access == access
        planned = entry.plan(Budget(steps=3), entry.accesses[0])
        assert (planned.backward > 0) == (entry.needs_gradients and name != "disruption")
    for name, defense in DEFENSES.items():
        for access in defense.accesses - {"surrogate"}:
            assert defenses.target(access, name).passes.forward == 0


def test_noise_is_a_control_and_never_an_attack() -> None:
    (noise,) = parse_attacks(["noise"], ["transfer"], "end-to-end", ["cmap"])
    assert (str(noise), noise.control, noise.through_defense) == ("noise@transfer", True, False)
    with pytest.raises(UsageError, match="noise cannot have the access black-box"):
        parse_attacks(["noise@black-box"], [], "end-to-end", ["cmap"])
    assert controls((noise,)) == (noise,)


@pytest.mark.parametrize(
    ("attack", "hint"),
    [("pdg", "did you mean pgd?"), ("pgd@withe-box", "did you mean white-box?"), ("xyzzy", "one of autoattack,")],
)
def test_a_misspelt_name_gets_a_hint(attack: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_attacks([attack], [], "end-to-end", ["cmap"])
    assert hint in caught.value.hint
    with pytest.raises(UsageError) as caught:
        parse_defenses(["onestpe"])
    assert caught.value.hint == "did you mean onestep?"


@pytest.mark.parametrize("eps", ["1e999", "nan", "-1", "0", "8/", "8/0", "/255", "eight", "1e-999"])
def test_a_radius_that_is_none_is_refused(eps: str) -> None:
    with pytest.raises(UsageError, match="--eps"):
        parse_threat("L2", eps)


def test_a_radius_in_255ths_gets_a_hint() -> None:
    with pytest.raises(UsageError) as caught:
        parse_threat("Linf", "8")
    assert "write 8/255" in caught.value.hint
    assert parse_threat("L2", "8").eps == 8
