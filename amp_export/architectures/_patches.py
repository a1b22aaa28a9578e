"""Names of the inputs of models that take images of any size as rows of patches: `Architecture.takes_patches`.

Source: `Siglip2ImageProcessor`, `image_processing_siglip2.py`, transformers 5.24.
"""

from __future__ import annotations

PATCH_MASK = "pixel_attention_mask"
"""Which patches are real, 1, and which are padding, 0: int64 [images, patches]."""

SPATIAL_SHAPES = "spatial_shapes"
"""Rows and columns of each image's patches: int64 [images, 2]."""
