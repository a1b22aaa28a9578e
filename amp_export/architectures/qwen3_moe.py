"""Qwen3 with experts: many narrow MLPs per layer, chosen per token by a router."""

from __future__ import annotations

from amp_export.architectures._computation import Computation, HeadNorms, Windows
from amp_export.architectures._derived import Derived
from amp_export.architectures._expert_layouts import GATE_UP_DOWN, routed_experts
from amp_export.architectures._facts import Architecture
from amp_export.architectures._gguf import GgufRoutes
from amp_export.architectures._layouts import LLAMA_NORMS, LLAMA_TENSORS, NORMS_OF_EACH_HEAD, separate_attention

ARCHITECTURE = Architecture(
    model_type="qwen3_moe",
    class_name="Qwen3MoeForCausalLM",
    defaults={
        "vocab_size": 151936,
        "hidden_size": 2048,
        "moe_intermediate_size": 768,
        "num_hidden_layers": 24,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "head_dim": None,
        "hidden_act": "silu",
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
        "rope_parameters": None,
        "attention_bias": False,
        "use_sliding_window": False,
        "sliding_window": None,
        "num_local_experts": 128,
        "num_experts_per_tok": 8,
        "norm_topk_prob": False,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
    },
    attention=separate_attention(bias="attention_bias", tensors=NORMS_OF_EACH_HEAD),
    # `Qwen3MoeTopKRouter`, `modeling_qwen3_moe.py`, transformers 5.24
    mlp=routed_experts("num_local_experts", router="mlp.gate", in_files=GATE_UP_DOWN, adds_to_one="norm_topk_prob"),
    norms=LLAMA_NORMS,
    tensors=LLAMA_TENSORS,
    computation=Computation(
        head_norms=HeadNorms("self_attn.q_norm", "self_attn.k_norm"), windows=Windows(switch="use_sliding_window")
    ),
    names={"intermediate_size": "moe_intermediate_size"},
    # configs of older versions use num_experts
    derived=(Derived("num_local_experts", "num_experts", {"num_local_experts": None}),),
    ignored=frozenset({"intermediate_size", "num_experts", "output_router_logits", "router_aux_loss_coef"}),
    # layers with a plain MLP between those with experts have another width
    required={"decoder_sparse_step": 1, "mlp_only_layers": []},
    gguf=GgufRoutes("qwen3moe", requires={"norm_topk_prob": True}),
)
