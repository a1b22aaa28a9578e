"""Tiny random vision-language models, and inputs with an image for each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from amp_export.architectures._vision_language import VISION_LANGUAGE
from tests.support.tiny_models import FAMILY_FIELDS, GATED_DELTA, SEED, randomize

IMAGE_TOKEN, VISION_START = 100, 98

TEXT: dict[str, Any] = {
    "vocab_size": 101,
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}

_SIDE, _PATCH = 28, 14

_VISION: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "image_size": _SIDE,
    "patch_size": _PATCH,
}

_QWEN_VISION: dict[str, Any] = {"depth": 1, "num_heads": 4, "patch_size": _PATCH}
_QWEN_TOKENS = {"image_token_id": IMAGE_TOKEN, "video_token_id": 99, "vision_start_token_id": VISION_START}
_ROPE: dict[str, Any] = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}

_CLIP = {**_VISION, "model_type": "clip_vision_model", "num_hidden_layers": 2, "projection_dim": 32}

_SIGLIP = {**_VISION, "model_type": "siglip_vision_model", "vision_use_head": False}

FIELDS: dict[str, dict[str, Any]] = {
    "gemma3": {
        "text_config": {**TEXT, "model_type": "gemma3_text", "sliding_window": 6, "query_pre_attn_scalar": 12},
        "vision_config": _SIGLIP,
        "mm_tokens_per_image": 4,
        "image_token_index": IMAGE_TOKEN,
        "boi_token_index": 99,
        "eoi_token_index": 98,
    },
    "gemma4": {
        "text_config": {
            **TEXT,
            "sliding_window": 6,
            "layer_types": ["sliding_attention", "full_attention"],
            "global_head_dim": 12,
            "vocab_size_per_layer_input": TEXT["vocab_size"],
            "hidden_size_per_layer_input": 4,
            "use_bidirectional_attention": "vision",
        },
        "vision_config": {
            **_VISION,
            "head_dim": 8,
            "num_key_value_heads": 4,
            "patch_size": 4,
            "pooling_kernel_size": 2,
            "position_embedding_size": 8,
            "use_clipped_linears": True,
        },
        "audio_config": {
            "hidden_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "subsampling_conv_channels": [128, 4],
            "output_proj_dims": 16,
        },
        "image_token_id": IMAGE_TOKEN,
        "video_token_id": 99,
        "audio_token_id": 97,
    },
    "idefics3": {
        "text_config": {**TEXT, "model_type": "llama"},
        "vision_config": _VISION,
        "image_token_id": IMAGE_TOKEN,
        "scale_factor": 1,
    },
    "internvl": {
        "text_config": {**TEXT, "model_type": "qwen3"},
        "vision_config": {**_VISION, "image_size": [_SIDE] * 2, "patch_size": [_PATCH] * 2},
        "image_token_id": IMAGE_TOKEN,
        "image_seq_length": 1,
        "tie_word_embeddings": False,
    },
    "llava": {"text_config": {**TEXT, "model_type": "llama"}, "vision_config": _CLIP, "image_token_index": IMAGE_TOKEN},
    "llava_next": {
        "text_config": {**TEXT, "model_type": "mistral"},
        "vision_config": _CLIP,
        "image_token_index": IMAGE_TOKEN,
        "image_grid_pinpoints": [[_SIDE, _SIDE]],
    },
    "llava_onevision": {
        "text_config": {**TEXT, "model_type": "qwen2"},
        "vision_config": _SIGLIP,
        "image_token_index": IMAGE_TOKEN,
        "video_token_index": 99,
        "image_grid_pinpoints": [[_SIDE, _SIDE]],
    },
    "mistral3": {
        "text_config": {
            **TEXT,
            "model_type": "ministral3",
            "rope_parameters": FAMILY_FIELDS["ministral3"]["rope_parameters"],
        },
        "vision_config": {**_VISION, "model_type": "pixtral", "patch_size": _PATCH // 2},
        "image_token_index": IMAGE_TOKEN,
        "spatial_merge_size": 2,
        "multimodal_projector_bias": True,
        "tie_word_embeddings": False,
    },
    "qwen2_5_vl": {
        "text_config": {**TEXT, "rope_parameters": _ROPE},
        "vision_config": {
            **_QWEN_VISION,
            "depth": 3,
            "hidden_size": 32,
            "intermediate_size": 48,
            "out_hidden_size": 48,
            "fullatt_block_indexes": [1],
            "window_size": 4 * _PATCH,
        },
        **_QWEN_TOKENS,
    },
    "qwen2_vl": {
        "text_config": {**TEXT, "rope_parameters": _ROPE},
        "vision_config": {**_QWEN_VISION, "embed_dim": 32, "hidden_size": 48, "mlp_ratio": 2},
        **_QWEN_TOKENS,
    },
    "qwen3_5": {
        "text_config": {
            **TEXT,
            **GATED_DELTA,
            "layer_types": ["linear_attention", "full_attention"],
            "rope_parameters": {**_ROPE, "partial_rotary_factor": 1.0, "mrope_interleaved": True},
            "mtp_num_hidden_layers": 1,
        },
        "vision_config": {
            **_QWEN_VISION,
            "hidden_size": 32,
            "intermediate_size": 48,
            "out_hidden_size": 48,
            "num_position_embeddings": 16,
        },
        **_QWEN_TOKENS,
    },
    "qwen3_vl": {
        "text_config": {**TEXT, "rope_parameters": {**_ROPE, "mrope_interleaved": True}},
        "vision_config": {
            **_QWEN_VISION,
            "depth": 3,
            "hidden_size": 32,
            "intermediate_size": 48,
            "out_hidden_size": 48,
            "deepstack_visual_indexes": [0, 1],
            "num_position_embeddings": 16,
        },
        **_QWEN_TOKENS,
    },
    "smolvlm": {
        "text_config": {**TEXT, "model_type": "llama"},
        "vision_config": _VISION,
        "image_token_id": IMAGE_TOKEN,
        "scale_factor": 1,
        "tie_word_embeddings": True,
    },
}
"""Fields of a config, by the `model_type` of the whole."""

EXPORTED = [name for name in FIELDS if VISION_LANGUAGE[name].not_exported is None]
WITH_GRIDS = [name for name in EXPORTED if VISION_LANGUAGE[name].grid_encoder is not None]


def build_tiny_whole(model_type: str, **overrides: Any) -> Any:
    """Return a vision-language model with random weights."""
    import torch
    import transformers

    config = transformers.AutoConfig.for_model(model_type, **{**FIELDS[model_type], **overrides})
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        model = transformers.AutoModelForImageTextToText.from_config(config).eval()
    randomize(model, vocab_size=TEXT["vocab_size"])
    return model


def save_tiny_whole(folder: Path, model_type: str, **overrides: Any) -> Path:
    """Write a vision-language model with random weights."""
    build_tiny_whole(model_type, **overrides).save_pretrained(folder)
    return folder


@dataclass(frozen=True)
class _Image:
    """What stands for an image in the inputs of a type.

    Attributes:
        tokens: Number of tokens that it takes.
        leading: Axes of `pixel_values` before those of an image.
        others: Other inputs of the vision encoder.
        types: Name of the input that says which tokens stand for images; None if there is none.
        shape: Shape of an image.
    """

    tokens: int = 4
    leading: tuple[int, ...] = (1,)
    others: Mapping[str, Any] = field(default_factory=dict)
    types: str | None = None
    shape: tuple[int, ...] = (3, _SIDE, _SIDE)


_GRID = _Image(4, (16,), {"image_grid_thw": [[1, 4, 4]]}, "mm_token_type_ids", (2 * 3 * _PATCH**2,))
_SIZES = {"image_sizes": [[_SIDE, _SIDE]]}

_IMAGES: dict[str, _Image] = {
    "gemma3": _Image(types="token_type_ids"),
    "gemma4": _Image(
        others={"image_position_ids": [[[number % 4, number // 4] for number in range(16)]]},
        types="mm_token_type_ids",
        shape=(16, 3 * 4**2),
    ),
    "idefics3": _Image(leading=(1, 1)),
    "internvl": _Image(1),
    "llava": _Image(),
    # the whole image, and the image again with the end of each of its two rows
    **dict.fromkeys(("llava_next", "llava_onevision"), _Image(4 + 6, (1, 2), _SIZES)),
    "mistral3": _Image(others=_SIZES),
    **dict.fromkeys(("qwen2_5_vl", "qwen2_vl", "qwen3_5", "qwen3_vl"), _GRID),
    "smolvlm": _Image(leading=(1, 1)),
}


def image_inputs(model: Any) -> dict[str, Any]:
    """Return inputs of a text with an image in it."""
    import torch

    image = _IMAGES[model.config.model_type]
    generator = torch.Generator().manual_seed(SEED)
    pixels = torch.randn(*image.leading, *image.shape, generator=generator)
    ids = torch.tensor([[5, 6, *[IMAGE_TOKEN] * image.tokens, 7, 8, 9, 10]])
    inputs = {"input_ids": ids, "pixel_values": pixels}
    inputs |= {name: torch.tensor(value) for name, value in image.others.items()}
    if image.types is not None:
        inputs[image.types] = (ids == IMAGE_TOKEN).int()
    return inputs
