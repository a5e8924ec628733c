"""Reports from records with known answers, and the files made of them."""

from __future__ import annotations

import base64
import io
import json
import random
import re
from collections.abc import Iterable, Iterator
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

from cmap_cli.benchmarking.checks import Flag
from cmap_cli.benchmarking.report import build_report, save_report, with_flags, write_report
from cmap_cli.benchmarking.report.access import access_levels
from cmap_cli.benchmarking.report.charts import Series, eps_chart
from cmap_cli.benchmarking.report.statistics import draw_outcome, rate
from cmap_cli.benchmarking.report.threats import resubmissions
from cmap_cli.benchmarking.report.values import Report, ThreatResult
from cmap_cli.errors import CmapError
from tests.fake_benchmark import record, write_benchmark

DOCUMENT = Path(__file__).parents[4] / "docs/reference" / "report.md"
STYLE = Path(__file__).parents[4] / "src" / "cmap_cli" / "assets" / "report" / "page.css"
VOID = {"meta", "img", "wbr", "br", "link", "hr"}
SELF_CLOSED = {"rect", "line", "circle", "polygon", "polyline"}
RATE, COST = {"right", "n", "value", "low", "high"}, {"seconds", "forward", "backward"}
ACCURACY = {"vote", "worst_of_n", "average", "draws"}


