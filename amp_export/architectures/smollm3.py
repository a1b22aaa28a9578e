"""SmolLM3: Llama without rotary embeddings in every fourth layer."""

from __future__ import annotations

from amp_export.architectures._computation import Computation, Rotary, Windows
from amp_export.architectures._facts import Architecture
from amp_export.architectures._gguf import GgufRoutes
from amp_export.architectures._layouts import LLAMA_NORMS, LLAMA_TENSORS, gated_mlp, separate_attention

ARCHITECTURE = Architecture(
    model_type="smollm3",
    class_name="SmolLM3ForCausalLM",
    defaults={
        "vocab_size": 128256,
        "hidden_size": 2048,
        "intermediate_size": 11008,
        "num_hidden_layers": 36,
        "num_attention_heads": 16,
        "num_key_value_heads": 4,
        "head_dim": None,
        "hidden_act": "silu",
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-06,
        "tie_word_embeddings": True,
        "rope_parameters": None,
        "attention_bias": False,
        "mlp_bias": False,
        "use_sliding_window": False,
        "sliding_window": None,
        "no_rope_layers": None,
        "no_rope_layer_interval": 4,
        "layer_types": None,
    },
    attention=separate_attention(bias="attention_bias"),
    mlp=gated_mlp(bias="mlp_bias"),
    norms=LLAMA_NORMS,
    tensors=LLAMA_TENSORS,
    # `SmolLM3Config.__post_init__`, `configuration_smollm3.py`, transformers 5.24; True in no_rope_layers means rotated
    computation=Computation(
        positions=Rotary(
            theta=("rope_theta", 2_000_000.0), rotated="no_rope_layers", unrotated_every="no_rope_layer_interval"
        ),
        windows=Windows(switch="use_sliding_window", where_unrotated=True),
    ),
    gguf=GgufRoutes("smollm3"),
)
