"""Mixtral: Mistral with several expert MLPs per layer, chosen per token by a router."""

from __future__ import annotations

from amp_export.architectures._computation import Computation, Rotary
from amp_export.architectures._expert_layouts import W1_TO_W3, routed_experts
from amp_export.architectures._facts import Architecture
from amp_export.architectures._gguf import GgufRoutes
from amp_export.architectures._layouts import LLAMA_NORMS, LLAMA_TENSORS, separate_attention

ARCHITECTURE = Architecture(
    model_type="mixtral",
    class_name="MixtralForCausalLM",
    defaults={
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": None,
        "hidden_act": "silu",
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
        "rope_parameters": None,
        "sliding_window": None,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
    },
    attention=separate_attention(bias=False),
    # `MixtralTopKRouter`, `modeling_mixtral.py`, transformers 5.24
    mlp=routed_experts(
        "num_local_experts",
        router="mlp.gate",
        in_files={"mlp.gate.weight": ("block_sparse_moe.gate.weight",), **W1_TO_W3},
    ),
    norms=LLAMA_NORMS,
    tensors=LLAMA_TENSORS,
    computation=Computation(positions=Rotary(("rope_theta", 1_000_000.0))),
    ignored=frozenset({"output_router_logits", "router_aux_loss_coef", "router_jitter_noise"}),
    windows_every_layer=True,
    gguf=GgufRoutes("llama"),
)