def write_run(folder: Path, records: Iterable[dict[str, Any]], flags: Iterable[Any] = (), **settings: Any) -> Path:
    """A run of hand-made records."""
    folder.mkdir(exist_ok=True)
    (folder / "records.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records))
    run = {"schema": "cmap.benchmark/1", "settings": settings, "provenance": {}, "flags": list(flags)}
    (folder / "benchmark.json").write_text(json.dumps(run))
    return folder


def attacked(image: int, attack: str, draws: list[int], defense: str = "cmap", **fields: Any) -> dict[str, Any]:
    """An attacked image of class 1 within 8/255; attack as "pgd@bpda"."""
    name, access = attack.split("@")
    ball = {"norm": "Linf", "eps": "8/255", "eps_value": 8 / 255, "distance": 8 / 255}
    return record(image, defense, name, 1, access=access, draws=draws, **(ball | fields))


def clean(image: int, draws: list[int], defense: str = "cmap", **fields: Any) -> dict[str, Any]:
    """A clean image of class 1."""
    return record(image, defense, "clean", 1, draws=draws, **fields)


def known() -> list[dict[str, Any]]:
    """Four images, three draws. Vote: pgd@transfer 1110, pgd@bpda 1100, so 2 of 4 in the worst case."""
    return [
        *(clean(image, [1, 1, 1]) for image in range(4)),
        attacked(0, "pgd@transfer", [1, 1, 1], undefended=2),
        attacked(1, "pgd@transfer", [1, 1, 2], undefended=2),
        attacked(2, "pgd@transfer", [1, 1, 1], undefended=2),
        attacked(3, "pgd@transfer", [1, 2, 3], undefended=1, reported_success=False, unchanged=True, distance=0.0),
        attacked(0, "pgd@bpda", [1, 1, 1], reported_success=True),
        attacked(1, "pgd@bpda", [1, 1, 1], reported_success=True),
        attacked(2, "pgd@bpda", [2, 2, 1], reported_success=True),
        attacked(3, "pgd@bpda", [2, 2, 2], reported_success=True),
        *(attacked(image, "noise@transfer", [2, 2, 2], control=True) for image in range(4)),
    ]


def only_threat(report: Report, defense: int = 0) -> ThreatResult:
    """The single ball of a defence."""
    (threat,) = report.defenses[defense].threats
    return threat


def test_accuracies_of_records_with_known_results(tmp_path: Path) -> None:
    report = build_report(write_run(tmp_path, known(), n=4, defenses=["cmap"], attacks=["pgd@transfer", "pgd@bpda"]))
    threat = only_threat(report)
    transfer, bpda = threat.attacks
    assert (transfer.defended.vote.right, bpda.defended.vote.right) == (3, 2)
    assert (transfer.defended.worst_of_n.right, bpda.defended.worst_of_n.right) == (2, 2)
    assert transfer.defended.average == pytest.approx((1 + 2 / 3 + 1 + 1 / 3) / 4)
    assert (transfer.unchanged, transfer.reported_success, bpda.reported_success) == (1, 0, 4)
    assert transfer.max_distance == pytest.approx(8 / 255)
    assert transfer.within_eps
    worst = threat.worst_case
    assert worst is not None
    assert (worst.vote.right, worst.vote.n, worst.worst_of_n.right) == (2, 4, 1)
    assert worst.average == pytest.approx((1 + 2 / 3 + 1 / 3 + 0) / 4)
    assert report.complete
    assert report.warnings == ()


def test_the_headline_names_access_and_holds_the_four_numbers(tmp_path: Path) -> None:
    head = build_report(write_run(tmp_path, known(), n=4)).headline
    assert head is not None
    assert head.accuracy.vote.right == 2
    assert head.through_defense
    assert set(head.access) == {"transfer", "bpda"}
    assert head.clean is not None and head.clean.vote.right == 4
    assert head.undefended_clean is not None and head.undefended_clean.right == 4
    assert head.undefended_attacked is not None and head.undefended_attacked.right == 1
    assert "2 of 4 images" in head.sentence
    assert "upper bound" in head.sentence


def test_the_bare_classifier_is_judged_on_transfer_images_of_the_same_attack(tmp_path: Path) -> None:
    transfer, bpda = only_threat(build_report(write_run(tmp_path, known(), attacks=["pgd@transfer"]))).attacks
    assert bpda.undefended == transfer.undefended
    assert bpda.undefended is not None and bpda.undefended.right == 1
    assert bpda.bare.right == 4


def test_controls_are_listed_but_part_of_no_accuracy(tmp_path: Path) -> None:
    threat = only_threat(build_report(write_run(tmp_path, known())))
    assert [one.attack for one in threat.controls] == ["noise"]
    assert threat.controls[0].defended.vote.right == 0
    assert all(one.attack != "noise" for failure in threat.failures for one in failure.under)


def test_failures_say_where_and_what_instead(tmp_path: Path) -> None:
    records = [*known()[4:], *(clean(image, [1, 1, 1] if image else [2, 2, 2]) for image in range(4))]
    records = [one | {"draws": [4, 4, 4]} if one["image"] == 0 and one["access"] == "bpda" else one for one in records]
    failures = only_threat(build_report(write_run(tmp_path, records, attacks=["pgd@transfer"]))).failures
    assert [one.image for one in failures] == [2, 3, 0], "what was right when clean comes first"
    assert [(one.access, one.prediction) for one in failures[1].under] == [("transfer", None), ("bpda", 2)]
    assert [one.right_clean for one in failures] == [True, True, False]


def test_an_unfinished_run_counts_images_that_all_attacks_have_reached(tmp_path: Path) -> None:
    records = [one for one in known() if (one["image"], one["access"]) != (3, "bpda")]
    report = build_report(write_run(tmp_path, records, n=4))
    assert only_threat(report).n == 3
    assert not report.complete
    assert any("not finished" in warning for warning in report.warnings)


def test_an_attack_that_has_not_begun_is_missed(tmp_path: Path) -> None:
    settings = {"n": 4, "defenses": ["cmap"], "attacks": ["pgd@transfer", "pgd@bpda", "square@black-box"]}
    assert build_report(write_run(tmp_path, known(), eps=[], **settings)).complete
    assert not build_report(write_run(tmp_path, known(), eps=["8/255"], **settings)).complete


def test_an_attack_that_does_not_apply_to_a_defence_is_not_missed(tmp_path: Path) -> None:
    settings = {"n": 1, "defenses": ["cmap", "none"], "attacks": ["pgd@transfer", "pgd@bpda"], "eps": ["8/255"]}
    records = [clean(0, [1]), clean(0, [1], "none"), attacked(0, "pgd@transfer", [1]), attacked(0, "pgd@bpda", [1])]
    assert not build_report(write_run(tmp_path, records, **settings)).complete
    records.append(attacked(0, "pgd@transfer", [1], "none"))
    assert build_report(write_run(tmp_path, records, **settings)).complete


def test_noise_is_a_control_and_never_an_attack(tmp_path: Path) -> None:
    report = build_report(write_run(tmp_path, [attacked(0, "noise@black-box", [1])]))
    assert report.headline is None
    (noise,) = only_threat(report).controls
    assert noise.control and not noise.through_defense


def test_images_without_a_label_are_reported(tmp_path: Path) -> None:
    report = build_report(write_run(tmp_path, [one | {"label_is_prediction": True} for one in known()]))
    assert any(warning.startswith("4 images have no label") for warning in report.warnings)


@pytest.mark.parametrize(
    ("unroll", "words"), [(None, "exact, through all its steps"), (3, "truncated to its last 3 steps")]
)
def test_white_box_says_how_much_is_differentiated(tmp_path: Path, unroll: int | None, words: str) -> None:
    write_report(write_run(tmp_path, [attacked(0, "pgd@white-box", [1])], budget={"unroll": unroll}))
    assert words in (tmp_path / "report.html").read_text()


def test_a_control_in_a_ball_of_its_own_is_shown(tmp_path: Path) -> None:
    large = attacked(0, "pgd@bpda", [2], control=True, eps="0.5", eps_value=0.5)
    report = write_report(write_run(tmp_path, [*known(), large]))
    assert report.headline is not None and report.headline.eps == "8/255"
    for name in ("report.html", "report.md"):
        assert "Controls in detail: cmap, Linf 0.5" in (tmp_path / name).read_text()


def test_a_clean_run_has_no_headline(tmp_path: Path) -> None:
    report = write_report(write_run(tmp_path, [clean(0, [1])], n=1))
    assert report.headline is None
    assert any("No attack" in warning for warning in report.warnings)


def test_without_an_attack_through_the_defence_the_report_says_so(tmp_path: Path) -> None:
    records = [one for one in known() if one["access"] != "bpda"]
    report = write_report(write_run(tmp_path, records, n=4))
    assert report.headline is not None and not report.headline.through_defense
    for name in ("report.html", "report.md"):
        assert "No attack of this run went through the defence." in (tmp_path / name).read_text()
    assert "against transfer attacks only" in (tmp_path / "report.html").read_text()


def test_the_published_protocol_is_labelled(tmp_path: Path) -> None:
    report = build_report(write_run(tmp_path, known(), protocol="paper"))
    assert any(warning.startswith("Published protocol (surrogate only)") for warning in report.warnings)


def test_an_image_outside_the_ball_is_reported(tmp_path: Path) -> None:
    records = [*known(), attacked(0, "fgsm@transfer", [1], distance=9 / 255)]
    report = build_report(write_run(tmp_path, records))
    assert any("fgsm@transfer at eps 8/255 left the ball" in warning for warning in report.warnings)


def test_several_defenses_and_eps_stand_side_by_side(tmp_path: Path) -> None:
    report = build_report(write_benchmark(tmp_path, pictures=False))
    assert [one.defense for one in report.defenses] == ["cmap", "onestep"]
    assert report.balls() == [("Linf", "4/255"), ("Linf", "8/255")]
    assert report.headline is not None
    assert (report.headline.defense, report.headline.eps) == ("cmap", "8/255"), "the largest eps is the headline"
    assert all(len(threat.attacks) == 4 for one in report.defenses for threat in one.threats)
    assert report.complete


def test_the_classifier_by_itself_is_a_defence_called_none(tmp_path: Path) -> None:
    report = write_report(write_benchmark(tmp_path, defenses=("none",), attacks=("autoattack@transfer",), n=5))
    assert report.headline is not None and report.headline.defense == "none"
    assert report.headline.accuracy.vote == report.headline.undefended_attacked
    assert any("No defence" in warning for warning in report.warnings)


def test_the_cost_of_an_attack_made_once_for_all_defences_is_counted_once(tmp_path: Path) -> None:
    records = [
        attacked(0, f"pgd@{access}", [1], defense=defense, seconds=2.0, forward=10, backward=5)
        for access in ("transfer", "white-box")
        for defense in ("cmap", "onestep")
    ]
    cost = build_report(write_run(tmp_path, records)).cost
    assert (cost.seconds, cost.forward, cost.backward) == (6.0, 30, 15)


def test_gradients_are_averaged_over_what_is_known(tmp_path: Path) -> None:
    gradients = [{"zero": 0.0, "not_finite": 1, "cosine": None}, {"zero": 0.5, "not_finite": 2, "cosine": 0.25}]
    records = [attacked(image, "pgd@bpda", [1], gradient=one) for image, one in enumerate([*gradients, None])]
    gradient = only_threat(build_report(write_run(tmp_path, records))).attacks[0].gradient
    assert gradient is not None
    assert (gradient.zero, gradient.not_finite, gradient.cosine) == (0.25, 3, 0.25)


def test_the_order_of_the_records_does_not_matter_and_a_repeated_one_counts_once(tmp_path: Path) -> None:
    records = known()
    first = build_report(write_run(tmp_path, records))
    random.Random(0).shuffle(records)
    assert build_report(write_run(tmp_path, [*records, records[0]])) == first


def test_a_cut_off_last_line_is_left_out(tmp_path: Path) -> None:
    first = build_report(write_run(tmp_path, known()))
    with (tmp_path / "records.jsonl").open("ab") as file:
        file.write(json.dumps(known()[0]).encode()[:40] + b"\xc3")
    assert build_report(tmp_path) == first


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "contains no records"), ('{"image": 1}\n', "line 1"), ("{}\n{\n{}\n", "line 1"), ("{\n{}\n", "line 1")],
)
def test_files_without_valid_records_are_refused(tmp_path: Path, text: str, message: str) -> None:
    write_run(tmp_path, [])
    (tmp_path / "records.jsonl").write_text(text)
    with pytest.raises(CmapError, match=message):
        build_report(tmp_path)


