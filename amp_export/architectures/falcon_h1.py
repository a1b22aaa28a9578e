"""Falcon-H1: attention beside a state-space mixer, which stays, in each layer; muP multipliers around both."""

from __future__ import annotations

from amp_export.architectures._computation import Computation, Factor, Order
from amp_export.architectures._derived import Derived, Share
from amp_export.architectures._facts import Architecture
from amp_export.architectures._gguf import GgufRoutes
from amp_export.architectures._layer_rules import LayerRule
from amp_export.architectures._layouts import (
    MAMBA2,
    gated_mlp,
    language_model,
    mamba2_head_width,
    norm,
    separate_attention,
    state_space,
)

ARCHITECTURE = Architecture(
    model_type="falcon_h1",
    class_name="FalconH1ForCausalLM",
    # `configuration_falcon_h1.py` and `modeling_falcon_h1.py`, transformers 5.24
    defaults={
        "vocab_size": 128000,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": None,
        "hidden_act": "silu",
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
        "rope_parameters": None,
        "attention_bias": False,
        "mlp_bias": False,
        "projectors_bias": False,
        "key_multiplier": 1.0,
        "attention_in_multiplier": 1.0,
        "attention_out_multiplier": 1.0,
        "mlp_multipliers": [1.0, 1.0],
        "ssm_multipliers": [1.0, 1.0, 1.0, 1.0, 1.0],
        "ssm_in_multiplier": 1.0,
        "ssm_out_multiplier": 1.0,
        "embedding_multiplier": 1.0,
        "lm_head_multiplier": 1.0,
        **MAMBA2,
        "mamba_d_ssm": 1024,
        "mamba_norm_before_gate": True,
        "mamba_rms_norm": False,
    },
    attention=separate_attention(bias="attention_bias"),
    mlp=gated_mlp(module="feed_forward", bias="mlp_bias"),
    norms=(*norm("input_layernorm"), *norm("pre_ff_layernorm")),
    tensors=language_model("model.embed_tokens", norm("model.final_layernorm")),
    mixer=state_space(
        "mamba",
        output_bias="projectors_bias",
        normed_when={"mamba_rms_norm": True},
        gated_last_when={"mamba_norm_before_gate": True},
    ),
    mixer_layers=LayerRule(),
    keeps_states=True,
    computation=Computation(
        orders=(Order("input_layernorm", "pre_ff_layernorm"),),
        final_norm="model.final_layernorm",
        embedding_factor=Factor("embedding_multiplier"),
        read_factors={"self_attn": Factor("attention_in_multiplier"), "mamba": Factor("ssm_in_multiplier")},
        write_factors={
            "self_attn.k_proj": (Factor("key_multiplier"),),
            "self_attn.o_proj": (Factor("attention_out_multiplier"),),
            "mamba.in_proj": tuple(Factor("ssm_multipliers", item=part) for part in range(5)),
            "mamba.out_proj": (Factor("ssm_out_multiplier"),),
            "feed_forward.gate_proj": (Factor("mlp_multipliers", item=0),),
            "feed_forward.down_proj": (Factor("mlp_multipliers", item=1),),
        },
        logit_factor=Factor("lm_head_multiplier"),
    ),
    derived=(
        Derived("mamba_d_ssm", Share(("mamba_expand", "hidden_size"))),
        *mamba2_head_width("mamba_d_ssm"),
    ),
    ignored=frozenset({"num_logits_to_keep"}),
    gguf=GgufRoutes("falcon-h1", requires={"mamba_proj_bias": False, "projectors_bias": False}),
)
