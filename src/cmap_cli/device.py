"""Where and how precisely to compute: device, precision, memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch
from torch import Tensor

from cmap_cli.choices import Precision
from cmap_cli.errors import UsageError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
MEMORY_SHARE = 0.5
CPU_BATCH_CAP = 8
ACCELERATOR_BATCH_CAP = 256


@dataclass(frozen=True, slots=True)
class DeviceChoice:
    """A device and why it was chosen."""

    device: torch.device
    reason: str


def choose_device(name: str = "auto") -> DeviceChoice:
    """CUDA, else MPS, else the CPU for "auto"; any other name is taken as it is.

    Raises:
        UsageError: the device does not exist here.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return DeviceChoice(torch.device("cuda"), torch.cuda.get_device_name())
        if torch.backends.mps.is_available():
            return DeviceChoice(torch.device("mps"), "Apple GPU")
        threads = torch.get_num_threads()
        return DeviceChoice(torch.device("cpu"), f"no accelerator found, {threads} thread{'' if threads == 1 else 's'}")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(
            f"the device {name} cannot be used: {reason}", "--device auto, cpu, cuda, cuda:1 or mps"
        ) from error
    return DeviceChoice(device, "as asked")


def choose_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """What the network computes in: "auto" is bfloat16 where the hardware has it, else float32."""
    if precision != "auto":
        return DTYPES[precision]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    if device.type == "cpu":
        capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
        has_bf16 = capabilities.get("amx_bf16") or capabilities.get("avx512_bf16")
        return torch.bfloat16 if has_bf16 else torch.float32
    return torch.float32


def available_memory(device: torch.device) -> int:
    """Bytes that can still be allocated on the device, a control group's limit included."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory())
    free = int(psutil.virtual_memory().available)
    limit, used = (Path("/sys/fs/cgroup") / name for name in ("memory.max", "memory.current"))
    if limit.exists() and used.exists() and limit.read_text().strip() != "max":
        free = min(free, int(limit.read_text()) - int(used.read_text()))
    return free


def saved_bytes(forward: Callable[[], Tensor]) -> int:
    """Bytes that autograd keeps for the backward pass of a function, counted on one call of it."""
    storages: dict[int, int] = {}

    def count(tensor: Tensor) -> Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        forward()
    return sum(storages.values())


def choose_batch_size(bytes_per_image: int, device: torch.device) -> int:
    """Images at once: what fits into half of the free memory, no more than what still gains speed.

    Args:
        bytes_per_image: of activations, for all latents of one image.
        device: where they are kept.
    """
    cap = CPU_BATCH_CAP if device.type == "cpu" else ACCELERATOR_BATCH_CAP
    return max(1, min(cap, int(available_memory(device) * MEMORY_SHARE) // max(1, bytes_per_image)))
