"""LFM2: short convolutions mix the tokens in most layers, and stay; grouped-query attention in the others."""

from __future__ import annotations

from amp_export.architectures._blocks import Block, Projection, PrunedUnit, Tensor, Total
from amp_export.architectures._computation import Computation, HeadNorms, Order, Rotary
from amp_export.architectures._derived import Derived, TwoThirds
from amp_export.architectures._facts import Architecture
from amp_export.architectures._gguf import GgufRoutes
from amp_export.architectures._layer_rules import LayerRule
from amp_export.architectures._layouts import head_norm, language_model, norm, separate_attention
from amp_export.architectures._mixers import ShortConvolution, State

ARCHITECTURE = Architecture(
    model_type="lfm2",
    class_name="Lfm2ForCausalLM",
    # `configuration_lfm2.py` and `modeling_lfm2.py`, transformers 5.24
    defaults={
        "vocab_size": 65536,
        "hidden_size": 2560,
        "intermediate_size": 12288,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": None,
        "max_position_embeddings": 128000,
        "norm_eps": 1e-5,
        "tie_word_embeddings": True,
        "rope_parameters": None,
        "conv_bias": False,
        "conv_L_cache": 3,
        "block_multiple_of": 256,
        "block_ffn_dim_multiplier": 1.0,
        "block_auto_adjust_ff_dim": True,
        "full_attn_idxs": None,
        "layer_types": None,
    },
    attention=separate_attention(
        bias=False,
        output="out_proj",
        tensors=(*head_norm("self_attn.q_layernorm"), *head_norm("self_attn.k_layernorm")),
    ),
    mlp=Block(
        module="feed_forward",
        inputs=(
            Projection("feed_forward.w1", rows=PrunedUnit.NEURONS),
            Projection("feed_forward.w3", rows=PrunedUnit.NEURONS),
        ),
        output=Projection("feed_forward.w2", columns=PrunedUnit.NEURONS),
    ),
    norms=(*norm("operator_norm"), *norm("ffn_norm")),
    tensors=language_model("model.embed_tokens", norm("model.embedding_norm")),
    mixer=ShortConvolution(
        module="conv",
        inputs=(Projection("conv.in_proj", writes=Total(((3, "hidden_size"),)), bias="conv_bias"),),
        output=Projection("conv.out_proj", bias="conv_bias"),
        convolution="conv.conv",
        tensors=(
            Tensor("conv.conv.weight", ("hidden_size", 1, "conv_L_cache")),
            Tensor("conv.conv.bias", ("hidden_size",), {"conv_bias": True}),
        ),
        states=(State("conv", ("hidden_size", "conv_L_cache")),),
    ),
    attention_layers=LayerRule(kinds={"layer_types": ("full_attention",)}, numbers="full_attn_idxs"),
    keeps_states=True,
    computation=Computation(
        epsilon="norm_eps",
        orders=(Order("operator_norm", "ffn_norm"),),
        final_norm="model.embedding_norm",
        head_norms=HeadNorms("self_attn.q_layernorm", "self_attn.k_layernorm"),
        positions=Rotary(theta=("rope_theta", 1_000_000.0)),
        fixed_activation="silu",
    ),
    aliases={"block_ff_dim": "intermediate_size", "tie_embedding": "tie_word_embeddings"},
    derived=(
        Derived(
            "intermediate_size",
            TwoThirds("intermediate_size", "block_ffn_dim_multiplier", "block_multiple_of"),
            {"block_auto_adjust_ff_dim": True},
        ),
    ),
    set_with_neurons={"block_auto_adjust_ff_dim": False},
    gguf=GgufRoutes("lfm2", requires={"conv_bias": False}),
)