@pytest.mark.parametrize("text", [None, "{", "[]", '{"schema": "other/1"}'])
def test_a_folder_without_a_run_is_an_error(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "benchmark.json").write_text(text)
    with pytest.raises(CmapError, match=r"benchmark\.json"):
        build_report(tmp_path)


def test_flags_of_the_run_and_of_the_caller_fired_first(tmp_path: Path) -> None:
    own = {"name": "autoattack", "fired": False, "what": "It is content.", "attack": "autoattack@transfer"}
    folder = write_run(tmp_path, known(), flags=[own])
    report = build_report(folder, [Flag("needs more", False, "?", False), Flag("noise", False, "ok")])
    report = with_flags(report, [Flag("eps", True, "Flat.")])
    assert [(one.name, one.fired, one.attack) for one in report.flags] == [
        ("eps", True, None),
        ("autoattack", False, "autoattack@transfer"),
        ("noise", False, None),
        ("needs more", False, None),
    ]
    assert [one.state for one in report.flags] == ["fired", "nothing found", "nothing found", "not run"]
    save_report(folder, report)
    assert json.loads((folder / "report.json").read_text())["flags"][0]["name"] == "eps"


def test_rebuilding_gives_the_same_bytes(tmp_path: Path) -> None:
    write_report(write_benchmark(tmp_path))
    before = {path.name: path.read_bytes() for path in tmp_path.glob("report.*")}
    write_report(tmp_path)
    assert before == {path.name: path.read_bytes() for path in tmp_path.glob("report.*")}
    assert set(before) == {"report.json", "report.md", "report.html"}


