"""Adapters of each kind of projection: merged they compute the same, and nothing else changes."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch

from amp_export.architectures import Kind, find_architecture, supported_model_types
from amp_export.checkpoints.loading import load_model
from amp_export.checkpoints.reading import open_checkpoint
from amp_export.errors import UnsupportedModelError
from amp_export.recovery.adapters import Adapters, adapter_weights, add_adapters, check_adaptable, merge, projections
from amp_export.recovery.devices import checkpoint_layers, run_windows
from tests.support.tiny_models import save_tiny_model

WINDOWS = [[5, 9, 2, 6, 5, 3, 5, 8], [9, 7, 9, 3, 2, 3, 8, 4]]

pytest.importorskip("peft")


def draw(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {name: torch.randn(weight.shape, generator=generator) / 10 for name, weight in weights.items()}


DECODERS = [
    each.model_type
    for each in map(find_architecture, supported_model_types())
    if each.kind is Kind.DECODER and not each.mlp.has_experts
]


@pytest.mark.parametrize("model_type", DECODERS)
def test_merged_equals_unmerged_and_only_projections_change(model_type: str, tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "dense", model_type)
    config, plain, model = open_checkpoint(folder).config, load_model(folder), load_model(folder)
    with warnings.catch_warnings():
        # peft asks transformers for an attribute that has a new name
        warnings.simplefilter("ignore")
        adapted = add_adapters(model, config, Adapters(), seed=0)
    adapted.eval()
    before = run_windows(plain, WINDOWS)
    assert torch.equal(run_windows(adapted, WINDOWS), before), "B is zero at first"
    drawn = draw(adapter_weights(adapted))
    with torch.no_grad():
        for name, weight in adapter_weights(adapted).items():
            weight.copy_(drawn[name])
    unmerged = run_windows(adapted, WINDOWS)
    assert not torch.allclose(unmerged, before, atol=0.1)
    merged = merge(adapted, config, drawn)
    named = dict(plain.named_parameters())
    assert merged.keys() == {f"{path}.weight" for path, _ in projections(config)}
    # all two-dimensional weights of a layer are projections, apart from those of what stays as it is
    layers = tuple(f"{site.path}." for site in config.sites)
    matrices = {name for name, each in named.items() if each.ndim == 2 and name.startswith(layers)}
    something_stays = config.architecture.keeps_states or not config.architecture.attention.inputs
    assert merged.keys() < matrices if something_stays else merged.keys() == matrices
    with torch.no_grad():
        for name, weight in merged.items():
            assert not torch.equal(named[name], weight)
            named[name].copy_(weight)
    torch.testing.assert_close(run_windows(plain, WINDOWS), unmerged, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("model_type", ["llama", "gpt2"])
def test_rows_and_columns_of_zeros_stay_zero(model_type: str, tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "dense", model_type)
    config, model = open_checkpoint(folder).config, load_model(folder)
    (name, projection) = next(iter(projections(config)))
    weight = model.get_parameter(f"{name}.weight")
    with torch.no_grad():
        weight[3], weight[:, 5] = 0, 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted = add_adapters(model, config, Adapters(dropout=0.0), seed=0)
    weights = adapter_weights(adapted)
    optimizer = torch.optim.AdamW(weights.values(), lr=0.01, weight_decay=0.0)
    for _ in range(3):
        optimizer.zero_grad()
        torch.autograd.backward(run_windows(adapted, WINDOWS).square().mean())
        optimizer.step()
    merged = merge(adapted, config, {name: each.detach().clone() for name, each in weights.items()})[f"{name}.weight"]
    assert not merged[3].any()
    assert not merged[:, 5].any()
    assert (merged != 0).sum() == (merged.shape[0] - 1) * (merged.shape[1] - 1)
    assert projection.transposed is (model_type == "gpt2")


def test_activations_computed_again_drop_the_same(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "dense", "llama")
    config, found = open_checkpoint(folder).config, []
    for checkpointed in (False, True):
        model = load_model(folder)
        if checkpointed:
            checkpoint_layers(model, config)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            adapted = add_adapters(model, config, Adapters(dropout=0.5), seed=0).train()
        torch.autograd.backward(run_windows(adapted, WINDOWS).square().mean())
        found.append([weight.grad for weight in adapter_weights(adapted).values()])
    assert all(torch.equal(plain, again) for plain, again in zip(*found, strict=True))
    assert any(gradient.any() for gradient in found[0])


def test_stacked_experts_are_refused(tmp_path: Path) -> None:
    config = open_checkpoint(save_tiny_model(tmp_path / "dense", "mixtral")).config
    with pytest.raises(UnsupportedModelError, match=r"in one parameter, .*experts.*\nUse --method distill"):
        check_adaptable(config)
