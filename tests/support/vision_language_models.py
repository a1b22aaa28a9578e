"""Tiny random vision-language models, and inputs with an image for each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.support.tiny_models import SEED, randomize

IMAGE_TOKEN = 100

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
_QWEN_TOKENS = {"image_token_id": IMAGE_TOKEN, "video_token_id": 99, "vision_start_token_id": 98}
_ROPE: dict[str, Any] = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}

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
    "llava_onevision": {
        "text_config": {**TEXT, "model_type": "qwen2"},
        "vision_config": _SIGLIP,
        "image_token_index": IMAGE_TOKEN,
        "video_token_index": 99,
        "image_grid_pinpoints": [[_SIDE, _SIDE]],
    },
    "qwen2_5_vl": {
        "text_config": {**TEXT, "rope_parameters": _ROPE},
        "vision_config": {
            **_QWEN_VISION,
            "hidden_size": 32,
            "intermediate_size": 48,
            "out_hidden_size": 48,
            "fullatt_block_indexes": [0],
            "window_size": 28,
        },
        **_QWEN_TOKENS,
    },
    "qwen2_vl": {
        "text_config": {**TEXT, "rope_parameters": _ROPE},
        "vision_config": {**_QWEN_VISION, "embed_dim": 32, "hidden_size": 48, "mlp_ratio": 2},
        **_QWEN_TOKENS,
    },
    "qwen3_vl": {
        "text_config": {**TEXT, "rope_parameters": {**_ROPE, "mrope_interleaved": True}},
        "vision_config": {
            **_QWEN_VISION,
            "hidden_size": 32,
            "intermediate_size": 48,
            "out_hidden_size": 48,
            "deepstack_visual_indexes": [0],
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


def image_inputs(model: Any) -> dict[str, Any]:
    """Return inputs of a text with an image in it."""
    import torch

    model_type = model.config.model_type
    generator = torch.Generator().manual_seed(SEED)
    inputs: dict[str, Any]
    if model_type.startswith("qwen"):
        numbers = 3 * model.config.vision_config.temporal_patch_size * _PATCH**2
        pixels = torch.randn(16, numbers, generator=generator)
        inputs = {"pixel_values": pixels, "image_grid_thw": torch.tensor([[1, 4, 4]])}
        tokens = 4
    else:
        leading = {"idefics3": (1, 1), "smolvlm": (1, 1), "llava_onevision": (1, 2)}.get(model_type, (1,))
        inputs = {"pixel_values": torch.randn(*leading, 3, _SIDE, _SIDE, generator=generator)}
        if model_type == "llava_onevision":
            inputs["image_sizes"] = torch.tensor([[_SIDE, _SIDE]])
        # the whole image, and the image again with the end of each of its two rows
        tokens = {"internvl": 1, "llava_onevision": 4 + 6}.get(model_type, 4)
    ids = torch.tensor([[5, 6, *[IMAGE_TOKEN] * tokens, 7, 8, 9, 10]])
    inputs["mm_token_type_ids" if model_type.startswith("qwen") else "token_type_ids"] = (ids == IMAGE_TOKEN).int()
    if model_type not in ("gemma3", *(name for name in FIELDS if name.startswith("qwen"))):
        del inputs["token_type_ids"]
    return {"input_ids": ids, **inputs}
