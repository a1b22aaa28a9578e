from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from amp_export.api.prune import prune
from amp_export.checkpoints.loading import load_model, load_tokenizer
from amp_export.checkpoints.reading import open_checkpoint
from amp_export.errors import (
    AmpExportError,
    CalibrationError,
    ModelError,
    OutputError,
    PlanError,
    RatioError,
    RequestError,
    VerificationError,
)
from amp_export.inputs import batches
from amp_export.inputs.batches import tokenize
from amp_export.inputs.texts import load_calibration
from amp_export.options import Allocation, CriterionName, HeadPolicy, PerLayer, TargetName, Uniform
from amp_export.outputs.manifest import Manifest
from amp_export.progress import Silent
from amp_export.pruning import pipeline, reload_check
from amp_export.pruning.pipeline import PruneResult
from amp_export.pruning.plan import Plan
from amp_export.pruning.reload_check import Expectation, ReloadProof, expect, prove_reload
from amp_export.pruning.request import prepare
from amp_export.verb_options import PlanChoices, PruneOptions


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("prompts") / "prompts.txt"
    file.write_text("\n".join(f"Say the number {number} and nothing else." for number in range(10)))
    return file


@pytest.fixture(scope="module")
def pruned(tiny_llama: Path, prompts: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, PruneResult]:
    output = tmp_path_factory.mktemp("pruned") / "out"
    result = prune(tiny_llama, output, PruneOptions(ratio=0.2, snap=1, heads=HeadPolicy.WITHIN, calibration=prompts))
    return output, result


def test_the_output_holds_what_the_design_says(pruned: tuple[Path, PruneResult], tiny_llama: Path) -> None:
    output, result = pruned
    manifest = Manifest.load(output)
    assert result.folder == output / "pruned"
    names = {str(file.relative_to(output)) for file in output.rglob("*") if file.is_file()}
    assert {"amp_export.json", "plan.json", "scores.safetensors", "pruned/config.json"} <= names
    assert set(manifest.files) == names - {"amp_export.json"}
    assert not [folder for folder in output.iterdir() if folder.is_dir() and folder != result.folder]
    scores = load_file(output / "scores.safetensors")
    assert scores["layers.2.heads"].shape == (4,)
    assert scores["layers.2.neurons"].shape == (48,)
    assert manifest.source.asked == str(tiny_llama)
    assert manifest.config_after is not None
    assert manifest.config_after["num_attention_heads"] == result.plan.widths[0].query_heads
    assert manifest.verdicts["reload"]["holds"] is True


def test_the_result_is_typed_and_true(pruned: tuple[Path, PruneResult]) -> None:
    _, result = pruned
    reloaded = load_model(result.folder)
    assert result.parameters_after == sum(parameter.numel() for parameter in reloaded.parameters())
    assert result.plan.achieved == pytest.approx(1 - result.parameters_after / result.parameters_before)
    assert abs(result.plan.achieved - 0.2) < 0.02
    assert result.quality is not None
    assert result.quality.dense > 1
    assert result.quality.kl > 0
    assert 0 < result.quality.top1_agreement <= 1
    assert "2 prompts held out" in result.quality.text
    assert result.reload.class_name == type(reloaded).__name__
    assert result.reload.logits_compared > 1000
    assert result.reload.tokens_compared > 5


def test_the_tokenizer_travels_along(pruned: tuple[Path, PruneResult], tiny_llama: Path) -> None:
    text = "Say nothing."
    before, after = (AutoTokenizer.from_pretrained(folder)(text).input_ids for folder in (tiny_llama, pruned[1].folder))
    assert before == after


