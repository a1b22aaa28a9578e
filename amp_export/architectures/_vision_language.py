"""Facts about vision-language models: which decoder their language model is, when it reads text alone.

Source: the modeling files of these types, transformers 5.24.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


class ImageInput(enum.Enum):
    """What a vision encoder takes, each image cut into tiles of one size by the processor."""

    TILES = enum.auto()
    """`pixel_values` [tiles, channels, height, width]."""
    MASKED_TILES = enum.auto()
    """`pixel_values` [texts, tiles, channels, height, width] and `pixel_attention_mask` [texts, tiles, height, width],
    which is false where a tile is padding; tiles of zeros are none."""
    WHOLE_IMAGES = enum.auto()
    """`pixel_values` [images, channels, height, width]: each image is one tile, with a token for the end of its line,
    as in texts with several. A grid of tiles would depend on the size of the image."""


@dataclass(frozen=True)
class LanguageModel:
    """The language model of a type of vision-language models.

    Attributes:
        model_type: Type of the decoder that computes the same on text; None if `text_config` names its type itself.
        rope_fields: Fields of `rope_parameters` that matter to images alone: on text, positions in time, height and
            width are one and the same.
        heads_stay: Why no heads can be removed; None if they can.
        images: What the vision encoder takes, where it can be exported.
        not_exported: Why the vision-language model cannot be exported in parts; None if it can.
        sees_images_whole: Whether all tokens of an image attend to each other.
    """

    model_type: str | None = None
    rope_fields: tuple[str, ...] = ()
    heads_stay: str | None = None
    images: ImageInput = ImageInput.TILES
    not_exported: str | None = None
    sees_images_whole: bool = False


_DIVIDES = "its attention takes the width of a head from the number of heads"

_GRID = (
    "its vision encoder computes positions and windows from the grid of each image, in loops that tracing would fix to "
    "one grid, and its decoder takes positions in three rows"
)

VISION_LANGUAGE: Mapping[str, LanguageModel] = MappingProxyType(
    {
        # `get_block_sequence_ids_for_mask`, modeling_gemma3.py
        "gemma3": LanguageModel(sees_images_whole=True),
        "idefics3": LanguageModel(images=ImageInput.MASKED_TILES),
        "internvl": LanguageModel(),
        # `pack_image_features`, modeling_llava_onevision.py
        "llava_onevision": LanguageModel(images=ImageInput.WHOLE_IMAGES),
        "qwen2_5_vl": LanguageModel("qwen2", ("mrope_section",), _DIVIDES, not_exported=_GRID),
        "qwen2_vl": LanguageModel("qwen2", ("mrope_section",), _DIVIDES, not_exported=_GRID),
        "qwen3_vl": LanguageModel("qwen3", ("mrope_section", "mrope_interleaved"), not_exported=_GRID),
        "smolvlm": LanguageModel(images=ImageInput.MASKED_TILES),
    }
)
"""By the `model_type` of the whole."""
