"""InternLM3: a Llama with another config, which transformers loads in Llama's class."""

from __future__ import annotations

from amp_export.architectures._computation import Computation
from amp_export.architectures._facts import Architecture, Sibling
from amp_export.architectures._layouts import LLAMA_NORMS, LLAMA_TENSORS, gated_mlp, separate_attention

ARCHITECTURE = Architecture(
    model_type="internlm3",
    # `MODEL_FOR_CAUSAL_LM_MAPPING_NAMES`, `modeling_auto.py`, transformers 5.24
    class_name="LlamaForCausalLM",
    defaults={
        "vocab_size": 128512,
        "hidden_size": 4096,
        "intermediate_size": 10240,
        "num_hidden_layers": 48,
        "num_attention_heads": 32,
        "num_key_value_heads": 2,
        "head_dim": 128,
        "hidden_act": "silu",
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
        "rope_parameters": None,
        "attention_bias": False,
        "mlp_bias": False,
    },
    attention=separate_attention(bias="attention_bias"),
    mlp=gated_mlp(bias="mlp_bias"),
    norms=LLAMA_NORMS,
    tensors=LLAMA_TENSORS,
    computation=Computation(),
    aliases={"qkv_bias": "attention_bias", "bias": "mlp_bias"},
    hidden_size_divisible_by_heads=True,
    siblings=(Sibling("mistral", {"attention_bias": False, "mlp_bias": False}, {"sliding_window": None}),),
)
