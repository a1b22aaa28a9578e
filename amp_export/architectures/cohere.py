"""Command R: one norm before parallel attention and MLP; interleaved rotary embeddings."""

from __future__ import annotations

from amp_export.architectures._blocks import Features, PrunedUnit, Tensor
from amp_export.architectures._computation import Computation, Factor, HeadNorms, NormKind, NormSpan, Order, Rotary
from amp_export.architectures._facts import Architecture
from amp_export.architectures._layouts import LLAMA_TENSORS, gated_mlp, norm, separate_attention

ARCHITECTURE = Architecture(
    model_type="cohere",
    class_name="CohereForCausalLM",
    defaults={
        "vocab_size": 256000,
        "hidden_size": 8192,
        "intermediate_size": 22528,
        "logit_scale": 0.0625,
        "num_hidden_layers": 40,
        "num_attention_heads": 64,
        "num_key_value_heads": None,
        "head_dim": None,
        "hidden_act": "silu",
        "max_position_embeddings": 8192,
        "layer_norm_eps": 1e-05,
        "tie_word_embeddings": True,
        "rope_parameters": None,
        "attention_bias": False,
        "use_qk_norm": False,
    },
    attention=separate_attention(
        bias="attention_bias",
        # each head has its own norm weight: one row per head
        tensors=(
            Tensor(
                "self_attn.q_norm.weight",
                (Features((PrunedUnit.QUERY_HEADS,), entries_per_head=1), "head_dim"),
                {"use_qk_norm": True},
            ),
            Tensor(
                "self_attn.k_norm.weight",
                (Features((PrunedUnit.KEY_VALUE_HEADS,), entries_per_head=1), "head_dim"),
                {"use_qk_norm": True},
            ),
        ),
    ),
    mlp=gated_mlp(),
    norms=norm("input_layernorm"),
    tensors=LLAMA_TENSORS,
    # `modeling_cohere.py`, transformers 5.24.
    computation=Computation(
        norm=NormKind.LAYER,
        epsilon="layer_norm_eps",
        orders=(Order("input_layernorm", "input_layernorm", parallel=True),),
        head_norms=HeadNorms(
            "self_attn.q_norm", "self_attn.k_norm", NormSpan.HEAD_OF_ITS_OWN, when={"use_qk_norm": True}
        ),
        positions=Rotary(theta=("rope_theta", 500_000.0), interleaved=True),
        logit_factor=Factor("logit_scale"),
    ),
    ignored=frozenset({"layer_types", "sliding_window"}),
)
