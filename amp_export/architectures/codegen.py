"""CodeGen: parallel attention and MLP like GPT-J's, with queries, values and keys fused in four shards."""

from __future__ import annotations

from amp_export.architectures._blocks import Block, Projection
from amp_export.architectures._derived import Derived
from amp_export.architectures._facts import Architecture
from amp_export.architectures._layouts import GPT2_NAMES, norm, plain_mlp

ARCHITECTURE = Architecture(
    model_type="codegen",
    class_name="CodeGenForCausalLM",
    # `configuration_codegen.py` and `modeling_codegen.py`, transformers 5.24
    defaults={
        "vocab_size": 50400,
        "n_positions": 2048,
        "n_embd": 4096,
        "n_layer": 28,
        "n_head": 16,
        "n_inner": None,
        "rotary_dim": 64,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
        "tie_word_embeddings": False,
    },
    attention=Block("attn", (), Projection("attn.out_proj")),
    mlp=plain_mlp("mlp.fc_in", "mlp.fc_out", bias=True),
    norms=norm("ln_1", bias=True),
    names={**GPT2_NAMES, "num_key_value_heads": None},
    derived=(Derived("n_inner", ("n_embd", 4)),),
    heads_stay="queries, values and keys are fused in four shards, which split heads",
    ignored=frozenset({"n_ctx"}),
    says_head_dim_when=None,
    embeds_padding=False,
    base_model="transformer",
    layers="transformer.h",
    embedding="transformer.wte",
    obsolete=(".attn.causal_mask", ".attn.bias", ".attn.masked_bias"),
)