def paths(value: object, prefix: str = "") -> Iterator[str]:
    """The fields of a report; Rate, Accuracy and Cost are taken as one, settings and provenance are free."""
    if isinstance(value, list):
        for one in value:
            yield from paths(one, prefix + "[]")
    if isinstance(value, dict) and set(value) not in (RATE, ACCURACY, COST):
        for name, inner in value.items():
            path = f"{prefix}.{name}".lstrip(".")
            yield path
            if path not in ("settings", "provenance"):
                yield from paths(inner, path)


def test_the_document_names_every_field_of_a_real_report(tmp_path: Path) -> None:
    report = json.loads(json.dumps(write_report(write_benchmark(tmp_path)).as_json()))
    found = {path.replace("controls[]", "attacks[]") for path in paths(report)}
    document = DOCUMENT.read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `([^`]+)` \|", document, re.MULTILINE)) == found
    assert all(f"`{name}`" in document for name in RATE | COST | ACCURACY)


class Balanced(HTMLParser):
    """Collects tags, addresses and ids; fails on an end tag that closes nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in SELF_CLOSED
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def parsed(folder: Path) -> Balanced:
    """The page, read to its end."""
    page = Balanced()
    page.feed((folder / "report.html").read_text(encoding="utf-8"))
    page.close()
    assert page.open == []
    return page


def test_the_page_is_well_formed_and_asks_for_nothing(tmp_path: Path) -> None:
    write_report(write_benchmark(tmp_path))
    page = parsed(tmp_path)
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.tags}
    sources = [attributes["src"] or "" for _, attributes in page.tags if "src" in attributes]
    assert sources and all(source.startswith("data:image/png;base64,") for source in sources)
    assert not any(name in attributes for _, attributes in page.tags for name in ("href", "srcset", "action", "onload"))
    text = (tmp_path / "report.html").read_text()
    assert "http" not in re.sub(r"http-equiv", "", text)
    assert "url(" not in text and "@import" not in text


def test_the_page_can_be_read_aloud(tmp_path: Path) -> None:
    write_report(write_benchmark(tmp_path))
    tags = parsed(tmp_path).tags
    assert all(attributes.get("alt") for tag, attributes in tags if tag == "img")
    assert all(attributes.get("scope") for tag, attributes in tags if tag == "th")
    assert all(attributes.get("aria-label") for _, attributes in tags if attributes.get("role") == "img")
    assert ("html", {"lang": "en"}) in tags


def test_text_from_users_is_escaped(tmp_path: Path) -> None:
    nasty = "<script>alert('x')</script>|`*_\""
    folder = write_benchmark(tmp_path, classes=[nasty] * 10, dataset=nasty, classifier=nasty)
    records = (folder / "records.jsonl").read_text().replace("cifar10/test/", "<img src=x onerror=y>")
    (folder / "records.jsonl").write_text(records)
    write_report(folder)
    assert not {"script"} & {tag for tag, _ in parsed(folder).tags}
    assert all("onerror" not in attributes for _, attributes in parsed(folder).tags)
    markdown = (folder / "report.md").read_text()
    assert not re.search(r"(?<!\\)<(script|img)", markdown)
    rows = re.findall(r"^\|.*\|$", markdown, re.MULTILINE)
    assert any("script" in row for row in rows)
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows if row.startswith("| \\<script")} == {7}


