"""Qwen2 and Qwen2.5: biases on queries, keys and values only."""

from __future__ import annotations

from amp_export.architectures._computation import Computation, Windows
from amp_export.architectures._facts import Architecture
from amp_export.architectures._gguf import GgufRoutes
from amp_export.architectures._layouts import LLAMA_NORMS, LLAMA_TENSORS, gated_mlp, separate_attention

ARCHITECTURE = Architecture(
    model_type="qwen2",
    class_name="Qwen2ForCausalLM",
    defaults={
        "vocab_size": 151936,
        "hidden_size": 4096,
        "intermediate_size": 22016,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "head_dim": None,
        "hidden_act": "silu",
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
        "rope_parameters": None,
        "use_sliding_window": False,
        "sliding_window": 4096,
        "max_window_layers": 28,
        "layer_types": None,
    },
    attention=separate_attention(bias=True, output_bias=False),
    mlp=gated_mlp(),
    norms=LLAMA_NORMS,
    tensors=LLAMA_TENSORS,
    computation=Computation(windows=Windows(switch="use_sliding_window", from_layer="max_window_layers")),
    gguf=GgufRoutes("llama", varied="deci"),
)
