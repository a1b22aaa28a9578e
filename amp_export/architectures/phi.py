"""Phi 1, 1.5 and 2: one norm before parallel attention and MLP; biases everywhere."""

from __future__ import annotations

from amp_export.architectures._computation import Computation, HeadNorms, NormKind, Order, Rotary
from amp_export.architectures._facts import Architecture
from amp_export.architectures._layouts import head_norm, language_model, norm, plain_mlp, separate_attention

ARCHITECTURE = Architecture(
    model_type="phi",
    class_name="PhiForCausalLM",
    defaults={
        "vocab_size": 51200,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 24,
        "num_attention_heads": 32,
        "num_key_value_heads": None,
        "head_dim": None,
        "hidden_act": "gelu_new",
        "max_position_embeddings": 2048,
        "layer_norm_eps": 1e-05,
        "tie_word_embeddings": False,
        "rope_parameters": None,
        "partial_rotary_factor": 0.5,
        "qk_layernorm": False,
    },
    attention=separate_attention(
        bias=True,
        output="dense",
        tensors=(
            *head_norm("self_attn.q_layernorm", bias=True, when={"qk_layernorm": True}),
            *head_norm("self_attn.k_layernorm", bias=True, when={"qk_layernorm": True}),
        ),
    ),
    mlp=plain_mlp("mlp.fc1", "mlp.fc2", bias=True),
    norms=norm("input_layernorm", bias=True),
    tensors=language_model("model.embed_tokens", norm("model.final_layernorm", bias=True), head_bias=True),
    # `PhiDecoderLayer`, `modeling_phi.py`, transformers 5.24.
    computation=Computation(
        norm=NormKind.LAYER,
        epsilon="layer_norm_eps",
        orders=(Order("input_layernorm", "input_layernorm", parallel=True),),
        final_norm="model.final_layernorm",
        head_norms=HeadNorms("self_attn.q_layernorm", "self_attn.k_layernorm", when={"qk_layernorm": True}),
        positions=Rotary(partial="partial_rotary_factor"),
    ),
    # `PhiAttention` takes the width of its head norms from the hidden size: `modeling_phi.py`, transformers 5.24.
    says_head_dim_when={"qk_layernorm": False},
)
