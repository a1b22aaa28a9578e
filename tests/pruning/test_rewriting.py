from __future__ import annotations

from pathlib import Path

import pytest
import torch

from amp_export.architectures import LayerWidths, ModelConfig, find_architecture
from amp_export.checkpoints.loading import load_model
from amp_export.checkpoints.reading import open_checkpoint, read_config
from amp_export.errors import PlanError
from amp_export.outputs.manifest import RewriteKind
from amp_export.pruning.plan import LayerPlan, Plan
from amp_export.pruning.rewriting import is_stock, rewrite
from amp_export.pruning.saving import save_pruned
from amp_export.pruning.slicing import prune_module
from tests.support.tiny_models import save_tiny_model

LLAMA_3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
TOKENS = torch.arange(60).reshape(1, 60)


def widths_of(config: ModelConfig, query_heads: int, key_value_heads: int, neurons: int) -> list[LayerWidths]:
    return [LayerWidths(query_heads, key_value_heads, neurons)] * config.num_hidden_layers


@pytest.mark.parametrize("rope", [None, LLAMA_3_ROPE], ids=["default", "llama3"])
def test_a_llama_with_an_odd_head_count_becomes_a_mistral_bit_for_bit(rope: dict[str, object], tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "dense", "llama", num_key_value_heads=4, rope_parameters=rope)
    checkpoint = open_checkpoint(folder)
    layer = LayerPlan(query_heads=(0, 1, 3), key_value_heads=(0, 1, 3), neurons=tuple(range(0, 48, 2)))
    plan = Plan(layers=(layer,) * 3, asked=None, achieved=0.0)
    rewritten = rewrite(checkpoint.raw_config, checkpoint.config, plan.widths)
    assert rewritten.kind is RewriteKind.SIBLING_CLASS
    pruned = prune_module(load_model(folder), checkpoint.config, plan)
    save_pruned(tmp_path / "pruned", pruned, rewritten)
    reloaded = load_model(tmp_path / "pruned")
    assert type(reloaded).__name__ == "MistralForCausalLM"
    with torch.inference_mode():
        assert torch.equal(reloaded(TOKENS).logits, pruned(TOKENS).logits)


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


def test_counts_are_written_under_the_names_of_the_family() -> None:
    raw = {"model_type": "gpt2", "n_layer": 2}
    config = ModelConfig.read(find_architecture("gpt2"), raw)
    rewritten = rewrite(raw, config, widths_of(config, 12, 12, 2000))
    assert rewritten.kind is RewriteKind.SAME_CLASS
    assert rewritten.config == {**raw, "n_head": 12, "n_inner": 2000}


@pytest.mark.parametrize("model_type", ["llama", "mistral", "gpt2", "opt", "bert", "t5"])
@pytest.mark.parametrize("heads", [1, 5, 7, 8])
def test_whether_a_stock_class_can_say_counts_is_told_without_the_rewrite(
    model_type: str, heads: int, tmp_path: Path
) -> None:
    sizes = {"num_attention_heads": 8, "num_key_value_heads": 8, "head_dim": 8, "hidden_size": 64}
    raw, config = read_config(save_tiny_model(tmp_path / model_type, model_type, **sizes))
    widths = LayerWidths(heads, heads, 24)
    assert is_stock(raw, config, widths) == rewrite(raw, config, config.everywhere(widths)).is_stock


@pytest.mark.parametrize(
    ("model_type", "fields", "heads", "reason"),
    [
        ("llama", {"attention_bias": True}, 22, r"refuses 22 heads: 4096 % 22 = 4"),
        ("gpt2", {}, 11, r"takes the width of a head from the number of heads"),
        ("phi", {"qk_layernorm": True}, 16, r"with qk_layernorm=True takes the width"),
    ],
)
def test_what_no_stock_class_can_say_is_resized(
    model_type: str, fields: dict[str, object], heads: int, reason: str
) -> None:
    raw = {"model_type": model_type, **fields}
    config = ModelConfig.read(find_architecture(model_type), raw)
    rewritten = rewrite(raw, config, widths_of(config, heads, heads, 1024))
    assert rewritten.kind is RewriteKind.RESIZED_CLASS
    assert reason in rewritten.reason
    assert rewritten.config["model_type"] == "amp_resized"
    assert rewritten.config["dense"] == raw
    assert rewritten.config["layer_widths"][0] == {"query_heads": heads, "key_value_heads": heads, "neurons": 1024}


def test_layers_of_different_widths_are_resized_or_filled_up() -> None:
    raw = {"model_type": "mistral", "num_hidden_layers": 2}
    config = ModelConfig.read(find_architecture("mistral"), raw)
    widths = [LayerWidths(16, 4, 100), LayerWidths(24, 8, 90)]
    assert rewrite(raw, config, widths).kind is RewriteKind.RESIZED_CLASS
    padded = rewrite(raw, config, widths, pad=True)
    assert padded.kind is RewriteKind.PADDED
    # the widest group is of the first layer, the most groups are of the second
    assert padded.widths == (LayerWidths(32, 8, 100),) * 2
    assert padded.config["num_attention_heads"] == 32


def test_a_class_that_cannot_say_fewer_heads_is_filled_up_to_all_of_them() -> None:
    raw = {"model_type": "gpt2", "n_layer": 2}
    config = ModelConfig.read(find_architecture("gpt2"), raw)
    padded = rewrite(raw, config, widths_of(config, 7, 7, 1000), pad=True)
    assert padded.widths[0] == LayerWidths(12, 12, 1000)


def test_heads_that_are_normed_together_cannot_be_filled_up() -> None:
    raw = {"model_type": "olmo2", "num_hidden_layers": 2}
    config = ModelConfig.read(find_architecture("olmo2"), raw)
    with pytest.raises(PlanError, match=r"self_attn\.q_norm.*all heads"):
        rewrite(raw, config, [LayerWidths(16, 16, 100), LayerWidths(24, 24, 100)], pad=True)
    rewrite(raw, config, [LayerWidths(16, 16, 100), LayerWidths(16, 16, 90)], pad=True)


def test_neurons_stay_where_no_field_holds_their_number() -> None:
    architecture, raw = find_architecture("siglip_vision_model"), {"model_type": "siglip_vision_model"}
    config = ModelConfig.read(architecture, raw)
    fewer = widths_of(config, 12, 12, 1000)
    # the MLP of its head takes the same field
    resized = rewrite(raw, config, fewer)
    assert resized.kind is RewriteKind.RESIZED_CLASS
    assert "all 3072 stay" in resized.reason
    padded = rewrite(raw, config, fewer, pad=True)
    assert (padded.kind, padded.widths[0]) == (RewriteKind.PADDED, config.widths)
    headless = {**raw, "vision_use_head": False}
    assert rewrite(headless, ModelConfig.read(architecture, headless), fewer).kind is RewriteKind.SAME_CLASS
