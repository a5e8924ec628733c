"""Ends commands at random moments, starts them again, and compares the results with those of a run left in peace.

``python -m tests.hostile.kills --kills 200`` prints counts as a table and exits with 1 if anything was lost or left
over. Every attempt is a process of its own, forked from this one, which has imported PyTorch already: so most of its
time goes into work that can be interrupted, not into imports.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from safetensors import safe_open

from cmap_cli import files
from cmap_cli.cli.app import main as cmap
from cmap_cli.files import UNLOCKED_SECONDS
from cmap_cli.models.networks.gaussian import GaussianConsistency
from cmap_cli.models.store import save_model
from cmap_cli.models.weights.cache import LOCK_FILE, sha256
from tests import hostile_server
from tests.hostile.corpus import picture
from tests.integration.test_benchmark_command import write_data
from tests.integration.test_download_weights_command import Shop

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
PATIENCE = 900.0
"""Seconds within which a command ends after a signal, or without one."""
UNEQUAL = {"seconds", "provenance", "seconds_per_image", "measured_seconds"}
"""Keys of documents whose values no two runs share."""
WRITING = 0.02
"""Seconds that the writing of a file takes at least, so that kills fall into it."""
PAUSE = 0.008
"""Seconds between two blocks of the server."""


@dataclass
class Soaked:
    """A command, the folder it works in, and what became of it.

    Attributes:
        name: of the command.
        arguments: of one start; the output folder is ``out``.
        top: has the folders ``whole``, of the run left in peace, and ``killed``.
        seconds: of CPU time that the run left in peace took; if it waits for a server, of any time.
        kills: signal -> how often it reached a running process.
        starts: of processes.
        finished: runs that came to their end in spite of kills.
        temporaries: that kills left behind, for the next start to sweep.
        locks: likewise.
        kept: finished records or files that were there after a kill, and had to stay.
        problems: what was lost, left over or refused.
    """

    name: str
    arguments: list[str]
    top: Path
    seconds: float = 0.0
    kills: Counter[str] = field(default_factory=Counter)
    starts: int = 0
    finished: int = 0
    temporaries: int = 0
    locks: int = 0
    kept: int = 0
    problems: list[str] = field(default_factory=list)
    done: dict[str, Any] = field(default_factory=dict)

    @property
    def waits(self) -> bool:
        """Whether it spends its time waiting for a server."""
        return self.name == "download-weights"


def forked(body: Callable[[], object]) -> int:
    """The number of a new process that runs this and nothing else."""
    child = os.fork()
    if child:
        return child
    code = 99
    try:
        body()
        code = 0
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def enter(folder: Path) -> None:
    """Let this process work in a folder that gets what it prints as files."""
    os.chdir(folder)
    for stream, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)


def run_in(folder: Path, arguments: Sequence[str]) -> None:
    """Run ``cmap`` in this process, in a folder that gets what it prints as files."""
    enter(folder)
    sys.argv = ["cmap", *arguments]
    cmap()


def start(soaked: Soaked, folder: Path) -> int:
    """Start the command in a folder; returns the number of the process."""

    def run() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background of a shell it is ignored
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        lock_folder = files.lock_folder

        def on_a_slow_disk(temporary: Path) -> int | None:
            lock = lock_folder(temporary)
            time.sleep(WRITING)
            return lock

        files.lock_folder = on_a_slow_disk
        run_in(folder, soaked.arguments)

    folder.mkdir(parents=True, exist_ok=True)
    soaked.starts += 1
    return forked(run)


def ended(child: int, seconds: float) -> int | None:
    """The exit code of a process, or minus its signal; None if it runs on for so many seconds."""
    until = time.monotonic() + seconds
    while True:
        number, status = os.waitpid(child, os.WNOHANG)
        if number:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= until:
            return None
        time.sleep(0.001)


def worked(child: int) -> float:
    """CPU seconds that a process has taken so far: on a busy machine they tell better than a clock how far it is."""
    try:
        process = psutil.Process(child)
        return float(sum(process.cpu_times()[:2]))
    except psutil.Error:
        return math.inf


def hidden(folder: Path, end: str) -> list[Path]:
    """Temporary folders, of ours or of a library, or locks in a folder."""
    return list(folder.rglob(f".*{end}"))


def plain(value: Any) -> Any:
    """A document without what no two runs share."""
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items() if key not in UNEQUAL}
    return [plain(inner) for inner in value] if isinstance(value, list) else value


def contents(path: Path) -> object:
    """What has to be equal in two runs: bytes, or documents without times; of pages for readers only the name."""
    if path.suffix in (".html", ".md"):
        return None
    if path.suffix == ".safetensors":  # whose metadata are in no order
        with safe_open(path, "np") as file:
            return file.metadata(), {name: file.get_tensor(name).tobytes() for name in file.keys()}  # noqa: SIM118
    if path.name == LOCK_FILE:
        cached = json.loads(path.read_text())["cached"]
        return {name: cached[name]["sha256"] == sha256(path.with_name(f"{name}.safetensors")) for name in cached}
    if path.suffix == ".tsv":
        return [line.split("\t")[:-1] for line in path.read_text().splitlines()]
    if path.suffix == ".jsonl":
        return sorted(json.dumps(plain(json.loads(line)), sort_keys=True) for line in path.read_text().splitlines())
    return plain(json.loads(path.read_text())) if path.suffix == ".json" else path.read_bytes()


def results(folder: Path) -> dict[str, object]:
    """All files of an output folder, hidden ones too."""
    return {str(path.relative_to(folder)): contents(path) for path in folder.rglob("*") if path.is_file()}


def finished_work(folder: Path) -> dict[str, Any]:
    """Lines of records, and converted weights with their times: no later start may change or lose one."""
    found: dict[str, Any] = {}
    for path in folder.glob("*.jsonl"):
        found |= {f"{path.name}: {line}": True for line in path.read_text().splitlines(keepends=True) if "\n" in line}
    return found | {path.name: path.stat().st_mtime_ns for path in folder.glob("*.safetensors")}


def compare(soaked: Soaked) -> None:
    """Hold the results of a run that was killed and came to its end against those of the run left in peace."""
    killed, whole = results(soaked.top / "killed" / "out"), results(soaked.top / "whole" / "out")
    for name in sorted(killed.keys() | whole.keys()):
        if name not in whole:
            soaked.problems.append(f"left over: {name}")
        elif name not in killed:
            soaked.problems.append(f"lost: {name}")
        elif killed[name] != whole[name]:
            soaked.problems.append(f"other content: {name}")


def look(soaked: Soaked, code: int | None, sent: signal.Signals | None) -> None:
    """Judge a process that has ended, and what it left."""
    out, told = soaked.top / "killed" / "out", (soaked.top / "killed" / "stderr").read_text()
    expected = {0} | ({-sent, 128 + sent} if sent else set())
    if code not in expected or "Traceback" in told:
        soaked.problems.append(f"exit {code} after {sent.name if sent else 'no signal'}: {told[-2000:]}")
    now = finished_work(out) if out.exists() else {}
    soaked.problems += [f"finished and lost: {key}" for key, value in soaked.done.items() if now.get(key) != value]
    soaked.done = now
    if code == 0:
        soaked.finished += 1
        compare(soaked)
        shutil.rmtree(soaked.top / "killed")
        soaked.done = {}
    elif out.exists():
        soaked.temporaries += len(hidden(out, ".tmp"))
        soaked.locks += len(hidden(out, ".lock"))
        soaked.kept += len(now)


def kill_once(soaked: Soaked, sent: signal.Signals, moments: random.Random) -> None:
    """Start the command until a signal reaches it before its end: anywhere, or while it writes a file."""
    while True:
        child, began = start(soaked, soaked.top / "killed"), time.monotonic()
        code, moment = None, moments.uniform(0, soaked.seconds)
        while code is None and (time.monotonic() - began if soaked.waits else worked(child)) < moment:
            code = ended(child, 0.002)
        if moments.random() < 0.5:  # if possible while a file is being written
            until = time.monotonic() + 0.5
            while code is None and time.monotonic() < until and not hidden(soaked.top / "killed" / "out", ".tmp"):
                code = ended(child, 0)
        if code is not None:
            look(soaked, code, None)
            continue
        os.kill(child, sent)
        soaked.kills[sent.name] += 1
        code = ended(child, PATIENCE)
        if code is None:
            soaked.problems.append(f"{sent.name} did not end it")
            os.kill(child, signal.SIGKILL)
            code = ended(child, PATIENCE)
        look(soaked, code, sent)
        time.sleep(UNLOCKED_SECONDS)  # no real process starts sooner
        return


def prepare(folder: Path) -> None:
    """Write the model, the images and the data set."""
    basis = torch.linalg.qr(torch.randn(192, 60, generator=torch.Generator().manual_seed(0)))[0].T
    model = GaussianConsistency(torch.zeros(3, 8, 8), basis, torch.linspace(2, 0.1, 60))
    save_model(model, folder / "model" / "model.safetensors")
    (folder / "in").mkdir()
    for number in range(16):
        (folder / "in" / f"{number}.png").write_bytes(picture("PNG"))
    write_data(folder / "data.npz")
    grey = np.stack([np.full((8, 8, 3), 0.5 + offset, np.float32) for offset in np.linspace(-0.03, 0.03, 10)])
    np.savez(folder / "grey.npz", x=grey, y=np.arange(10) // 5)


def serve(folder: Path) -> None:
    """Serve weights for ``download-weights`` as long as the process that asked for it lives."""
    parent = os.getppid()
    with hostile_server.serving() as served:
        served.pause = PAUSE
        shop = Shop(served, folder)
        served.behaviour |= dict.fromkeys(served.files, hostile_server.slow)
        (folder / "ready").touch()
        assert shop.manifest.exists()
        while os.getppid() == parent:
            time.sleep(0.5)


def commands(folder: Path) -> Iterator[Soaked]:
    """The commands, each with a few seconds of work."""
    method = ["--model", str(folder / "model"), "--device", "cpu", "--quiet"]
    toys = ["--dataset", str(folder / "data.npz"), "--n", "6", "--classifier", "tests.toys:quadrant_classifier",
            "--steps", "3", "--num-latents", "2", "--reevaluations", "3", "--attack-steps", "4", "--eps", "0.02",
            "--attack", "pgd@bpda", "--attack", "fgsm@transfer"]  # fmt: skip
    grey = ["--dataset", str(folder / "grey.npz"), "--n", "10", "--classifier", "tests.toys:brightness_classifier",
            "--denoiser", "none", "--procedure", "cohen", "--samples", "1500", "--sigma", "0.5", "--batch-size", "500",
            "--device", "cpu", "--quiet"]  # fmt: skip
    arguments = {
        "purify": [str(folder / "in"), "--preset", "fast", "--steps", "25", "--batch-size", "2", *method],
        "benchmark": [*toys, *method],
        "certify": grey,
        "download-weights": ["net", "lpips-squeeze", "tiny-cd", "--accept-licence", "--quiet"],
    }
    for name, given in arguments.items():
        out = ["--weights-dir" if name == "download-weights" else "--out", "out"]
        yield Soaked(name, [name, *given, *out], folder / name)


def table(soaked: list[Soaked]) -> Iterator[str]:
    """The counts in Markdown."""
    names = ["command", "kills", *(each.name for each in SIGNALS), "starts", "runs that came to their end",
             "finished records and files that had to stay", "temporary folders left by kills",
             "locks left by kills", "lost, left over or refused"]  # fmt: skip
    yield f"| {' | '.join(names)} |"
    yield "| --- " * len(names) + "|"
    for each in soaked:
        kills = [each.kills.total(), *(each.kills[sent.name] for sent in SIGNALS)]
        rest = [each.starts, each.finished, each.kept, each.temporaries, each.locks, len(each.problems)]
        yield f"| {' | '.join(map(str, [each.name, *kills, *rest]))} |"


def soak(folder: Path, kills: int, seed: int) -> list[Soaked]:
    """All kills, and at the end a run of each command to its end."""
    moments = random.Random(seed)
    os.environ |= {"CMAP_MANIFEST": str(folder / "weights.toml"), "CMAP_DEVICE": "cpu", "NO_COLOR": "1"}
    assert ended(forked(lambda: prepare(folder)), PATIENCE) == 0
    server = forked(lambda: serve(folder))
    try:
        while not (folder / "ready").exists():
            assert ended(server, 0.05) is None
        soaked = list(commands(folder))
        for each in soaked:
            began, child, code = time.monotonic(), start(each, each.top / "whole"), None
            while code is None:
                each.seconds = time.monotonic() - began if each.waits else worked(child)
                code = ended(child, 0.002)
            assert code == 0, (each.top / "whole" / "stderr").read_text()
        for number in range(kills):
            each = soaked[number % len(soaked)]
            kill_once(each, SIGNALS[number // len(soaked) % len(SIGNALS)], moments)
            if number % 20 == 19:
                print(f"{number + 1} kills", file=sys.stderr, flush=True)
        for each in soaked:
            look(each, ended(start(each, each.top / "killed"), PATIENCE), None)
    finally:
        os.kill(server, signal.SIGKILL)
        os.waitpid(server, 0)
    return soaked


def main() -> int:
    """Print the seed first, so that a run can be repeated, and the counts at the end."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    options = parser.parse_args()
    print(f"{options.kills} kills, seed {options.seed}", flush=True)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        soaked = soak(Path(folder).resolve(), options.kills, options.seed)
    for each in soaked:
        for problem in each.problems:
            print(f"PROBLEM {each.name}: {problem}")
    print("\n".join(table(soaked)))
    print(f"{sum(each.kills.total() for each in soaked)} kills in {time.monotonic() - began:.0f} s")
    return 1 if any(each.problems for each in soaked) else 0


if __name__ == "__main__":
    sys.exit(main())
