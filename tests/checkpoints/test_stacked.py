"""Weights of experts: the same matrices, however files hold them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from amp_export.architectures import Experts, find_architecture, matrix_shapes, supported_model_types
from amp_export.checkpoints.loading import load_model
from amp_export.checkpoints.reading import open_checkpoint
from amp_export.checkpoints.weight_files import SINGLE
from amp_export.errors import ModelError
from tests.support.tiny_models import save_tiny_model

WITH_EXPERTS = [name for name in supported_model_types() if isinstance(find_architecture(name).mlp, Experts)]


def matrices(folder: Path) -> dict[str, np.ndarray]:
    checkpoint = open_checkpoint(folder)
    assert matrix_shapes(checkpoint.config) == {name: info.shape for name, info in checkpoint.tensors.items()}
    return {name: checkpoint.read(name) for name in checkpoint.tensors}


@pytest.mark.parametrize("model_type", WITH_EXPERTS)
def test_matrices_are_those_in_memory(model_type: str, tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "model", model_type)
    state = load_model(folder, dtype=torch.float32).state_dict()
    found = matrices(folder)
    assert len(found) > len(state)
    for name, values in found.items():
        stacked, _, number = name.rpartition(".")
        expected = state[stacked][int(number)] if number.isdecimal() else state[name]
        np.testing.assert_array_equal(values, expected.numpy())


@pytest.mark.parametrize("model_type", WITH_EXPERTS)
def test_one_tensor_for_all_experts_is_read_too(model_type: str, tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "model", model_type)
    found, state = matrices(folder), load_model(folder, dtype=torch.float32).state_dict()
    (folder / SINGLE).unlink()
    save_file(state, folder / SINGLE, metadata={"format": "pt"})
    again = matrices(folder)
    assert found.keys() == again.keys()
    for name, values in found.items():
        np.testing.assert_array_equal(again[name], values)


def test_experts_may_lie_in_several_files(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "model", "mixtral")
    found = matrices(folder)
    load_model(folder, dtype=torch.float32).save_pretrained(tmp_path / "parts", max_shard_size="40KB")
    checkpoint = open_checkpoint(tmp_path / "parts")
    files = {file.name for file in checkpoint.weight_files}
    assert len(files) > 2
    assert files == {file.name for file in (tmp_path / "parts").glob("*.safetensors")}
    for name, values in found.items():
        np.testing.assert_array_equal(checkpoint.read(name), values)


def without(tensors: dict[str, Any], name: str) -> None:
    del tensors[name]


def narrower(tensors: dict[str, Any], name: str) -> None:
    tensors[name] = tensors[name][:, :-1].contiguous()


@pytest.mark.parametrize("damage", [without, narrower])
def test_a_part_that_does_not_fit_is_named(damage: Any, tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "model", "mixtral")
    tensors, name = load_file(folder / SINGLE), "model.layers.1.block_sparse_moe.experts.2.w3.weight"
    damage(tensors, name)
    save_file(tensors, folder / SINGLE, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"model\.layers\.1\.block_sparse_moe\.experts\.2\.w3\.weight"):
        open_checkpoint(folder)
