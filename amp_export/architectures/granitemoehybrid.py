"""Granite 4 without experts: state-space mixers in most layers, which stay, and attention in the others, or in all."""

from __future__ import annotations

from amp_export.architectures._blocks import Block, Projection, PrunedUnit
from amp_export.architectures._computation import AttentionScale, Computation, Factor, Rotary
from amp_export.architectures._facts import Architecture
from amp_export.architectures._gguf import GgufRoutes
from amp_export.architectures._layer_rules import LayerRule
from amp_export.architectures._layouts import (
    LLAMA_NORMS,
    LLAMA_TENSORS,
    MAMBA2,
    mamba2_head_width,
    separate_attention,
    state_space,
)

ARCHITECTURE = Architecture(
    model_type="granitemoehybrid",
    class_name="GraniteMoeHybridForCausalLM",
    # `configuration_granitemoehybrid.py` and `modeling_granitemoehybrid.py`, transformers 5.24
    defaults={
        "vocab_size": 32000,
        "hidden_size": 4096,
        "shared_intermediate_size": 1024,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": None,
        "head_dim": None,
        "hidden_act": "silu",
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
        "rope_parameters": None,
        "position_embedding_type": None,
        "attention_bias": False,
        "embedding_multiplier": 1.0,
        "logits_scaling": 1.0,
        "residual_multiplier": 1.0,
        "attention_multiplier": 1.0,
        "num_local_experts": 8,
        "layer_types": None,
        **MAMBA2,
    },
    attention=separate_attention(bias="attention_bias"),
    mlp=Block(
        module="shared_mlp",
        inputs=(Projection("shared_mlp.input_linear", rows=(PrunedUnit.NEURONS, PrunedUnit.NEURONS)),),
        output=Projection("shared_mlp.output_linear", columns=PrunedUnit.NEURONS),
    ),
    norms=LLAMA_NORMS,
    tensors=LLAMA_TENSORS,
    mixer=state_space("mamba"),
    # transformers reads `attention` as `full_attention`: `remap_legacy_layer_types`, configuration_utils.py
    attention_layers=LayerRule(kinds={"layer_types": ("full_attention", "attention")}, otherwise=False),
    keeps_states=True,
    computation=Computation(
        positions=Rotary(when={"position_embedding_type": "rope"}),
        attention_scale=AttentionScale(Factor("attention_multiplier")),
        embedding_factor=Factor("embedding_multiplier"),
        scales_all_embeddings=True,
        residual_factor=Factor("residual_multiplier"),
        logit_factor=Factor("logits_scaling", -1.0),
    ),
    derived=mamba2_head_width("mamba_expand", "hidden_size"),
    names={"intermediate_size": "shared_intermediate_size"},
    ignored=frozenset({"intermediate_size", "num_experts_per_tok", "output_router_logits", "router_aux_loss_coef"}),
    # those with experts have few neurons besides them
    required={"num_local_experts": 0},
    gguf=GgufRoutes("granitehybrid", unmixed="granite", requires={"mamba_proj_bias": False}),
)