def test_pictures_that_are_missing_or_outside_the_folder_are_left_out(tmp_path: Path) -> None:
    folder = write_benchmark(tmp_path / "run")
    shown = build_report(folder).examples
    assert shown[0].failed
    assert [one.failed for one in shown] == sorted((one.failed for one in shown), reverse=True)
    (folder / shown[0].file).unlink()
    (folder / shown[-1].file).write_bytes(b"no safetensors")
    records = (folder / "records.jsonl").read_text().replace("attacked/pgd-surrogate", "../attacked/pgd-surrogate")
    (folder / "records.jsonl").write_text(records)
    write_report(folder)
    page = (folder / "report.html").read_text()
    assert "more are left out" in page
    parsed(folder)


def test_photographs_are_shown_large_and_small(tmp_path: Path) -> None:
    """In their own size up to a limit, and in few bytes: 24 examples of five pictures are one page."""
    write_benchmark(tmp_path, n=6)
    photographs = {name: np.random.RandomState(0).rand(6, 3, 300, 400).astype(np.float32) for name in ("x", "x_adv")}
    for path in tmp_path.glob("attacked/*.safetensors"):
        save_file({name: values[: len(load_file(path)["x"])] for name, values in photographs.items()}, path)
    write_report(tmp_path)
    page = parsed(tmp_path)
    sources = [attributes["src"] or "" for _, attributes in page.tags if "src" in attributes]
    assert sources and all(source.startswith("data:image/webp;base64,") for source in sources)
    with Image.open(io.BytesIO(base64.b64decode(sources[0].partition(",")[2]))) as shown:
        assert shown.size == (256, 192)
    assert any("large" in (attributes.get("class") or "").split() for tag, attributes in page.tags if tag == "ol")


