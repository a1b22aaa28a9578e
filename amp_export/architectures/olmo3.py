"""OLMo 3: OLMo 2 with windows in three of four layers."""

from __future__ import annotations

from amp_export.architectures._computation import Computation, HeadNorms, NormSpan, Order, Rotary, Windows
from amp_export.architectures._facts import Architecture
from amp_export.architectures._layouts import LLAMA_TENSORS, NORMS_OF_ALL_HEADS, gated_mlp, norm, separate_attention

ARCHITECTURE = Architecture(
    model_type="olmo3",
    class_name="Olmo3ForCausalLM",
    defaults={
        "vocab_size": 50304,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": None,
        "head_dim": None,
        "hidden_act": "silu",
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
        "rope_parameters": None,
        "attention_bias": False,
        "sliding_window": 4096,
        "layer_types": None,
    },
    attention=separate_attention(bias="attention_bias", tensors=NORMS_OF_ALL_HEADS),
    mlp=gated_mlp(),
    norms=(*norm("post_attention_layernorm"), *norm("post_feedforward_layernorm")),
    tensors=LLAMA_TENSORS,
    # `Olmo3Config.convert_rope_params_to_dict` and `modeling_olmo3.py`, transformers 5.24
    computation=Computation(
        orders=(Order(None, None, "post_attention_layernorm", "post_feedforward_layernorm"),),
        head_norms=HeadNorms("self_attn.q_norm", "self_attn.k_norm", NormSpan.ALL_HEADS),
        positions=Rotary(
            by_layer_type={"sliding_attention": (None, 500_000.0), "full_attention": ("rope_theta", 500_000.0)}
        ),
        windows=Windows(full_every=4),
    ),
)
