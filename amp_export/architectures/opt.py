"""OPT: learned positions with an offset of two, and an MLP computed by the layer itself."""

from __future__ import annotations

from amp_export.architectures._blocks import Count, Offset, Tensor
from amp_export.architectures._computation import Computation, Learned, NormKind, Order
from amp_export.architectures._facts import Architecture
from amp_export.architectures._layouts import language_model, norm, plain_mlp, separate_attention

ARCHITECTURE = Architecture(
    model_type="opt",
    class_name="OPTForCausalLM",
    defaults={
        "vocab_size": 50272,
        "hidden_size": 768,
        "ffn_dim": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "activation_function": "relu",
        "max_position_embeddings": 2048,
        "do_layer_norm_before": True,
        "word_embed_proj_dim": None,
        "enable_bias": True,
        "layer_norm_elementwise_affine": True,
        "tie_word_embeddings": True,
        "_remove_final_layer_norm": False,
    },
    attention=separate_attention(bias="enable_bias", output="out_proj", attributes={"num_heads": Count.QUERY_HEADS}),
    mlp=plain_mlp("fc1", "fc2", bias="enable_bias"),
    norms=(*norm("self_attn_layer_norm", bias=True), *norm("final_layer_norm", bias=True)),
    tensors=(
        *language_model("model.decoder.embed_tokens", norm("model.decoder.final_layer_norm", bias=True)),
        # `OPTLearnedPositionalEmbedding.offset`, `modeling_opt.py`, transformers 5.24.
        Tensor("model.decoder.embed_positions.weight", (Offset("max_position_embeddings", 2), "hidden_size")),
    ),
    computation=Computation(
        norm=NormKind.LAYER,
        epsilon=1e-5,  # torch's default: the config has no such field
        orders=(Order("self_attn_layer_norm", "final_layer_norm"),),
        final_norm="model.decoder.final_layer_norm",
        positions=Learned("model.decoder.embed_positions", offset=2),
        activation="activation_function",
    ),
    names={"intermediate_size": "ffn_dim", "num_key_value_heads": None, "head_dim": None},
    ignored=frozenset({"activation_dropout", "prefix"}),
    # only OPT-350M has post-norms and projects its embeddings
    refused={
        "do_layer_norm_before": (False,),
        "layer_norm_elementwise_affine": (False,),
        "_remove_final_layer_norm": (True,),
    },
    says_head_dim_when=None,
    layers="model.decoder.layers",
    embedding="model.decoder.embed_tokens",
)
