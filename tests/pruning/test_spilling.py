"""Pruned layers that are kept in files: the same checkpoint, and less memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from amp_export import PruneOptions, prune
from amp_export.checkpoints.loading import load_model
from amp_export.pruning import pipeline
from amp_export.pruning.spilling import spill_layers
from tests.support.tiny_models import save_tiny_model, save_tiny_tokenizer


@pytest.mark.parametrize("compensate", [True, False])
@pytest.mark.parametrize("model_type", ["llama", "gpt2", "mixtral", "bert", "t5"])
def test_the_checkpoint_is_the_same(
    model_type: str, compensate: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = save_tiny_model(tmp_path / "dense", model_type)
    save_tiny_tokenizer(checkpoint)
    spilled: list[Path] = []

    def spill(folder: Path) -> object:
        spilled.append(folder)
        return spill_layers(folder)

    monkeypatch.setattr(pipeline, "spill_layers", spill)
    found = []
    for name, limit in (("in-memory", 1 << 40), ("spilled", 0)):
        monkeypatch.setattr(pipeline, "SPILLED_BYTES", limit)
        prune(checkpoint, tmp_path / name, PruneOptions(ratio=0.1, snap=8, compensate=compensate))
        found.append(load_file(tmp_path / name / "pruned/model.safetensors"))
        assert len(spilled) == (name == "spilled")
        assert not [entry for entry in (tmp_path / name).iterdir() if entry.name.startswith("tmp")]
    expected, spilled_weights = found
    assert expected.keys() == spilled_weights.keys()
    for key, weight in expected.items():
        np.testing.assert_array_equal(spilled_weights[key], weight)


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
