"""Apertus: a plain MLP with xIELU, whose parameters are learned, and a norm on every query and key head."""

from __future__ import annotations

from dataclasses import replace

from amp_export.architectures._blocks import Tensor
from amp_export.architectures._computation import Computation, HeadNorms, Order
from amp_export.architectures._facts import Architecture
from amp_export.architectures._layouts import LLAMA_TENSORS, NORMS_OF_EACH_HEAD, norm, plain_mlp, separate_attention

_XIELU = {"hidden_act": "xielu"}

ARCHITECTURE = Architecture(
    model_type="apertus",
    class_name="ApertusForCausalLM",
    defaults={
        "vocab_size": 131072,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": None,
        "head_dim": None,
        "hidden_act": "xielu",
        "max_position_embeddings": 65536,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 12000000.0,
            "factor": 8.0,
            "original_max_position_embeddings": 8192,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
        },
        "attention_bias": False,
    },
    attention=separate_attention(bias="attention_bias", tensors=NORMS_OF_EACH_HEAD),
    mlp=replace(
        plain_mlp("mlp.up_proj", "mlp.down_proj", bias=False),
        # `XIELUActivation`, `activations.py`, transformers 5.24
        tensors=(
            *(Tensor(f"mlp.act_fn.{name}", (1,), _XIELU) for name in ("alpha_p", "alpha_n")),
            *(Tensor(f"mlp.act_fn.{name}", (), _XIELU, is_buffer=True) for name in ("beta", "eps")),
        ),
    ),
    norms=(*norm("attention_layernorm"), *norm("feedforward_layernorm")),
    tensors=LLAMA_TENSORS,
    # `ApertusDecoderLayer.forward`, `modeling_apertus.py`, transformers 5.24
    computation=Computation(
        orders=(Order("attention_layernorm", "feedforward_layernorm"),),
        head_norms=HeadNorms("self_attn.q_norm", "self_attn.k_norm"),
        activation_module="mlp.act_fn",
    ),
)
