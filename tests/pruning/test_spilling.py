"""Pruned layers that are kept in files: the same checkpoint, and less memory."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from amp_export import PruneOptions, prune
from amp_export.architectures import ModelConfig
from amp_export.checkpoints.loading import load_model
from amp_export.checkpoints.reading import open_checkpoint
from amp_export.inputs.batches import text_batches
from amp_export.outputs.manifest import Manifest
from amp_export.pruning import pipeline
from amp_export.pruning.compensation.updating import prune_and_compensate
from amp_export.pruning.settings import PlanSettings
from amp_export.pruning.slicing import module_tensors, prune_module
from amp_export.pruning.spilling import Spill
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
    for on_layer in (None, Spill(tmp_path, config)):
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


@pytest.mark.parametrize(("model_type", "layers_are_shards"), [("llama", True), ("mixtral", False)])
def test_files_of_layers_become_shards(
    model_type: str, layers_are_shards: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of experts, transformers' files have other tensors than its modules, so that these layers are written again."""
    checkpoint = save_tiny_model(tmp_path / "dense", model_type)
    save_tiny_tokenizer(checkpoint)
    layers = len(open_checkpoint(checkpoint).config.sites)
    spilled: list[Path] = []

    def spill(folder: Path, config: ModelConfig) -> Spill:
        spilled.append(folder)
        return Spill(folder, config)

    monkeypatch.setattr(pipeline, "Spill", spill)
    options = PruneOptions(ratio=0.1, snap=8, fitting_tokens=512)
    found = []
    for name, limit in (("in-memory", 1 << 40), ("spilled", 0)):
        monkeypatch.setattr(pipeline, "SPILLED_BYTES", limit)
        pruned = prune(checkpoint, tmp_path / name, options).folder
        files = sorted(pruned.glob("*.safetensors"))
        assert len(spilled) == (name == "spilled")
        assert not [entry for entry in (tmp_path / name).iterdir() if entry.name.startswith("tmp")]
        assert len(files) == (layers + 1 if spilled and layers_are_shards else 1)
        assert all(file.stat().st_nlink == 1 for file in files)
        Manifest.load(tmp_path / name).verify(tmp_path / name)
        found.append({tensor: weight for file in files for tensor, weight in load_file(file).items()})
    in_memory, written = found
    assert in_memory.keys() == written.keys()
    assert all(torch.equal(written[name], weight) for name, weight in in_memory.items())


def test_only_files_of_which_all_is_current_are_held(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(save_tiny_model(tmp_path / "dense", "llama"))
    model, spill = load_model(checkpoint.path), Spill(tmp_path, checkpoint.config)
    for number in (0, 1):
        spill(number, model.get_submodule(f"model.layers.{number}"))
    weights = module_tensors(model, as_stored=False)
    of_layers = [name for name in weights if name.startswith(("model.layers.0.", "model.layers.1."))]
    assert spill.holding(weights).keys() == set(of_layers)
    changed = {**weights, of_layers[0]: weights[of_layers[0]].clone()}
    assert set(spill.holding(changed).values()) == {tmp_path / "layer-1.safetensors"}
    projection = next(name for name in of_layers if name.endswith("o_proj.weight"))
    turned = {**weights, projection: weights[projection].T}
    assert set(spill.holding(turned).values()) == {tmp_path / "layer-1.safetensors"}
    without = {name: weight for name, weight in weights.items() if name != of_layers[-1]}
    assert set(spill.holding(without).values()) == {tmp_path / "layer-0.safetensors"}


def test_a_layer_s_weights_are_mapped_from_its_file(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(save_tiny_model(tmp_path / "dense", "llama"))
    model = load_model(checkpoint.path)
    layer = model.get_submodule("model.layers.0")
    before = {name: weight.clone() for name, weight in layer.named_parameters()}
    Spill(tmp_path, checkpoint.config)(0, layer)
    assert load_file(tmp_path / "layer-0.safetensors").keys() == {f"model.layers.0.{name}" for name in before}
    mapped = Path("/proc/self/maps").read_text(encoding="utf-8") if Path("/proc/self/maps").exists() else None
    assert mapped is None or str(tmp_path / "layer-0.safetensors") in mapped
    for name, weight in layer.named_parameters():
        torch.testing.assert_close(weight, before[name], rtol=0, atol=0)
        assert weight.requires_grad == before[name].requires_grad