def test_a_run_without_pictures_has_a_page(tmp_path: Path) -> None:
    write_report(write_benchmark(tmp_path, pictures=False))
    assert not [tag for tag, _ in parsed(tmp_path).tags if tag == "img"]


def test_bytes_of_a_path_that_are_no_text_do_no_harm(tmp_path: Path) -> None:
    write_report(write_run(tmp_path, known(), dataset="folder \udcff"))
    assert "folder ?" in (tmp_path / "report.md").read_text(encoding="utf-8")


def test_accuracy_against_eps_is_drawn_from_two_eps_on(tmp_path: Path) -> None:
    write_report(write_benchmark(tmp_path, eps=("8/255",), n=4, pictures=False))
    assert "Accuracy against eps" not in (tmp_path / "report.html").read_text()
    write_report(write_benchmark(tmp_path, n=4, pictures=False, defenses=("cmap", "onestep", "jpeg", "none")))
    labels = [one["aria-label"] or "" for _, one in parsed(tmp_path).tags if one.get("class") == "chart"]
    drawn = [
        [part.split()[0] for part in label.partition("eps in Linf: ")[2].split("; ")]
        for label in labels
        if "eps in" in label
    ]
    assert drawn == [
        ["transfer", "surrogate", "bpda", "white-box", "undefended"],
        ["cmap", "onestep", "jpeg", "undefended"],
    ]


def test_eps_lies_on_a_linear_axis() -> None:
    known = rate(1, 2)
    assert known is not None
    chart = eps_chart([Series("cmap", 0, tuple((str(eps), float(eps), known) for eps in (0, 1, 4, 16)))], "Linf", "")
    assert chart is not None
    assert [x for x, _ in chart.lines[0].points] == [0, 1 / 16, 1 / 4, 1]
    assert [tick.label for tick in chart.ticks] == ["0", "4", "16"], "a label without room is left out"


def page_text(folder: Path) -> str:
    """The page without tags."""
    return " ".join(re.sub(r"<[^>]+>", " ", (folder / "report.html").read_text(encoding="utf-8")).split())


def test_the_page_begins_with_the_verdict_and_the_budget(tmp_path: Path) -> None:
    report = write_report(write_benchmark(tmp_path, n=4, pictures=False))
    text = page_text(tmp_path)
    places = [
        text.index(words)
        for words in (report.verdict[0], "Robust accuracy", "100 steps, 1 restart", "1 fired, 1 not run")
    ]
    assert places == sorted(places)
    assert "20 draws per gradient" in text and "5 draws per image" in text
    assert "queries per image" not in text, "square was not run"


