"""Images of any size as rows of patches: `Architecture.takes_patches`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from amp_export.architectures import PATCH_MASK, SPATIAL_SHAPES, ModelConfig

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np

    Integers = np.ndarray[Any, np.dtype[np.int64]]

MOST_PATCHES = 256
"""Most patches of an image where nothing else is asked for: `Siglip2ImageProcessor.max_num_patches`, 5.24."""


def values_of_a_patch(config: ModelConfig) -> int:
    """Return the number of values of a patch."""
    return config.size("num_channels") * config.size("patch_size") ** 2


def grid_of(patches: int) -> tuple[int, int]:
    """Return the rows and columns of the squarest image of so many patches that is no higher than wide."""
    rows = next(each for each in range(math.isqrt(patches), 0, -1) if patches % each == 0)
    return rows, patches // rows


def describe_patches(counts: Sequence[int]) -> Mapping[str, Integers]:
    """Return the mask and the shapes of images of so many patches, in rows that are as long as the longest."""
    import numpy as np

    mask_bp = (np.arange(max(counts)) < np.asarray(counts)[:, np.newaxis]).astype(np.int64)
    return {PATCH_MASK: mask_bp, SPATIAL_SHAPES: np.array([grid_of(each) for each in counts], np.int64)}
