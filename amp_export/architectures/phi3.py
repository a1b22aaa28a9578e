"""Phi-3 and Phi-4: queries, keys and values fused in blocks; gate and up fused too."""

from __future__ import annotations

from amp_export.architectures._blocks import Block, Count, Projection, PrunedUnit
from amp_export.architectures._computation import Computation, Rotary
from amp_export.architectures._facts import Architecture
from amp_export.architectures._gguf import GgufRoutes
from amp_export.architectures._layouts import LLAMA_NORMS, LLAMA_TENSORS, fused_gated_mlp

ARCHITECTURE = Architecture(
    model_type="phi3",
    class_name="Phi3ForCausalLM",
    defaults={
        "vocab_size": 32064,
        "hidden_size": 3072,
        "intermediate_size": 8192,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": None,
        "head_dim": None,
        "hidden_act": "silu",
        "max_position_embeddings": 4096,
        "original_max_position_embeddings": 4096,
        "rms_norm_eps": 1e-05,
        "tie_word_embeddings": False,
        "rope_parameters": None,
        "partial_rotary_factor": 1.0,
        "sliding_window": None,
    },
    attention=Block(
        module="self_attn",
        inputs=(
            Projection(
                "self_attn.qkv_proj",
                rows=(PrunedUnit.QUERY_HEADS, PrunedUnit.KEY_VALUE_HEADS, PrunedUnit.KEY_VALUE_HEADS),
            ),
        ),
        output=Projection("self_attn.o_proj", columns=PrunedUnit.QUERY_HEADS),
        # `Phi3Attention.forward`, `modeling_phi3.py`, transformers 5.24.
        attributes={
            "num_key_value_groups": Count.QUERY_GROUP,
            "num_key_value_heads": Count.KEY_VALUE_HEADS,
            "config.num_attention_heads": Count.QUERY_HEADS,
        },
    ),
    mlp=fused_gated_mlp(),
    norms=LLAMA_NORMS,
    tensors=LLAMA_TENSORS,
    # `Phi3Config.convert_rope_params_to_dict`, `configuration_phi3.py`, transformers 5.24.
    computation=Computation(
        positions=Rotary(partial="partial_rotary_factor", renamed={"su": "longrope", "yarn": "longrope"})
    ),
    windows_every_layer=True,
    gguf=GgufRoutes("llama", varied="deci"),
)
