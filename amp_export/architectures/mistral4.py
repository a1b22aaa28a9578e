"""Mistral 4: latent attention whose queries grow beyond the original context, and experts."""

from __future__ import annotations

from amp_export.architectures._derived import Derived
from amp_export.architectures._facts import Architecture
from amp_export.architectures._layer_rules import LayerRule
from amp_export.architectures._layouts import LLAMA_NORMS, expert_mlp, latent_attention

ARCHITECTURE = Architecture(
    model_type="mistral4",
    class_name="Mistral4ForCausalLM",
    # `configuration_mistral4.py` and `modeling_mistral4.py`, transformers 5.24
    defaults={
        "vocab_size": 131072,
        "hidden_size": 4096,
        "moe_intermediate_size": 2048,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "num_key_value_heads": None,
        "kv_lora_rank": 256,
        "q_lora_rank": 1024,
        "qk_nope_head_dim": 64,
        "qk_rope_head_dim": 64,
        "v_head_dim": 128,
        "hidden_act": "silu",
        "max_position_embeddings": 1048576,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
        "rope_parameters": None,
        "attention_bias": False,
        "rope_interleave": True,
        "n_routed_experts": 128,
        "n_shared_experts": 1,
        "num_experts_per_tok": 4,
        "first_k_dense_replace": 0,
        "n_group": 1,
        "topk_group": 1,
        "norm_topk_prob": True,
        "routed_scaling_factor": 1.0,
    },
    attention=latent_attention(),
    mlp=expert_mlp("n_routed_experts"),
    norms=LLAMA_NORMS,
    mlp_layers=LayerRule(after="first_k_dense_replace"),
    # the width that the output projection reads of a head
    names={"intermediate_size": "moe_intermediate_size", "head_dim": "v_head_dim"},
    # every head has its own key and value, made from a latent that all share
    derived=(Derived("num_key_value_heads", "num_attention_heads", {}),),
    ignored=frozenset({"head_dim", "intermediate_size", "output_router_logits", "pretraining_tp", "qk_head_dim"}),
    # the experts that all tokens share are as wide as several of the others
    says_neurons_when={"n_shared_experts": 0},
    latent_cache=("kv_lora_rank", "qk_rope_head_dim"),
)
