"""Layers that compute their activations again give the same gradients, and no activation is dropped."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from amp_export.checkpoints.loading import load_model
from amp_export.checkpoints.reading import open_checkpoint
from amp_export.recovery.devices import checkpoint_layers, run_windows
from amp_export.recovery.distilling import freeze_embeddings
from tests.support.tiny_models import save_tiny_model

WINDOWS = [[5, 9, 2, 6, 5, 3, 5, 8], [9, 7, 9, 3, 2, 3, 8, 4]]


def gradients(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    weights = freeze_embeddings(model)
    torch.autograd.backward(run_windows(model, WINDOWS).square().mean())
    return {name: weight.grad for name, weight in weights.items()}


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "falcon", "gemma2", "mixtral"])
def test_the_gradients_are_the_same(model_type: str, tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "dense", model_type)
    plain, other = load_model(folder), load_model(folder)
    calls: list[object] = []
    config = open_checkpoint(folder).config
    site = config.sites[0]
    other.get_submodule(f"{site.path}.{site.stack.attention.output.name}").register_forward_hook(
        lambda *_: calls.append(None)
    )
    checkpoint_layers(other, config)
    expected, found = gradients(plain), gradients(other)
    assert len(calls) == 2, "it runs again for the gradients"
    assert expected.keys() == found.keys()
    assert all(torch.equal(gradient, found[name]) for name, gradient in expected.items())
    assert all(gradient.any() for gradient in found.values())


@pytest.mark.parametrize("model_type", ["gpt2", "opt", "llama"])
def test_embeddings_and_head_are_not_trained(model_type: str, tmp_path: Path) -> None:
    model = load_model(save_tiny_model(tmp_path / "dense", model_type, tie_word_embeddings=model_type != "llama"))
    frozen = {name for name, _ in model.named_parameters()} - freeze_embeddings(model).keys()
    assert (
        frozen
        == {
            "gpt2": {"transformer.wte.weight", "transformer.wpe.weight"},
            "opt": {"model.decoder.embed_tokens.weight", "model.decoder.embed_positions.weight"},
            "llama": {"model.embed_tokens.weight", "lm_head.weight"},
        }[model_type]
    )
