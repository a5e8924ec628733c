"""What the speed benchmarks share: clocks, the device's reach, peak memory."""

from __future__ import annotations

import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
"""The CPU clock counts this process alone: with one thread it is the wall clock of a machine that does nothing else."""


def timed(run: Callable[[], object], device: torch.device, clock: str = "wall") -> float:
    """Seconds that a call takes, kernels that it started included."""
    synchronize(device)
    began = CLOCKS[clock]()
    run()
    synchronize(device)
    return CLOCKS[clock]() - began


def synchronize(device: torch.device) -> None:
    """Wait for the accelerator."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def reach(device: torch.device, dtype: torch.dtype, clock: str = "wall", repeats: int = 5) -> dict[str, float]:
    """GFLOP/s of a large product and of a large 3×3 convolution (channels last), the best of a few runs each."""
    large = device.type == "cuda"
    side, images = (8192, 64) if large else (2048, 8)
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    conv = nn.Conv2d(256, 256, 3, padding=1, device=device, dtype=dtype).requires_grad_(False)
    conv = conv.to(memory_format=torch.channels_last)
    x = torch.randn(images, 256, 32, 32, device=device, dtype=dtype).to(memory_format=torch.channels_last)
    runs: dict[str, tuple[Callable[[], Tensor], float]] = {
        "product": (lambda: a @ b, 2 * side**3),
        "convolution": (lambda: conv(x), 2 * 9 * 256 * 256 * images * 32 * 32),
    }
    found = {}
    for name, (run, flop) in runs.items():
        run()
        found[name] = flop / min(timed(run, device, clock) for _ in range(repeats)) / 1e9
    return found


def step_gflop(model: nn.Module) -> float:
    """GFLOP of one call of the network for one latent with the gradient back to it.

    Products and convolutions are counted; the objective and Adam are not.
    """
    device = next(tensor.device for tensor in model.state_dict().values())
    z = torch.zeros(1, *model.image_shape, device=device, requires_grad=True)
    with FlopCounterMode(display=False) as counter, torch.enable_grad():
        model(z, torch.full((1,), model.sigma_max, device=device)).sum().backward()
    return float(counter.get_total_flops()) / 1e9


def peak_memory(device: torch.device) -> float:
    """MiB: the most that tensors ever took on CUDA, elsewhere the process's highest resident set."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    status = Path("/proc/self/status")
    if status.exists():  # getrusage's figure starts at that of the process that started this one
        lines = status.read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def machine(device: torch.device) -> str:
    """The machine in words."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, PyTorch {torch.__version__}"
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = f"{len(names)} cores of {names[0]}" if names else platform.processor() or platform.machine()
    kind = torch.backends.cpu.get_cpu_capability()
    return f"{name}, {kind}, {torch.get_num_threads()} threads, PyTorch {torch.__version__}"


def median_of_pairs(numerators: list[float], denominators: list[float]) -> tuple[float, float, float]:
    """The median, the least and the largest of the ratios of pairs that were timed one after the other."""
    ratios = [a / b for a, b in zip(numerators, denominators, strict=True)]
    return statistics.median(ratios), min(ratios), max(ratios)
