"""Tiny models for GGUF files, and how far llama.cpp is from PyTorch with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from amp_export.checkpoints.loading import load_model
from amp_export.exporters.gguf.routes import routed_families
from tests.support.lopsided import save_lopsided
from tests.support.tiny_models import save_tiny_model

ROUTED = routed_families()

NEED_ALL_HEADS = ("lfm2",)
"""Families whose query heads must fill the hidden size."""

FEWER_HEADS: dict[str, Any] = {"num_attention_heads": 2, "num_key_value_heads": 1}
"""Heads that do not fill the hidden size of 32: 2 of 8."""

FIELDS: dict[str, dict[str, Any]] = {
    # some layers without rotary embeddings, some with full attention
    "smollm3": {"num_hidden_layers": 5},
    "gemma": {"tie_word_embeddings": True},
    "gemma2": {"tie_word_embeddings": True},
    "gemma3_text": {"num_hidden_layers": 7},
    "lfm2": {"conv_bias": False},
    "falcon_h1": {
        **dict.fromkeys(("attention_bias", "mamba_proj_bias", "projectors_bias", "mamba_norm_before_gate"), False),
        "mamba_rms_norm": True,
        # with a usual epsilon, norms of groups that nearly nothing passes make PyTorch's own rounding 2e-5
        "rms_norm_eps": 1e-2,
    },
}

LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "rope_theta": 1e4,
          "original_max_position_embeddings": 32}  # fmt: skip
YARN = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4, "original_max_position_embeddings": 32}
LINEAR = {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}

WHOLE_BLOCKS = {"hidden_size": 64, "intermediate_size": 96, "head_dim": 16}


def save(folder: Path, model_type: str, **fields: Any) -> Path:
    return save_tiny_model(folder / "checkpoint", model_type, **{**FIELDS.get(model_type, {}), **fields})


def save_uneven(folder: Path, model_type: str, *, pad: bool = False, **fields: Any) -> Path:
    """Write a checkpoint whose layers have different widths, without the tokenizer, which no GGUF file can hold."""
    save_lopsided(folder, model_type, pad=pad, **{**FIELDS.get(model_type, {}), "num_hidden_layers": 3, **fields})
    for file in (folder / "pruned").glob("*token*"):
        file.unlink()
    return folder / "pruned"


def errors(checkpoint: Path, folder: Path, *, exact: bool = True) -> float:
    """The largest difference of a logit from PyTorch's, relative to the largest logit, of a prompt in two pieces."""
    import torch

    from amp_export.exporters.gguf import running

    decoder = running.run(folder, threads=1, exact=exact)
    ids_bs = np.random.default_rng(0).integers(4, 100, (2, 24))
    mask_bs, places_bs = np.ones_like(ids_bs), np.tile(np.arange(24), (2, 1))
    first, past = decoder.forward(ids_bs[:, :20], mask_bs[:, :20], places_bs[:, :20])
    second, _ = decoder.forward(ids_bs[:, 20:], mask_bs, places_bs[:, 20:], past)
    decoder.close()
    with torch.inference_mode():
        logits_bsv = load_model(checkpoint, dtype=torch.float32)(torch.from_numpy(ids_bs)).logits.numpy()
    difference = np.abs(np.concatenate([first, second], axis=1) - logits_bsv).max()
    return float(difference / np.abs(logits_bsv).max())


def allowed(model_type: str) -> float:
    """Relative error: ggml computes Gemma's GELU by a table of float16."""
    return 2e-3 if model_type.startswith("gemma") else 3e-6


def load(folder: Path) -> Any:
    """Load an export with attention in float32."""
    from amp_export.exporters.dispatch import run
    from amp_export.exporters.gguf.running import LlamaDecoder
    from amp_export.exporters.models.decoder import Decoder

    model = run(folder, threads=1, exact=True)
    assert isinstance(model, Decoder)
    assert isinstance(model, LlamaDecoder)
    return model
