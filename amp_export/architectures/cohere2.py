"""Command R7B and Command A: Command R whose layers with full attention have no rotary embeddings."""

from __future__ import annotations

from amp_export.architectures._computation import Computation, Factor, NormKind, Order, Rotary, Windows
from amp_export.architectures._facts import Architecture
from amp_export.architectures._layouts import LLAMA_TENSORS, gated_mlp, norm, separate_attention

ARCHITECTURE = Architecture(
    model_type="cohere2",
    class_name="Cohere2ForCausalLM",
    defaults={
        "vocab_size": 256000,
        "hidden_size": 8192,
        "intermediate_size": 22528,
        "logit_scale": 0.0625,
        "num_hidden_layers": 40,
        "num_attention_heads": 64,
        "num_key_value_heads": None,
        "head_dim": None,
        "hidden_act": "silu",
        "max_position_embeddings": 8192,
        "layer_norm_eps": 1e-05,
        "tie_word_embeddings": True,
        "rope_parameters": None,
        "attention_bias": False,
        "sliding_window": 4096,
        "layer_types": None,
    },
    attention=separate_attention(bias="attention_bias"),
    mlp=gated_mlp(),
    norms=norm("input_layernorm"),
    tensors=LLAMA_TENSORS,
    # `Cohere2Config.__post_init__` and `modeling_cohere2.py`, transformers 5.24
    computation=Computation(
        norm=NormKind.LAYER,
        epsilon="layer_norm_eps",
        orders=(Order("input_layernorm", "input_layernorm", parallel=True),),
        positions=Rotary(interleaved=True, only_windowed=True),
        windows=Windows(full_every=("sliding_window_pattern", 4)),
        logit_factor=Factor("logit_scale"),
    ),
    # without a window, no layer has positions at all
    refused={"sliding_window": (None,)},
)
