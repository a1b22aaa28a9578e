"""Pruned layers that are kept in files: the same checkpoint, and less memory."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from amp_export import PruneOptions, prune
from amp_export.checkpoints.loading import load_model
from amp_export.checkpoints.reading import open_checkpoint
from amp_export.inputs.batches import text_batches
from amp_export.pruning import pipeline
from amp_export.pruning.compensation.updating import prune_and_compensate
from amp_export.pruning.settings import PlanSettings
from amp_export.pruning.slicing import prune_module
from amp_export.pruning.spilling import spill_layers
from tests.support.family_runner import measured_scores
from tests.support.plans import make_plan
from tests.support.tiny_models import save_tiny_model, save_tiny_tokenizer


@pytest.mark.parametrize(
    ("model_type", "compensate"),
    [("t5", False), *itertools.product(("llama", "gpt2", "mixtral", "bert"), (True, False))],
)
def test_the_weights_are_the_same(model_type: str, compensate: bool, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(save_tiny_model(tmp_path / "dense", model_type))
    config = checkpoint.config
    found = []
    for on_layer in (None, spill_layers(tmp_path)):
        model = load_model(checkpoint.path)
        plan = make_plan(checkpoint.raw_config, config, measured_scores(model, config), PlanSettings(0.1, snap=8))
        if compensate:
            rows = np.random.default_rng(0).integers(4, 100, (8, 30)).tolist()
            batches = text_batches(model, config, rows)
            prune_and_compensate(model, config, plan, batches, on_layer=on_layer)
        else:
            prune_module(model, config, plan, on_layer=on_layer)
        found.append(model.state_dict())
    assert len(list(tmp_path.glob("layer-*.safetensors"))) == len(config.sites)
    in_memory, spilled = found
    assert in_memory.keys() == spilled.keys()
    assert all(torch.equal(spilled[name], weight) for name, weight in in_memory.items())


def test_a_large_model_is_spilled_and_leaves_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = save_tiny_model(tmp_path / "dense", "llama")
    save_tiny_tokenizer(checkpoint)
    spilled: list[Path] = []

    def spill(folder: Path) -> object:
        spilled.append(folder)
        return spill_layers(folder)

    monkeypatch.setattr(pipeline, "spill_layers", spill)
    options = PruneOptions(ratio=0.1, snap=8, fitting_tokens=512)
    found = []
    for name, limit in (("in-memory", 1 << 40), ("spilled", 0)):
        monkeypatch.setattr(pipeline, "SPILLED_BYTES", limit)
        prune(checkpoint, tmp_path / name, options)
        found.append((tmp_path / name / "pruned/model.safetensors").read_bytes())
        assert len(spilled) == (name == "spilled")
        assert not [entry for entry in (tmp_path / name).iterdir() if entry.name.startswith("tmp")]
    assert found[0] == found[1]


def test_a_layer_s_weights_are_mapped_from_its_file(tmp_path: Path) -> None:
    model = load_model(save_tiny_model(tmp_path / "dense", "llama"))
    layer = model.get_submodule("model.layers.0")
    before = {name: weight.clone() for name, weight in layer.named_parameters()}
    spill_layers(tmp_path)(0, layer)
    assert load_file(tmp_path / "layer-0.safetensors").keys() == before.keys()
    mapped = Path("/proc/self/maps").read_text(encoding="utf-8") if Path("/proc/self/maps").exists() else None
    assert mapped is None or str(tmp_path / "layer-0.safetensors") in mapped
    for name, weight in layer.named_parameters():
        torch.testing.assert_close(weight, before[name], rtol=0, atol=0)
        assert weight.requires_grad == before[name].requires_grad
