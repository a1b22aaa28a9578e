"""Gemma 3's text model: a norm on every query and key head, five sliding-window layers per full-attention layer."""

from __future__ import annotations

from amp_export.architectures._computation import (
    AttentionScale,
    Computation,
    Factor,
    HeadNorms,
    NormKind,
    Rotary,
    Windows,
)
from amp_export.architectures._facts import Architecture
from amp_export.architectures._gguf import GgufRoutes
from amp_export.architectures._layouts import (
    GEMMA_NORMS,
    GEMMA_ORDER,
    LLAMA_TENSORS,
    NORMS_OF_EACH_HEAD,
    gated_mlp,
    separate_attention,
)

ARCHITECTURE = Architecture(
    model_type="gemma3_text",
    class_name="Gemma3ForCausalLM",
    defaults={
        "vocab_size": 262208,
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "num_hidden_layers": 26,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "hidden_activation": "gelu_pytorch_tanh",
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-06,
        "tie_word_embeddings": True,
        "rope_parameters": None,
        "attention_bias": False,
        "query_pre_attn_scalar": 256,
        "sliding_window": 4096,
        "layer_types": None,
        "final_logit_softcapping": None,
        "attn_logit_softcapping": None,
        "use_bidirectional_attention": None,
    },
    attention=separate_attention(bias="attention_bias", tensors=NORMS_OF_EACH_HEAD),
    mlp=gated_mlp(),
    norms=GEMMA_NORMS,
    tensors=LLAMA_TENSORS,
    # `modeling_gemma3.py` and `Gemma3TextConfig`, transformers 5.24; attn_logit_softcapping is unused there
    computation=Computation(
        norm=NormKind.RMS_FROM_ONE,
        orders=(GEMMA_ORDER,),
        head_norms=HeadNorms("self_attn.q_norm", "self_attn.k_norm"),
        positions=Rotary(
            by_layer_type={
                "sliding_attention": ("rope_local_base_freq", 10_000.0),
                "full_attention": ("rope_theta", 1_000_000.0),
            }
        ),
        windows=Windows(full_every=("sliding_window_pattern", 6)),
        activation="hidden_activation",
        attention_scale=AttentionScale(Factor("query_pre_attn_scalar", -0.5)),
        embedding_factor=Factor("hidden_size", 0.5),
        logit_softcap="final_logit_softcapping",
    ),
    ignored=frozenset({"_sliding_window_pattern"}),
    refused={"use_bidirectional_attention": (True,)},
    hidden_size_divisible_by_heads=True,
    gguf=GgufRoutes("gemma3"),
)
