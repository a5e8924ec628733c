"""Checks whether a model from elsewhere is a consistency model whose latents can be optimised."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from cmap_cli.core.types import TakesAnySize, num_classes
from cmap_cli.errors import UsageError, WeightsError

BOUNDARY_TOLERANCE = 0.01
"""Largest |f(x, t_min) − x|, in units of [-1, 1]; half precision stays below it."""
LARGEST_IMAGE = 1 << 28
"""Largest number of values in an image; a larger shape is a mistake or hostile."""
LARGEST_STRIDE = 256
DECLARED = ("sigma_min", "sigma_max", "image_shape")


def check_consistency_model(name: str, model: Any, device: torch.device | str) -> None:
    """Try a model from elsewhere: attributes, shapes, f(x, t_min) = x, and gradients at t_max.

    Args:
        name: as the user gave it.
        model: the object to try; whatever it raises becomes a WeightsError.
        device: where it runs.

    Raises:
        WeightsError: it is not a consistency model whose latents can be optimised; the message names the reason.
        UsageError: it has no gradient.
    """
    if not callable(model) or any(not hasattr(model, attribute) for attribute in DECLARED):
        raise WeightsError(
            f"{name} is no consistency model: it is a {type(model).__name__}, not a function of (x, sigma) with the "
            f"attributes {', '.join(DECLARED)}"
        )
    check_attributes(name, model)
    x = 2 * torch.rand(2, *model.image_shape, generator=torch.Generator().manual_seed(0)).to(device) - 1
    with torch.no_grad():
        distance = float((generated(name, model, x, model.sigma_min) - x).abs().max())
    if distance > BOUNDARY_TOLERANCE:
        raise WeightsError(
            f"{name} is no consistency model: f(x, t_min) should be x and is up to {distance:.3g} away from it",
            "it may take another range than [-1, 1] or other noise levels, or be a diffusion model",
        )
    highest = model.sigma_max
    if isinstance(model, TakesAnySize):
        generated(name, model, x.new_zeros(2, x.shape[1], 2 * model.stride, 3 * model.stride), highest)
    z = (x * highest).requires_grad_()
    with torch.enable_grad():
        image = generated(name, model, z, highest)
        if not image.requires_grad or not torch.autograd.grad(image.sum(), z)[0].abs().sum() > 0:
            raise UsageError(f"{name} has no gradient with respect to its input, which the method needs")


def check_attributes(name: str, model: Any) -> None:
    """Refuse noise levels that are not 0 < t_min < t_max < ∞, and shapes that are not (C, H, W) (WeightsError)."""
    low, high, shape = model.sigma_min, model.sigma_max, model.image_shape
    levels = all(isinstance(each, int | float) and math.isfinite(each) for each in (low, high)) and 0 < low < high
    sides = (
        isinstance(shape, tuple | list) and len(shape) == 3 and all(type(side) is int and side > 0 for side in shape)
    )
    if not levels or not sides or math.prod(shape) > LARGEST_IMAGE:
        raise WeightsError(
            f"{name} has the noise levels {low} to {high} and images {shape}",
            "they should be 0 < sigma_min < sigma_max and (C, H, W)",
        )
    if isinstance(model, TakesAnySize):
        stride, radius = model.stride, model.receptive_radius
        if type(stride) is not int or type(radius) is not int or not 0 < stride <= LARGEST_STRIDE or radius < 0:
            raise WeightsError(
                f"{name} takes images of any size, with the stride {stride} and the receptive radius {radius}",
                f"they should be whole numbers of pixels, the stride from 1 to {LARGEST_STRIDE}",
            )


def generated(name: str, model: Any, x: Tensor, sigma: float) -> Tensor:
    """f(x, sigma) for a batch of two, of class 0 where the model has classes (WeightsError if it is no image batch)."""
    labels = (torch.zeros(len(x), dtype=torch.int64, device=x.device),) if num_classes(model) else ()
    try:
        out = model(x, torch.full((len(x),), float(sigma), device=x.device), *labels)
    except Exception as error:  # whatever the user's code raises
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise WeightsError(f"{name} fails on {tuple(x.shape)} at {sigma:g}: {reason}") from error
    if not isinstance(out, Tensor) or out.shape != x.shape:
        raise WeightsError(f"{name} makes {tuple(getattr(out, 'shape', ()))} of images {tuple(x.shape)}")
    if not bool(out.isfinite().all()):
        raise WeightsError(f"{name} makes values that are not finite at noise level {sigma:g}")
    return out
