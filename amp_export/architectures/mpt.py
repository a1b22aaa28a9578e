"""MPT: ALiBi instead of positions, and no biases."""

from __future__ import annotations

from amp_export.architectures._blocks import Block, Projection, PrunedUnit
from amp_export.architectures._derived import Derived
from amp_export.architectures._facts import Architecture
from amp_export.architectures._layouts import norm, plain_mlp

ARCHITECTURE = Architecture(
    model_type="mpt",
    class_name="MptForCausalLM",
    defaults={
        "vocab_size": 50368,
        "d_model": 2048,
        "n_layers": 24,
        "n_heads": 16,
        "max_seq_len": 2048,
        "layer_norm_epsilon": 1e-5,
        "tie_word_embeddings": True,
        "attn_config": None,
    },
    attention=Block(
        module="attn",
        inputs=(
            Projection(
                "attn.Wqkv", rows=(PrunedUnit.QUERY_HEADS, PrunedUnit.KEY_VALUE_HEADS, PrunedUnit.KEY_VALUE_HEADS)
            ),
        ),
        output=Projection("attn.out_proj", columns=PrunedUnit.QUERY_HEADS),
    ),
    mlp=plain_mlp("ffn.up_proj", "ffn.down_proj", bias=False),
    norms=(*norm("norm_1"), *norm("norm_2")),
    names={
        "hidden_size": "d_model",
        "num_hidden_layers": "n_layers",
        "num_attention_heads": "n_heads",
        "max_position_embeddings": "max_seq_len",
        "num_key_value_heads": None,
        "head_dim": None,
    },
    # `MptMLP.__init__`, `modeling_mpt.py`, transformers 5.24
    derived=(Derived("intermediate_size", ("d_model", 4), {}),),
    # which transformers does not read
    ignored=frozenset(
        {
            *("emb_pdrop", "embedding_fraction", "expansion_ratio", "init_device", "learned_pos_emb", "logit_scale"),
            *("no_bias", "norm_type"),
        }
    ),
    heads_stay="its position biases follow from the index of a head",
    says_head_dim_when=None,
    says_neurons_when=None,
    embeds_padding=False,
    base_model="transformer",
    layers="transformer.blocks",
    embedding="transformer.wte",
)
