"""Pruning on a GPU meets no tensor of the CPU, and computes the same: a stand-in shows it where there is no GPU."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

import amp_export
from amp_export.architectures import Kind, Modality, ModelConfig, find_architecture
from amp_export.checkpoints.loading import load_model
from amp_export.checkpoints.reading import open_checkpoint
from amp_export.hardware import placement
from amp_export.inputs.arrays import read_arrays
from amp_export.inputs.batches import Batch, text_batches
from amp_export.options import CriterionName
from amp_export.pruning import pipeline
from amp_export.pruning.compensation.samples import can_compensate
from amp_export.pruning.compensation.updating import prune_and_compensate
from amp_export.pruning.divergence import obstacle
from amp_export.pruning.quality import compare, run_dense
from amp_export.pruning.scores import Scores
from amp_export.pruning.scoring import score_batches
from amp_export.pruning.sensitivity import measure_sensitivity
from amp_export.pruning.settings import PlanSettings
from amp_export.pruning.slicing import prune_module
from amp_export.pruning.trials import try_plans
from amp_export.verb_options import PruneOptions
from tests.support import fake_gpu
from tests.support.forms import one_of_each_form
from tests.support.plans import make_plan
from tests.support.tiny_models import save_tiny_model, save_tiny_samples, save_tiny_tokenizer


@dataclass(frozen=True)
class Pruned:
    """What pruning leads to.

    Attributes:
        scores: Importance.
        numbers: Divergences and perplexities.
        weights: The weights, by name.
    """

    scores: Scores
    numbers: tuple[float, ...]
    weights: dict[str, torch.Tensor]


def draw_batches(model: PreTrainedModel, config: ModelConfig, folder: Path) -> list[Batch]:
    """Texts, some with padding, or samples."""
    if config.architecture.modality is not Modality.TEXT:
        return read_arrays(save_tiny_samples(folder)).batches(model, config)
    drawn = np.random.default_rng(5)
    rows = [drawn.integers(4, 101, size=drawn.integers(20, 31)).tolist() for _ in range(12)]
    return text_batches(model, config, rows, 200)


def prune(folder: Path, criterion: CriterionName, device: str) -> Pruned:
    """Prune and fit a model on a device, and measure it there."""
    model, config = load_model(folder), open_checkpoint(folder).config
    is_decoder = config.architecture.kind is Kind.DECODER
    if config.architecture.mlp.has_experts:
        model.set_experts_implementation("eager")  # the fast one asks which GPU it is
    fake_gpu.move(model, device)
    numbers: list[float] = []
    with fake_gpu.fake_gpu() if device == placement.GPU else nullcontext():
        batches = draw_batches(model, config, folder)
        scores = score_batches(model, batches, config, criterion=criterion)
        settings = PlanSettings(0.2, criterion, snap=8 if config.architecture.mlp.has_experts else 1)
        plan = make_plan(open_checkpoint(folder).raw_config, config, scores, settings)
        if obstacle(config) is None:
            measured = measure_sensitivity(model, config, scores, batches)
            numbers += [*measured.neurons, *measured.groups, *try_plans(model, config, [plan], batches)]
        states = folder / device
        states.mkdir()
        dense = run_dense(model, [[5, 7, 9, 4], [8, 6, 3, 9, 2]], states) if is_decoder else None
        if can_compensate(config):
            prune_and_compensate(model, config, plan, batches)
        else:
            prune_module(model, config, plan)
        if dense is not None:
            quality = compare(model, dense, text="")
            numbers += [quality.dense, quality.pruned, quality.kl or 0.0]
    fake_gpu.move(model, placement.CPU)
    weights = {name: weight.detach() for name, weight in model.named_parameters()}
    assert all(type(weight) is torch.nn.Parameter for weight in model.parameters())
    return Pruned(scores, tuple(numbers), weights)


@pytest.mark.parametrize("model_type", one_of_each_form())
def test_it_is_the_same(model_type: str, tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "dense", model_type, num_hidden_layers=2)
    # the stand-in's tensors are views, and Falcon's addition in place loses the hooks of views
    without_gradients = find_architecture(model_type).mlp.has_experts or model_type == "falcon"
    criterion = CriterionName.WANDA if without_gradients else CriterionName.OBS
    check_same(*(prune(folder, criterion, device) for device in (placement.CPU, placement.GPU)))


@pytest.mark.parametrize("criterion", CriterionName)
def test_it_is_the_same_by_every_criterion(criterion: CriterionName, tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "dense", "llama")
    check_same(*(prune(folder, criterion, device) for device in (placement.CPU, placement.GPU)))


def check_same(cpu: Pruned, gpu: Pruned) -> None:
    for expected, found in zip(
        (*cpu.scores.heads, *cpu.scores.neurons), (*gpu.scores.heads, *gpu.scores.neurons), strict=True
    ):
        np.testing.assert_array_equal(found, expected)
    assert gpu.numbers == cpu.numbers
    assert gpu.weights.keys() == cpu.weights.keys()
    assert all(torch.equal(gpu.weights[name], weight) for name, weight in cpu.weights.items())


def test_what_was_pruned_on_a_gpu_is_written_from_the_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_tiny_model(tmp_path / "dense", "llama", tie_word_embeddings=True)
    save_tiny_tokenizer(folder)
    options = PruneOptions(ratio=0.2, snap=1, fitting_tokens=256)
    expected = amp_export.prune(folder, tmp_path / "cpu", options)
    asked: list[int] = []

    def choose(*, needed_bytes: int) -> str:
        asked.append(needed_bytes)
        return placement.GPU

    monkeypatch.setattr(pipeline, "choose_device", choose)
    monkeypatch.setattr(pipeline, "move", fake_gpu.move)
    with fake_gpu.fake_gpu():
        found = amp_export.prune(folder, tmp_path / "gpu", options)
    assert asked[0] > sum(weight.nbytes for weight in load_model(folder).parameters())
    assert found.quality == expected.quality
    assert found.reload.logits_compared > 0
    for name in ("model.safetensors", "config.json"):
        assert (found.folder / name).read_bytes() == (expected.folder / name).read_bytes()


def test_a_model_stays_on_the_cpu_where_a_gpu_has_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    assert torch.cuda.is_available() or placement.choose_device() == placement.CPU
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (100, 200))
    assert placement.choose_device(needed_bytes=100) == placement.GPU
    assert placement.choose_device(needed_bytes=101) == placement.CPU


def test_tensors_of_both_devices_do_not_meet() -> None:
    """The stand-in can fail."""
    model = torch.nn.Linear(3, 2)
    fake_gpu.move(model, placement.GPU)
    with fake_gpu.fake_gpu():
        there = torch.ones(4, 3, device="cuda")
        assert model(there).device.type == model.weight.to(torch.float64).device.type == "cuda"
        assert model(there).cpu().device.type == there.to("cpu").device.type == "cpu"
        for fails in (
            lambda: model(torch.ones(4, 3)),
            lambda: there + torch.ones(3),
            lambda: torch.cat((there, torch.ones(1, 3))),
            lambda: there.index_select(0, torch.tensor([1])),
            there.numpy,
        ):
            with pytest.raises((RuntimeError, TypeError), match="cuda:0"):
                fails()
        assert there[torch.tensor([1, 2])].device.type == "cuda", "indices may be on the CPU"
