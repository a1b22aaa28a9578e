"""gpt-oss: experts with biases whose gates and ups are interleaved, and a sink for every query head."""

from __future__ import annotations

from amp_export.architectures._blocks import Features, Layout, Projection, PrunedUnit, Tensor
from amp_export.architectures._computation import Computation, Rotary, Windows
from amp_export.architectures._experts import ClampedSwish, Experts
from amp_export.architectures._facts import Architecture
from amp_export.architectures._layouts import LLAMA_NORMS, LLAMA_TENSORS, separate_attention

ARCHITECTURE = Architecture(
    model_type="gpt_oss",
    class_name="GptOssForCausalLM",
    defaults={
        "vocab_size": 201088,
        "hidden_size": 2880,
        "intermediate_size": 2880,
        "num_hidden_layers": 36,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "hidden_act": "silu",
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
        "rope_parameters": None,
        "attention_bias": True,
        "sliding_window": 128,
        "layer_types": None,
        "num_local_experts": 128,
        "num_experts_per_tok": 4,
        "swiglu_alpha": 1.702,
        "swiglu_limit": 7.0,
    },
    # `GptOssAttention`, `GptOssTopKRouter` and `GptOssExperts`, `modeling_gpt_oss.py`, transformers 5.24
    attention=separate_attention(
        bias="attention_bias",
        tensors=(Tensor("self_attn.sinks", (Features((PrunedUnit.QUERY_HEADS,), entries_per_head=1),)),),
    ),
    mlp=Experts(
        module="mlp.experts",
        inputs=(
            Projection(
                "mlp.experts.gate_up_proj",
                rows=(PrunedUnit.NEURONS, PrunedUnit.NEURONS),
                bias=True,
                transposed=True,
                layout=Layout.INTERLEAVED,
                stacked="num_local_experts",
            ),
        ),
        output=Projection(
            "mlp.experts.down_proj",
            columns=PrunedUnit.NEURONS,
            bias=True,
            transposed=True,
            stacked="num_local_experts",
        ),
        router=Projection("mlp.router", writes="num_local_experts", bias=True),
        clamped_swish=ClampedSwish(alpha="swiglu_alpha", limit="swiglu_limit"),
    ),
    norms=LLAMA_NORMS,
    tensors=LLAMA_TENSORS,
    computation=Computation(
        positions=Rotary(
            ("rope_theta", 150_000.0),
            # `GptOssConfig.__post_init__`, `configuration_gpt_oss.py`
            parameters={
                "rope_type": "yarn",
                "factor": 32.0,
                "beta_fast": 32.0,
                "beta_slow": 1.0,
                "truncate": False,
                "original_max_position_embeddings": 4096,
            },
        ),
        windows=Windows(full_every=2),
        attention_sinks="self_attn.sinks",
    ),
    ignored=frozenset({"output_router_logits", "router_aux_loss_coef"}),
)