@pytest.fixture
def without_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves out the second process, which takes seconds to import torch; other tests run it."""
    monkeypatch.setattr(pipeline, "prove_reload", lambda *_, **__: ReloadProof("left out", 0, 0))


@pytest.mark.usefixtures("without_proof")
def test_one_scoring_serves_another_ratio(
    pruned: tuple[Path, PruneResult], tiny_llama: Path, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "score_batches", lambda *_, **__: pytest.fail("scored again"))
    scores = pruned[0] / "scores.safetensors"
    result = prune(tiny_llama, tmp_path / "out", PruneOptions(ratio=0.3, snap=1, calibration=prompts, scores=scores))
    assert result.plan.achieved > pruned[1].plan.achieved
    divergences = {"divergence.neurons", "divergence.groups"}
    assert load_file(tmp_path / "out" / "scores.safetensors").keys() == load_file(scores).keys() | divergences


@pytest.mark.usefixtures("without_proof")
def test_all_steps_share_texts_that_are_tokenized_once(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "rows.jsonl"
    rows = [{"instruction": f"Count to {number}.", "output": "One, two, three. " * 9} for number in range(20)]
    file.write_text("\n".join(map(json.dumps, rows)))
    encode, read = batches.encode, Counter[str]()

    def counted(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
        read[text] += 1
        return encode(tokenizer, text)

    monkeypatch.setattr(batches, "encode", counted)
    options = PruneOptions(ratio=0.2, snap=1, calibration=file, criterion=CriterionName.OBS)
    result = prune(tiny_llama, tmp_path / "out", options)
    assert result.compensation is not None
    assert "trial" in result.plan.reasons
    assert {read[text] for text in load_calibration(file).texts} == {1}


@pytest.mark.usefixtures("without_proof")
def test_an_edited_plan_is_obeyed(
    pruned: tuple[Path, PruneResult], tiny_llama: Path, prompts: Path, tmp_path: Path
) -> None:
    content = json.loads((pruned[0] / "plan.json").read_text())
    for layer in content["layers"]:
        layer["neurons"] = [0, 1, 2]
    (tmp_path / "plan.json").write_text(json.dumps(content))
    result = prune(tiny_llama, tmp_path / "out", PruneOptions(plan=tmp_path / "plan.json", calibration=prompts))
    assert result.plan.widths[0].neurons == 3
    summary = Manifest.load(tmp_path / "out").plan
    assert summary is not None
    assert summary.calibration is None, "nothing was scored"
    kept = load_model(result.folder).model.layers[1].mlp.up_proj.weight
    assert torch.equal(kept, load_model(tiny_llama).model.layers[1].mlp.up_proj.weight[:3])
    assert Plan.load(tmp_path / "out" / "plan.json", open_checkpoint(tiny_llama).config).layers == result.plan.layers


@pytest.mark.usefixtures("without_proof")
def test_padding_is_told_with_what_it_costs(
    pruned: tuple[Path, PruneResult], tiny_llama: Path, prompts: Path, tmp_path: Path
) -> None:
    content = json.loads((pruned[0] / "plan.json").read_text())
    content["layers"][0]["neurons"] = [0, 1, 2]
    (tmp_path / "plan.json").write_text(json.dumps(content))
    result = prune(
        tiny_llama,
        tmp_path / "out",
        PruneOptions(plan=tmp_path / "plan.json", calibration=prompts, uniform=Uniform.PAD),
    )
    missing = len(content["layers"][1]["neurons"]) - 3
    padding = 3 * missing * load_model(tiny_llama).config.hidden_size
    assert any(note.startswith(f"{padding:,} parameters are padding") for note in result.notes)
    plan = Manifest.load(tmp_path / "out").plan
    assert plan is not None
    assert plan.notes == result.notes


@pytest.mark.usefixtures("own_process")
@pytest.mark.slow
def test_a_checkpoint_that_computes_something_else_fails_the_proof(
    pruned: tuple[Path, PruneResult], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(pruned[1].folder, tmp_path / "copy"))
    expected = expect(load_model(folder), open_checkpoint(folder).config, load_tokenizer(folder))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 1e-4}))
    with pytest.raises(VerificationError, match="computes other logits than in memory") as caught:
        prove_reload(folder, expected)
    assert caught.value.exit_code == 1


@pytest.mark.usefixtures("own_process")
@pytest.mark.slow
def test_the_probe_cannot_import_this_package(tmp_path: Path) -> None:
    blocked = (
        "from amp_export.pruning import reload_probe; reload_probe.forbid_amp_export(); import amp_export.pruning.plan"
    )
    finished = subprocess.run([sys.executable, "-c", blocked], capture_output=True, text=True, check=False)
    assert "amp_export.pruning.plan must not be needed to load a pruned checkpoint" in finished.stderr
    inputs = {"input_ids": torch.zeros(1, 1, dtype=torch.int64)}
    expected = Expectation(inputs, {"logits": torch.zeros(1, 1, 1)}, [], "AutoModelForCausalLM")
    (tmp_path / "config.json").write_text('{"model_type": "no such type"}')
    with pytest.raises(VerificationError, match="cannot load"):
        prove_reload(tmp_path, expected)


@pytest.mark.usefixtures("own_process")
def test_the_probe_finds_what_is_on_the_path_as_this_process_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A library in the user's site-packages or on PYTHONPATH, as torch is on many clusters."""
    (tmp_path / "sitecustomize.py").write_text(f"open({str(tmp_path / 'found')!r}, 'w').close()")
    (tmp_path / "jobs.json").write_text(json.dumps({"threads": 1, "modules": str(tmp_path), "checkpoints": []}))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("PYTHONWARNINGS", "error")
    assert reload_check.run_probe(tmp_path / "jobs.json") == ""
    assert (tmp_path / "found").is_file()


