"""Gemma 2: norms before and after attention and MLP, soft-capped logits, a sliding window in every other layer."""

from __future__ import annotations

from amp_export.architectures._computation import AttentionScale, Computation, Factor, NormKind, Windows
from amp_export.architectures._facts import Architecture
from amp_export.architectures._gguf import GgufRoutes
from amp_export.architectures._layouts import GEMMA_ORDER, LLAMA_TENSORS, gated_mlp, norm, separate_attention

ARCHITECTURE = Architecture(
    model_type="gemma2",
    class_name="Gemma2ForCausalLM",
    defaults={
        "vocab_size": 256000,
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "num_hidden_layers": 26,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "hidden_activation": "gelu_pytorch_tanh",
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-06,
        "tie_word_embeddings": True,
        "rope_parameters": None,
        "attention_bias": False,
        "query_pre_attn_scalar": 256,
        "sliding_window": 4096,
        "layer_types": None,
        "final_logit_softcapping": 30.0,
        "attn_logit_softcapping": 50.0,
        "use_bidirectional_attention": None,
    },
    attention=separate_attention(bias="attention_bias"),
    mlp=gated_mlp(),
    norms=(
        *norm("input_layernorm"),
        *norm("post_attention_layernorm"),
        *norm("pre_feedforward_layernorm"),
        *norm("post_feedforward_layernorm"),
    ),
    tensors=LLAMA_TENSORS,
    # `modeling_gemma2.py` and `Gemma2Config.__post_init__`, transformers 5.24.
    computation=Computation(
        norm=NormKind.RMS_FROM_ONE,
        orders=(GEMMA_ORDER,),
        windows=Windows(full_every=2),
        activation="hidden_activation",
        attention_scale=AttentionScale(Factor("query_pre_attn_scalar", -0.5)),
        attention_softcap="attn_logit_softcapping",
        embedding_factor=Factor("hidden_size", 0.5),
        logit_softcap="final_logit_softcapping",
    ),
    refused={"use_bidirectional_attention": (True,)},
    hidden_size_divisible_by_heads=True,
    gguf=GgufRoutes("gemma2"),
)
