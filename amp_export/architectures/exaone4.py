"""EXAONE 4: norms after attention and MLP and of every head; only layers with a window have rotary embeddings."""

from __future__ import annotations

from amp_export.architectures._computation import Computation, HeadNorms, Order, Rotary, Windows
from amp_export.architectures._facts import Architecture
from amp_export.architectures._layouts import LLAMA_TENSORS, NORMS_OF_EACH_HEAD, gated_mlp, norm, separate_attention

ARCHITECTURE = Architecture(
    model_type="exaone4",
    class_name="Exaone4ForCausalLM",
    defaults={
        "vocab_size": 102400,
        "hidden_size": 4096,
        "intermediate_size": 16384,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "head_dim": None,
        "hidden_act": "silu",
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
        "rope_parameters": None,
        "sliding_window": 4096,
        "sliding_window_pattern": 4,
        "layer_types": None,
    },
    attention=separate_attention(bias=False, tensors=NORMS_OF_EACH_HEAD),
    mlp=gated_mlp(),
    norms=(*norm("post_attention_layernorm"), *norm("post_feedforward_layernorm")),
    tensors=LLAMA_TENSORS,
    # `Exaone4Attention.forward` and `Exaone4DecoderLayer.forward`, `modeling_exaone4.py`, transformers 5.24
    computation=Computation(
        orders=(Order(None, None, "post_attention_layernorm", "post_feedforward_layernorm"),),
        head_norms=HeadNorms("self_attn.q_norm", "self_attn.k_norm"),
        positions=Rotary(only_windowed=True),
        windows=Windows(full_every=("sliding_window_pattern", 4)),
    ),
)