@pytest.mark.parametrize(
    ("model", "options", "error"),
    [
        ("absent-directory/x/y", PruneOptions(ratio=0.2), ModelError),
        (None, PruneOptions(ratio=0.0), RatioError),
        (None, PruneOptions(ratio=0.99), RatioError),
        (None, PruneOptions(ratio=0.2, calibration=Path("absent.txt")), CalibrationError),
        (None, PruneOptions(ratio=0.2, scores=Path("absent.safetensors")), ModelError),
        (None, PruneOptions(plan=Path("absent.json")), PlanError),
        (None, PruneOptions(), RequestError),
        (None, PruneOptions(ratio=0.2, plan=Path("plan.json")), RequestError),
    ],
)
def test_a_request_that_cannot_be_met_leaves_the_output_untouched(
    tiny_llama: Path,
    prompts: Path,
    tmp_path: Path,
    model: str | None,
    options: PruneOptions,
    error: type[AmpExportError],
) -> None:
    with pytest.raises(error):
        prune(model or tiny_llama, tmp_path / "out", replace(options, calibration=options.calibration or prompts))
    assert list(tmp_path.iterdir()) == []


CHOICES = {
    "criterion": CriterionName.WANDA,
    "allocation": Allocation.PAPER,
    "heads": HeadPolicy.GROUPS,
    "snap": 64,
    "target": TargetName.ORIN_NANO,
    "one_width": True,
    "heads_per_layer": PerLayer.GLOBAL,
    "neurons_per_layer": PerLayer.GLOBAL,
    "scores": Path("scores.safetensors"),
}


@given(chosen=st.sets(st.sampled_from(sorted(CHOICES)), min_size=1))
def test_options_that_a_plan_leaves_without_effect_are_refused(chosen: set[str]) -> None:
    options = PruneOptions(plan=Path("plan.json"), **{name: CHOICES[name] for name in chosen})
    with pytest.raises(RequestError, match="would have no effect") as refused:
        prepare("absent", options, progress=Silent())
    named = {f"--{name.replace('_', '-')}" for name in chosen}
    assert set(re.findall(r"--[a-z-]+", str(refused.value).splitlines()[0])) == named | {"--plan"}


def test_every_choice_of_a_plan_is_refused_beside_one() -> None:
    assert CHOICES.keys() == {each.name for each in fields(PlanChoices)} | {"scores"}


def test_nan_weights_are_found_before_anything_is_written(tiny_llama: Path, prompts: Path, tmp_path: Path) -> None:
    model = load_model(tiny_llama)
    with torch.no_grad():
        model.model.layers[0].self_attn.k_proj.weight[0, 0] = float("nan")
    broken = Path(shutil.copytree(tiny_llama, tmp_path / "broken"))
    model.save_pretrained(broken)
    with pytest.raises(ModelError, match=r"layers\.0\.self_attn\.k_proj\.weight"):
        prune(broken, tmp_path / "out", PruneOptions(ratio=0.2, calibration=prompts))
    assert not (tmp_path / "out").exists()


def test_a_tokenizer_of_another_model_is_refused(tiny_llama: Path, tmp_path: Path) -> None:
    texts, config = ["words"], open_checkpoint(tiny_llama).config
    with pytest.raises(ModelError, match="the model's vocabulary ends at 4"):
        tokenize(load_tokenizer(tiny_llama), texts, replace(config, sizes={**config.sizes, "vocab_size": 5}))


def test_a_checkpoint_without_tokenizer_says_so(tiny_llama: Path, prompts: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(tiny_llama / name, bare)
    with pytest.raises(ModelError, match="no tokenizer"):
        prune(bare, tmp_path / "out", PruneOptions(ratio=0.2, calibration=prompts))
    assert not (tmp_path / "out").exists()


def test_an_output_that_is_not_ours_is_refused_before_any_work(tiny_llama: Path, prompts: Path, tmp_path: Path) -> None:
    (tmp_path / "diary.txt").write_text("Dear diary")
    with pytest.raises(OutputError, match="diary"):
        prune(tiny_llama, tmp_path, PruneOptions(ratio=0.2, calibration=prompts), overwrite=True)
