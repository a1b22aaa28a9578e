"""Gemma 3n's text model: several streams, layers that share keys and values, and MLPs with few active neurons."""

from __future__ import annotations

from amp_export.architectures._blocks import Block, Projection
from amp_export.architectures._derived import Derived
from amp_export.architectures._facts import Architecture
from amp_export.architectures._layer_rules import LayerRule
from amp_export.architectures._layouts import GEMMA_NORMS, gated_mlp

ARCHITECTURE = Architecture(
    model_type="gemma3n_text",
    class_name="Gemma3nForCausalLM",
    # `configuration_gemma3n.py` and `modeling_gemma3n.py`, transformers 5.24
    defaults={
        "vocab_size": 262400,
        "hidden_size": 2048,
        # a number, or one for each layer
        "intermediate_size": None,
        "num_hidden_layers": 35,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "head_dim": 256,
        "hidden_activation": "gelu_pytorch_tanh",
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": True,
        "rope_parameters": None,
        "attention_bias": False,
        "sliding_window": 512,
        "layer_types": None,
        "final_logit_softcapping": 30.0,
        "vocab_size_per_layer_input": 262144,
        "hidden_size_per_layer_input": 256,
        "altup_active_idx": 0,
        "altup_coef_clip": 120.0,
        "altup_correct_scale": True,
        "altup_num_inputs": 4,
        "num_kv_shared_layers": 15,
        "laurel_rank": 64,
        "activation_sparsity_pattern": None,
    },
    attention=Block("self_attn", (), Projection("self_attn.o_proj", bias="attention_bias")),
    mlp=gated_mlp(),
    norms=GEMMA_NORMS,
    shares_cache="num_kv_shared_layers",
    heads_stay="layers share keys and values",
    # where neurons are cut off below a quantile of all of them, fewer of them would move it: `_gaussian_topk`
    mlp_layers=LayerRule(kinds={"activation_sparsity_pattern": (0.0,)}, otherwise=False),
    # one number for each layer, those of MLPs that stay among them
    says_neurons_when=None,
    derived=(Derived("intermediate_size", 16384),),
    layers_follow_when=None,
    hidden_size_divisible_by_heads=True,
)
