"""OLMo 2: norms after attention and MLP, and norms that span all query heads or all key heads at once."""

from __future__ import annotations

from amp_export.architectures._computation import Computation, HeadNorms, NormSpan, Order
from amp_export.architectures._facts import Architecture
from amp_export.architectures._layouts import LLAMA_TENSORS, NORMS_OF_ALL_HEADS, gated_mlp, norm, separate_attention

ARCHITECTURE = Architecture(
    model_type="olmo2",
    class_name="Olmo2ForCausalLM",
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
        "rms_norm_eps": 1e-05,
        "tie_word_embeddings": False,
        "rope_parameters": None,
        "attention_bias": False,
    },
    attention=separate_attention(bias="attention_bias", tensors=NORMS_OF_ALL_HEADS),
    mlp=gated_mlp(),
    norms=(*norm("post_attention_layernorm"), *norm("post_feedforward_layernorm")),
    tensors=LLAMA_TENSORS,
    # `Olmo2DecoderLayer` and `Olmo2Attention`, `modeling_olmo2.py`, transformers 5.24.
    computation=Computation(
        orders=(Order(None, None, "post_attention_layernorm", "post_feedforward_layernorm"),),
        head_norms=HeadNorms("self_attn.q_norm", "self_attn.k_norm", NormSpan.ALL_HEADS),
    ),
)
