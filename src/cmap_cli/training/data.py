"""Training images: any inputs that ``cmap purify`` takes, as one uint8 tensor."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from cmap_cli.data.images import read_image, to_uint8
from cmap_cli.data.inputs import Source
from cmap_cli.data.tiling import cut, plan_fit
from cmap_cli.errors import ImageError


def load_training_images(
    sources: Sequence[Source],
    channels: int,
    size: int,
    on_image: Callable[[], None],
    on_failure: Callable[[ImageError], None],
) -> Tensor:
    """All readable images; those of another size are resized on the short side and cropped in the middle.

    Returns:
        uint8, (N, channels, size, size), kept in memory: 3 KiB per image at 32×32.
    """
    images = torch.empty((len(sources), channels, size, size), dtype=torch.uint8)
    count = 0
    for source in sources:
        try:
            pixels = read_image(source, channels=1 if channels == 1 else 3).pixels
        except ImageError as error:
            on_failure(error)
            continue
        images[count] = to_uint8(cut(pixels, plan_fit(pixels.shape[1], pixels.shape[2], (size, size), "crop"))[0])
        count += 1
        on_image()
    return images[:count]
