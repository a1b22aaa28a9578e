"""The option --compensate of prune, end to end."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from amp_export.api.prune import prune
from amp_export.checkpoints.loading import load_model
from amp_export.checkpoints.reading import open_checkpoint
from amp_export.options import HeadPolicy, Uniform
from amp_export.outputs.manifest import Manifest
from amp_export.pruning.plan import Plan
from amp_export.pruning.slicing import prune_module
from amp_export.reporting.report import Report
from amp_export.verb_options import PruneOptions
from tests.support.lopsided import lopsided_plan
from tests.support.tiny_models import save_tiny_model, save_tiny_samples, save_tiny_tokenizer


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("text") / "lines.txt"
    lines = (
        f"{number} men went to mow, {number * 37 % 101} cows stood in row {number * 11 % 17}." for number in range(60)
    )
    file.write_text("\n".join(lines))
    return file


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return dict(load_model(folder).state_dict())


def test_without_it_the_weights_are_slices(tiny_llama: Path, text: Path, tmp_path: Path) -> None:
    options = PruneOptions(ratio=0.2, snap=1, heads=HeadPolicy.WITHIN, calibration=text, compensate=False)
    result = prune(tiny_llama, tmp_path / "out", options)
    assert result.compensation is None
    config = open_checkpoint(tiny_llama).config
    sliced = prune_module(load_model(tiny_llama), config, Plan.load(tmp_path / "out/plan.json", config)).state_dict()
    assert all(torch.equal(tensor, sliced[name]) for name, tensor in weights(result.folder).items())


def test_with_it_only_output_and_down_projections_differ(tiny_llama: Path, text: Path, tmp_path: Path) -> None:
    options = PruneOptions(ratio=0.2, snap=1, heads=HeadPolicy.WITHIN, calibration=text)
    result = prune(tiny_llama, tmp_path / "out", options)
    config = open_checkpoint(tiny_llama).config
    sliced = prune_module(load_model(tiny_llama), config, Plan.load(tmp_path / "out/plan.json", config)).state_dict()
    updated = {name for name, tensor in weights(result.folder).items() if not torch.equal(tensor, sliced[name])}
    assert updated
    assert all(name.endswith(("o_proj.weight", "down_proj.weight")) for name in updated)
    assert result.compensation is not None
    fitted = [update for update in result.compensation.updates if update.ridge is not None]
    assert len(fitted) == len(updated)
    assert all(update.after < update.before for update in fitted)


def test_manifest_and_report_say_what_was_done(tiny_llama: Path, text: Path, tmp_path: Path) -> None:
    result = prune(tiny_llama, tmp_path / "out", PruneOptions(ratio=0.2, snap=1, calibration=text))
    report = Report.of(Manifest.load(tmp_path / "out"))
    assert report.pruning is not None
    assert report.pruning.compensation == result.compensation
    assert str(report.pruning.compensation).startswith("Compensation: ")


@pytest.mark.parametrize("model_type", ["gpt2", "gemma2"])
def test_padding_stays_zero(model_type: str, text: Path, tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "dense", model_type)
    save_tiny_tokenizer(folder)
    lopsided_plan(open_checkpoint(folder).config).save(tmp_path / "plan.json")
    options = PruneOptions(plan=tmp_path / "plan.json", uniform=Uniform.PAD, calibration=text)
    result = prune(folder, tmp_path / "out", options)
    assert result.compensation is not None
    config = open_checkpoint(folder).config
    model = load_model(result.folder)
    padded = 0
    for site, layer in zip(config.sites, result.plan.layers, strict=True):
        assert site.stack.mlp is not None
        down = site.stack.mlp.output
        weight = model.get_submodule(site.path).get_parameter(f"{down.name}.weight")
        columns_io = weight if down.transposed else weight.T
        padded += len(columns_io) - len(layer.neurons)
        assert not columns_io[len(layer.neurons) :].any()
    assert padded


def test_too_little_text_is_said(tiny_llama: Path, tmp_path: Path) -> None:
    (tmp_path / "few.txt").write_text("a few words\n" * 4)
    result = prune(tiny_llama, tmp_path / "out", PruneOptions(ratio=0.2, snap=1, calibration=tmp_path / "few.txt"))
    (note,) = [note for note in result.notes if "--calibration" in note]
    assert note.startswith("Compensation had 32 tokens for projections of 34 inputs, ")


def test_layers_that_share_biases_are_not_compensated_and_that_is_said(text: Path, tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "dense", "t5")
    save_tiny_tokenizer(folder)
    options = PruneOptions(ratio=0.1, snap=1, calibration=text)
    result = prune(folder, tmp_path / "out", options)
    assert result.compensation is None
    assert "What is kept is not updated: that is not possible of layers that share more than states." in result.notes


def test_a_model_of_images_is_compensated(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "dense", "vit")
    samples = save_tiny_samples(folder)
    result = prune(folder, tmp_path / "out", PruneOptions(ratio=0.1, snap=1, calibration=samples))
    assert result.compensation is not None
    assert result.compensation.updates
