from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_models import save_tiny_model

from amp_export.architectures import LayerWidths, ModelConfig, find_architecture
from amp_export.checkpoints import open_checkpoint, write_checkpoint
from amp_export.errors import PlanError
from amp_export.loading import load_model
from amp_export.plans import LayerPlan, Plan
from amp_export.rewriting import RewriteKind, rewrite
from amp_export.slicing import prune_module, prune_tensors

LLAMA_3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}


@pytest.mark.parametrize("rope", [None, LLAMA_3_ROPE], ids=["default", "llama3"])
def test_a_llama_with_an_odd_head_count_becomes_a_mistral_bit_for_bit(rope: dict[str, object], tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "dense", "llama", num_key_value_heads=4, rope_parameters=rope)
    checkpoint = open_checkpoint(folder)
    layer = LayerPlan(query_heads=(0, 1, 3), key_value_heads=(0, 1, 3), neurons=tuple(range(0, 48, 2)))
    plan = Plan(layers=(layer,) * 3, asked=None, achieved=0.0)
    rewritten = rewrite(checkpoint.raw_config, checkpoint.config, plan.widths)
    assert rewritten.kind is RewriteKind.SIBLING_CLASS
    write_checkpoint(tmp_path / "pruned", rewritten.config, prune_tensors(checkpoint, plan))
    reloaded = load_model(tmp_path / "pruned")
    assert type(reloaded).__name__ == "MistralForCausalLM"
    tokens = torch.arange(60).reshape(1, 60)
    with torch.inference_mode():
        in_memory = prune_module(load_model(folder), checkpoint.config, plan)(tokens).logits
        assert torch.equal(reloaded(tokens).logits, in_memory)


def test_what_llama_assumes_and_mistral_does_not_is_spelled_out() -> None:
    raw = {"model_type": "llama", "num_hidden_layers": 1, "pretraining_tp": 1, "mlp_bias": False}
    config = ModelConfig.read(find_architecture("llama"), raw)
    rewritten = rewrite(raw, config, [LayerWidths(22, 22, 7680)])
    assert rewritten.config["max_position_embeddings"] == 2048
    assert rewritten.config["sliding_window"] is None
    assert rewritten.config["architectures"] == ["MistralForCausalLM"]
    assert "mlp_bias" not in rewritten.config
    assert raw == {"model_type": "llama", "num_hidden_layers": 1, "pretraining_tp": 1, "mlp_bias": False}


def test_the_same_class_is_kept_where_it_can_say_the_counts() -> None:
    raw = {"model_type": "llama", "num_hidden_layers": 1, "rope_theta": 1e5, "my_field": 3}
    config = ModelConfig.read(find_architecture("llama"), raw)
    rewritten = rewrite(raw, config, [LayerWidths(16, 16, 7680)])
    assert rewritten.kind is RewriteKind.SAME_CLASS
    assert rewritten.config == {
        **raw,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "head_dim": 128,
        "intermediate_size": 7680,
    }


def test_a_llama_with_biases_cannot_become_a_mistral_and_says_what_is_legal() -> None:
    raw = {"model_type": "llama", "num_hidden_layers": 1, "attention_bias": True}
    config = ModelConfig.read(find_architecture("llama"), raw)
    with pytest.raises(PlanError, match=r"attention_bias=True.*\n.*32, 16, 8, 4, 2, 1"):
        rewrite(raw, config, [LayerWidths(22, 22, 7680)])


def test_layers_of_different_widths_are_refused() -> None:
    raw = {"model_type": "llama", "num_hidden_layers": 2}
    config = ModelConfig.read(find_architecture("llama"), raw)
    with pytest.raises(PlanError, match="different counts"):
        rewrite(raw, config, [LayerWidths(16, 16, 100), LayerWidths(32, 32, 100)])
