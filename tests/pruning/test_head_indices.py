"""Heads that a generation config names are the same heads after pruning."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from amp_export.architectures import LayerWidths, ModelConfig, find_architecture
from amp_export.checkpoints.loading import load_model
from amp_export.checkpoints.reading import open_checkpoint
from amp_export.cli import app
from amp_export.pruning.head_indices import head_places, renumber, renumbered
from amp_export.pruning.plan import LayerPlan, Plan
from tests.support.tiny_models import save_tiny_model, save_tiny_samples

HEADS, LAYERS = 4, 3
CROSS = "encoder_attn"


def whisper_config() -> ModelConfig:
    heads = {"encoder_attention_heads": HEADS, "decoder_attention_heads": HEADS}
    fields = {"d_model": 32, **heads, "encoder_layers": LAYERS, "decoder_layers": LAYERS, "encoder_ffn_dim": 48}
    return ModelConfig.read(find_architecture("whisper"), {"model_type": "whisper", **fields, "decoder_ffn_dim": 48})


def plan_of(config: ModelConfig, heads: Sequence[Sequence[int]]) -> Plan:
    neurons = [tuple(range(8)) if site.stack.mlp is not None else () for site in config.sites]
    kept = [tuple(each) for each in heads]
    return Plan(tuple(map(LayerPlan, kept, kept, neurons)), asked=None, achieved=0.0)


kept_heads = st.sets(st.integers(0, HEADS - 1), min_size=1).map(sorted)


@given(
    heads=st.lists(kept_heads, min_size=3 * LAYERS, max_size=3 * LAYERS),
    pairs=st.lists(st.tuples(st.integers(-1, LAYERS), st.integers(-1, HEADS)).map(list), max_size=8),
    pad=st.booleans(),
)
def test_a_renumbered_head_is_the_head_that_was_meant(
    heads: list[list[int]], pairs: list[list[int]], pad: bool
) -> None:
    config = whisper_config()
    plan = plan_of(config, heads)
    widths = [LayerWidths(HEADS, HEADS, each.neurons) for each in plan.widths] if pad else None
    found = renumbered(pairs, head_places(config, plan, CROSS, widths=widths))
    # layers of the decoder's cross-attention are the last
    cross = heads[-LAYERS:]
    meant = [pair for pair in pairs if pair[0] in range(LAYERS) and pair[1] in cross[pair[0]]]
    assert [[layer, cross[layer][place]] for layer, place in found] == meant


@pytest.mark.parametrize("pairs", [[], "text", [[0]], [["0", 1]], [[0, 1, 2]], [7], [[True, False]], None, {"0": 1}])
def test_what_names_no_head_is_left_out(pairs: Any, tmp_path: Path) -> None:
    config = whisper_config()
    file = tmp_path / "generation_config.json"
    file.write_text(json.dumps({"alignment_heads": pairs, "max_length": 9}))
    notes = renumber(tmp_path, config, plan_of(config, [[0, 1]] * 3 * LAYERS))
    content = json.loads(file.read_text())
    assert content["max_length"] == 9
    assert not content.get("alignment_heads")
    assert bool(notes) == (pairs is not None)


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = save_tiny_model(tmp_path_factory.mktemp("whisper") / "checkpoint", "whisper", num_hidden_layers=2)
    content = json.loads((folder / "generation_config.json").read_text())
    content["alignment_heads"] = [[0, 3], [1, 0], [1, 2]]
    (folder / "generation_config.json").write_text(json.dumps(content))
    return folder


def test_pruning_renumbers_them_in_what_it_writes(dense: Path, tmp_path: Path) -> None:
    samples = save_tiny_samples(dense)
    config = open_checkpoint(dense).config
    # only the cross-attention of the last layer loses heads, so that all other values stay the same
    heads = [[0, 1, 2, 3]] * 5 + [[1, 2, 3]]
    neurons = [list(range(48)) if site.stack.mlp is not None else [] for site in config.sites]
    layers = [
        {"query_heads": kept, "key_value_heads": kept, **({"neurons": each} if each else {})}
        for kept, each in zip(heads, neurons, strict=True)
    ]
    (tmp_path / "plan.json").write_text(json.dumps({"layers": layers}))
    command = ["prune", "--model", dense, "--plan", tmp_path / "plan.json", "--output", tmp_path / "out"]
    result = CliRunner().invoke(app, [*map(str, command), "--calibration", str(samples)])
    assert result.exit_code == 0, result.output
    assert "1 of 3 alignment_heads are left out" in " ".join(result.output.split())
    found = json.loads((tmp_path / "out/pruned/generation_config.json").read_text())["alignment_heads"]
    assert found == [[0, 3], [1, 1]]
    before, after = (cross_attentions(folder) for folder in (dense, tmp_path / "out/pruned"))
    for (layer, head), (same_layer, place) in zip([(0, 3), (1, 2)], found, strict=True):
        torch.testing.assert_close(before[layer][:, head], after[same_layer][:, place])


def cross_attentions(folder: Path) -> Any:
    model = load_model(folder)
    model.set_attn_implementation("eager")
    features = torch.randn(1, 8, 24, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        tokens = torch.tensor([[1, 5, 9, 7]])
        return model(input_features=features, decoder_input_ids=tokens, output_attentions=True).cross_attentions