def test_every_access_has_a_bar_or_was_not_run(tmp_path: Path) -> None:
    report = write_report(write_benchmark(tmp_path, n=4, pictures=False))
    levels = {one.name: (one.rate is not None, one.missing) for one in access_levels(report)}
    assert {name for name, (known, _) in levels.items() if not known} == {"black-box", "adaptive"}
    assert "black-box not run adaptive not run" in page_text(tmp_path)
    jpeg = write_report(write_benchmark(tmp_path, n=4, pictures=False, defenses=("jpeg",)))
    assert {one.name: one.missing for one in access_levels(jpeg)}["adaptive"] == "does not apply"


def test_checks_that_were_not_run_say_so(tmp_path: Path) -> None:
    write_report(write_benchmark(tmp_path, n=4, pictures=False))
    assert "1 fired, 1 not run, 2 found nothing." in page_text(tmp_path)
    assert "- not run: chance. needs PGD" in (tmp_path / "report.md").read_text()


def test_controls_stand_apart_from_attacks(tmp_path: Path) -> None:
    write_report(write_benchmark(tmp_path, n=4, pictures=False))
    text = page_text(tmp_path)
    attacks, controls = text.index("Attacks within Linf 8/255"), text.index("Controls are used by the checks")
    assert "noise@" not in text[attacks:controls]
    assert "noise @black-box" in text[controls:]


def test_classes_with_few_images_are_folded(tmp_path: Path) -> None:
    write_report(write_benchmark(tmp_path, n=95, pictures=False, eps=("8/255",), defenses=("cmap",)))
    page = (tmp_path / "report.html").read_text()
    assert "<details><summary>5 classes with fewer than ten images: cmap, Linf 8/255</summary>" in page
    assert "<caption>By class: cmap, Linf 8/255</caption>" in page


def test_settings_are_tables_not_json(tmp_path: Path) -> None:
    write_report(write_benchmark(tmp_path, n=20, pictures=False))
    text = page_text(tmp_path)
    assert "budget: steps 100" in text and "budget: unroll not set" in text
    assert "indices 0, 7, 14, …, 133 (20 values)" in text
    assert "{" not in text[text.index("Provenance") :]


def test_details_are_open_on_paper() -> None:
    printed = STYLE.read_text(encoding="utf-8").partition("@media print")[2]
    assert "details::details-content { content-visibility: visible;" in printed


def luminance(colour: str) -> float:
    """Relative luminance of "#rrggbb" (WCAG 2)."""
    channels = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [one / 12.92 if one <= 0.04045 else ((one + 0.055) / 1.055) ** 2.4 for one in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_colours_contrast_in_light_and_dark() -> None:
    light, dark, *_ = re.findall(r":root \{(.*?)\}", STYLE.read_text(encoding="utf-8"), re.DOTALL)
    for scheme in (light, dark):
        colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", scheme))
        pairs = [(name, "page", 4.5) for name in ("ink", "muted", "bad", "good", *(f"s{look}" for look in range(8)))]
        for ink, page, least in [*pairs, ("warn-ink", "warn-page", 7), ("warn-rule", "page", 3)]:
            one, other = sorted((luminance(colours[ink]), luminance(colours[page])))
            assert (other + 0.05) / (one + 0.05) >= least, (ink, page)


def test_the_report_shows_what_is_left_after_several_submissions(tmp_path: Path) -> None:
    folder = write_benchmark(tmp_path, n=12, pictures=False)
    report = write_report(folder)
    threat = report.headline_threat()
    assert threat is not None and threat.worst_case is not None
    points = threat.resubmissions
    assert [one.submissions for one in points] == [1, 2, 3, 4, 5]
    assert points[0].attacked == pytest.approx(threat.worst_case.average)
    assert points[-1].attacked == pytest.approx(threat.worst_case.worst_of_n.value)
    assert all(after.attacked <= before.attacked for before, after in pairwise(points))
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "Accuracy against submissions" in page
    assert resubmissions([draw_outcome([1], 1)], []) == ()
