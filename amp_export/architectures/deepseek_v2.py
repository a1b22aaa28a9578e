"""DeepSeek-V2: latent attention, and experts besides some that all tokens share."""

from __future__ import annotations

from amp_export.architectures._derived import Derived
from amp_export.architectures._facts import Architecture
from amp_export.architectures._layer_rules import LayerRule
from amp_export.architectures._layouts import LLAMA_NORMS, expert_mlp, latent_attention

ARCHITECTURE = Architecture(
    model_type="deepseek_v2",
    class_name="DeepseekV2ForCausalLM",
    # `configuration_deepseek_v2.py` and `modeling_deepseek_v2.py`, transformers 5.24
    defaults={
        "vocab_size": 102400,
        "hidden_size": 4096,
        "moe_intermediate_size": 1407,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": None,
        "kv_lora_rank": 512,
        "q_lora_rank": 1536,
        "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64,
        "v_head_dim": 128,
        "hidden_act": "silu",
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
        "rope_parameters": None,
        "attention_bias": False,
        "mlp_bias": False,
        "n_routed_experts": 64,
        "n_shared_experts": 2,
        "num_experts_per_tok": None,
        "first_k_dense_replace": 0,
        "n_group": None,
        "topk_group": None,
        "topk_method": "greedy",
        "norm_topk_prob": False,
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
    hidden_size_divisible_by_heads=True,
    # the experts that all tokens share are as wide as several of the others
    says_neurons_when={"n_shared_experts": 0},
    latent_cache=("kv_lora_rank", "qk_rope_head_dim"),
)
