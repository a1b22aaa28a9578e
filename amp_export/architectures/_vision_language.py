"""Facts about vision-language models: which decoder their language model is, when it reads text alone.

Source: the modeling files of these types, transformers 5.24.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from amp_export.architectures._grid_encoders import QWEN2_5_VL, QWEN2_VL, QWEN3_VL, GridEncoder
from amp_export.architectures._position_axes import PositionAxes


class ImageInput(enum.Enum):
    """What a vision encoder takes; for most, the processor cuts each image into tiles of one size."""

    TILES = enum.auto()
    """`pixel_values` [tiles, channels, height, width]."""
    CHOSEN_LAYERS = enum.auto()
    """As `TILES`; the features are those of the layers that `vision_feature_layer` names."""
    MASKED_TILES = enum.auto()
    """`pixel_values` [texts, tiles, channels, height, width] and `pixel_attention_mask` [texts, tiles, height, width],
    which is false where a tile is padding; tiles of zeros are none."""
    WHOLE_IMAGES = enum.auto()
    """`pixel_values` [images, channels, height, width]: each image is one tile, with a token for the end of its line,
    as in texts with several. A grid of tiles would depend on the size of the image."""
    ANY_SIZE = enum.auto()
    """`pixel_values` [images, channels, height, width] of any size, which is that of all images of a call."""
    PATCHES = enum.auto()
    """`pixel_values` [patches, values of a patch] of all images, of any sizes, and the grid of each: `GridEncoder`."""


@dataclass(frozen=True)
class LanguageModel:
    """The language model of a type of vision-language models.

    Attributes:
        model_type: Type of the decoder that computes the same on text; None if `text_config` names its type itself.
        axes: Which positions of a token, in time, height and width, its rotary embeddings turn by; None if a token has
            one position.
        text_values: Values of further fields that matter to images alone, with those that mean the same on text.
        left_out: First parts of the names of tensors that transformers does not load, and whose widths a config says
            together with those of the language model, so that a pruned one does without them.
        left_out_fields: Fields of `text_config` that say how many of them there are.
        not_pruned: Why its language model cannot be pruned, and what to do, as the end of a message; None if it can.
        heads_stay: Why no heads can be removed; None if they can.
        images: What the vision encoder takes, where it can be exported.
        grid_encoder: What is known of a vision encoder that takes `ImageInput.PATCHES`.
        encoders: Types of vision encoders that can be exported within it; empty if it has but one.
        not_exported: Why the vision-language model cannot be exported in parts; None if it can.
        sees_images_whole: Whether all tokens of an image attend to each other.
    """

    model_type: str | None = None
    axes: PositionAxes | None = None
    text_values: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    left_out_fields: tuple[str, ...] = ()
    not_pruned: str | None = None
    heads_stay: str | None = None
    images: ImageInput = ImageInput.TILES
    grid_encoder: GridEncoder | None = None
    encoders: tuple[str, ...] = ()
    not_exported: str | None = None
    sees_images_whole: bool = False


_DIVIDES = "its attention takes the width of a head from the number of heads"

_NOT_TRIED = "no graph of its vision encoder was compared with it yet"

_PIECES = "how many tokens an image takes, and where its lines end, depends on the size of the image"

_NOT_BUILT = "its decoder's graph is not built directly, from embeddings, as those of parts are"

_BOTH_WAYS = (
    "it reads image and prompt in both directions, so that its language model computes something else as a decoder of "
    "text.\nUse a model of another type."
)

_SPARSE = (
    "where few neurons are active, all of them stay, and its text_config would get one number for all layers.\n"
    "Save its language model as a checkpoint of its own with transformers, and prune that."
)

VISION_LANGUAGE: Mapping[str, LanguageModel] = MappingProxyType(
    {
        # `get_block_sequence_ids_for_mask`, modeling_gemma3.py
        "gemma3": LanguageModel(sees_images_whole=True),
        # `_gaussian_topk`, modeling_gemma3n.py
        "gemma3n": LanguageModel(not_pruned=_SPARSE),
        # `Gemma4Model.forward`, modeling_gemma4.py: without types of tokens, the mask is causal
        "gemma4": LanguageModel(text_values={"use_bidirectional_attention": {"vision": None}}, not_exported=_NOT_BUILT),
        "idefics3": LanguageModel(images=ImageInput.MASKED_TILES),
        "internvl": LanguageModel(),
        "llava": LanguageModel(images=ImageInput.CHOSEN_LAYERS, encoders=("clip_vision_model", "siglip_vision_model")),
        # `pack_image_features`, modeling_llava_next.py
        "llava_next": LanguageModel(not_exported=_PIECES),
        # `pack_image_features`, modeling_llava_onevision.py
        "llava_onevision": LanguageModel(images=ImageInput.WHOLE_IMAGES),
        "mistral3": LanguageModel(images=ImageInput.ANY_SIZE, encoders=("pixtral",)),
        # `PaliGemmaConfig.__post_init__` and `PaliGemmaModel.forward`
        "paligemma": LanguageModel(not_pruned=_BOTH_WAYS),
        "qwen2_5_vl": LanguageModel(
            "qwen2",
            axes=PositionAxes((16, 24, 24)),
            heads_stay=_DIVIDES,
            images=ImageInput.PATCHES,
            grid_encoder=QWEN2_5_VL,
        ),
        "qwen2_vl": LanguageModel(
            "qwen2",
            axes=PositionAxes((16, 24, 24)),
            heads_stay=_DIVIDES,
            images=ImageInput.PATCHES,
            grid_encoder=QWEN2_VL,
        ),
        # `_keys_to_ignore_on_load_unexpected`, modeling_qwen3_5.py: layers that draft tokens for other runtimes
        "qwen3_5": LanguageModel(
            axes=PositionAxes((11, 11, 10), interleaved=True),
            left_out=("mtp",),
            left_out_fields=("mtp_num_hidden_layers",),
            not_exported=_NOT_TRIED,
        ),
        "qwen3_vl": LanguageModel(
            "qwen3",
            axes=PositionAxes((24, 20, 20), interleaved=True),
            images=ImageInput.PATCHES,
            grid_encoder=QWEN3_VL,
        ),
        "smolvlm": LanguageModel(images=ImageInput.MASKED_TILES),
    }
)
"""By the `model_type` of the whole."""
