"""Recovery of an output: what is trained, what is kept, and what is removed with the earlier weights."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from amp_export.api.prune import prune
from amp_export.api.recover import recover
from amp_export.architectures import ModelConfig
from amp_export.checkpoints.loading import load_model
from amp_export.checkpoints.reading import open_checkpoint
from amp_export.errors import AmpExportError, OutputError
from amp_export.options import Allocation, CriterionName, Uniform
from amp_export.outputs.manifest import Manifest, RewriteKind
from amp_export.outputs.resumable import has_unfinished
from amp_export.progress import Silent
from amp_export.pruning import reload_check
from amp_export.pruning.reload_check import Expectation
from amp_export.recovery import pipeline
from amp_export.recovery.results import Recovery, Stop
from amp_export.reporting.files import update_report
from amp_export.reporting.report import Report
from amp_export.verb_options import PruneOptions, RecoverOptions
from tests.support import sample_reports
from tests.support.command_line import run
from tests.support.lopsided import lopsided_plan
from tests.support.recovering import StopAt, files, pruned_output, train, weights
from tests.support.shared import Converted
from tests.support.tiny_models import save_tiny_model, save_tiny_output, save_tiny_tokenizer


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("text") / "lines.txt"
    lines = (
        f"{number} men went to mow, {number * 37 % 101} cows stood in row {number * 11 % 17}." for number in range(80)
    )
    file.write_text("\n".join(lines))
    return file


@pytest.fixture(scope="module")
def pruned(shallow_llama: Path, text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output with a pruned checkpoint; nothing may change it."""
    return pruned_output(shallow_llama, text, tmp_path_factory.mktemp("pruned"))


@pytest.fixture
def output(pruned: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pruned, tmp_path / "out"))


@pytest.fixture(scope="module")
def whole(pruned: Path, text: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Recovery, bytes]:
    """What one run of training records, and the file of its weights."""
    return train(pruned, options(text), tmp_path_factory.mktemp("whole"))


def options(text: Path, **others: Any) -> RecoverOptions:
    return RecoverOptions(**{"text": text, "steps": 16, "learning_rate": 1e-3, **others})


def test_the_divergence_falls_and_all_is_recorded(output: Path, text: Path) -> None:
    before, old = Report.load(output), files(output)
    recovered = recover(output, options(text))
    recovery = recovered.recovery
    assert recovery.loss_after < 0.95 * recovery.loss_before
    assert recovery.loss_after == min(each.loss for each in recovery.measurements)
    assert (recovery.steps, recovery.stop, recovery.window_tokens, recovery.tokens) == (16, Stop.STEPS, 128, 16 * 128)
    assert recovered.reload is not None
    assert recovered.reload.logits_compared
    manifest, report = Manifest.load(output), Report.load(output)
    manifest.verify(output)
    assert report.pruning.recoveries == (recovery,)
    assert report.pruning.reload == recovered.reload
    assert report.quality == recovered.quality
    assert report.quality.kl < before.quality.kl
    assert report.quality.dense == before.quality.dense
    assert f"{recovery}." in (output / "report.md").read_text()
    new = files(output)
    changed = {name for name in old.keys() | new.keys() if old.get(name) != new.get(name)}
    assert changed <= {
        "pruned/model.safetensors",
        "amp_export.json",
        *(f"report.{form}" for form in ("json", "md", "xml", "html")),
    }
    assert not has_unfinished(output)


def test_embeddings_and_head_stay_and_all_else_is_trained(output: Path, text: Path) -> None:
    before = weights(output)
    recover(output, options(text, steps=2))
    after = weights(output)
    assert before.keys() == after.keys()
    same = {name for name in before if torch.equal(before[name], after[name])}
    assert same == {"model.embed_tokens.weight", "lm_head.weight"}


def test_the_checkpoint_has_the_weights_in_memory(output: Path, text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[dict[str, torch.Tensor]] = []

    def expect(model: PreTrainedModel, config: ModelConfig, tokenizer: PreTrainedTokenizerBase) -> Expectation:
        written.append(model.state_dict())
        return reload_check.expect(model, config, tokenizer)

    monkeypatch.setattr(pipeline, "expect", expect)
    recover(output, options(text, steps=2))
    loaded = load_model(output / "pruned").state_dict()
    assert written[0].keys() == loaded.keys()
    assert all(torch.equal(tensor, loaded[name]) for name, tensor in written[0].items())


def test_the_same_command_gives_the_same_weights_and_another_seed_others(
    pruned: Path, text: Path, tmp_path: Path
) -> None:
    found = []
    for number, seed in enumerate((0, 0, 1)):
        copy = Path(shutil.copytree(pruned, tmp_path / str(number)))
        recover(copy, options(text, steps=3, seed=seed))
        found.append((copy / "pruned/model.safetensors").read_bytes())
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize("rate", [30.0, 1e30])
def test_training_that_diverges_leaves_the_output_and_says_so(rate: float, output: Path, text: Path) -> None:
    before = files(output)
    result = run("recover", output, "--text", text, "--steps", 24, "--learning-rate", rate)
    assert result.exit_code == 0, result.output
    said = " ".join(result.stderr.split())
    assert "training diverged. No step brought the KL divergence" in said
    assert f"{output} is unchanged. Try a smaller learning rate, such as --learning-rate {rate / 5:.2g}." in said
    assert files(output) == before
    assert not has_unfinished(output)


@pytest.mark.slow
@pytest.mark.parametrize("step", [2, 4, 16])
def test_stopped_and_resumed_gives_the_weights_of_one_run(
    step: int, output: Path, text: Path, whole: tuple[Recovery, bytes]
) -> None:
    expected, expected_weights = whole
    before, progress = files(output), StopAt(step)
    with pytest.raises(KeyboardInterrupt):
        recover(output, options(text), progress=progress)
    assert progress.notes[-1].startswith("The same command with --resume goes on")
    assert files(output) == before
    again = StopAt(-1)
    found = recover(output, options(text), resume=True, progress=again).recovery
    # the state is saved after the measurement at which it was stopped
    assert (f"Training goes on after step {step - 2}." in again.notes) == (step > 2)
    assert found.measurements == expected.measurements
    assert (output / "pruned/model.safetensors").read_bytes() == expected_weights
    assert not has_unfinished(output)


@pytest.mark.slow
def test_killed_and_resumed_gives_the_weights_of_one_run(pruned: Path, text: Path, tmp_path: Path) -> None:
    whole, parts = (Path(shutil.copytree(pruned, tmp_path / name)) for name in ("whole", "parts"))
    words = ("--text", text, "--steps", 160, "--learning-rate", 1e-3)
    command = [sys.executable, "-m", "amp_export", "recover", *map(str, (parts, *words))]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    state = tmp_path / ".parts.resume/content/state.pt"
    while not state.is_file():
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert files(parts) == files(pruned)
    resumed = run("recover", parts, *words, "--resume")
    assert resumed.exit_code == 0, resumed.output
    assert "Training goes on after step " in resumed.stderr
    assert run("recover", whole, *words).exit_code == 0
    assert (whole / "pruned/model.safetensors").read_bytes() == (parts / "pruned/model.safetensors").read_bytes()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["parts", "whole"]


def test_other_options_do_not_go_on_with_it(output: Path, text: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        recover(output, options(text), progress=StopAt(4))
    with pytest.raises(OutputError, match=r"other options: steps was 16 and is 8; seed was 0 and is 1\.\nGive"):
        recover(output, options(text, steps=8, seed=1), resume=True)
    assert has_unfinished(output)
    recover(output, options(text, steps=2))
    assert not has_unfinished(output)


class Meanwhile(Silent):
    """Progress that does something else after the last step."""

    def __init__(self, work: Callable[[], object]) -> None:
        self._work = work

    def note(self, message: str) -> None:
        if message.startswith("After step 16:"):
            self._work()


def test_an_output_that_was_replaced_meanwhile_stays(output: Path, shallow_llama: Path, text: Path) -> None:
    def prune_again() -> None:
        prune(
            shallow_llama, output, PruneOptions(ratio=0.1, snap=1, calibration=text, compensate=False), overwrite=True
        )
        replaced.update(files(output))

    replaced: dict[str, bytes] = {}
    with pytest.raises(AmpExportError, match=r"changed while it was read|was written to while this command ran"):
        recover(output, options(text), progress=Meanwhile(prune_again))
    assert replaced
    assert files(output) == replaced


@pytest.mark.parametrize("content", [b"", b"nothing of torch's", b"half"])
def test_a_damaged_state_is_exit_code_2(content: bytes, output: Path, text: Path) -> None:
    words = ("recover", output, "--text", text, "--steps", 16, "--learning-rate", 1e-3)
    with pytest.raises(KeyboardInterrupt):
        recover(output, options(text), progress=StopAt(6))
    state = output.parent / ".out.resume/content/state.pt"
    state.write_bytes(state.read_bytes()[:1000] if content == b"half" else content)
    result = run(*words, "--resume")
    assert result.exit_code == 2, result.output
    assert "state.pt is damaged, so that training cannot go on" in " ".join(result.stderr.split())
    assert "Leave --resume out to begin again." in result.stderr


def test_the_time_ends_it(output: Path, text: Path) -> None:
    recovery = recover(output, options(text, steps=None, minutes=1 / 60)).recovery
    assert recovery.stop is Stop.TIME
    assert recovery.steps > 0
    assert recovery.measurements[-1].step == recovery.steps


@pytest.mark.slow
def test_exports_verdicts_and_bundles_of_the_earlier_weights_are_gone_and_new_ones_are_made(
    text: Path, tmp_path: Path
) -> None:
    output = save_tiny_output(tmp_path)
    assert run("validate", output).exit_code == 0
    assert run("bundle", output).exit_code == 0
    (output / "draft").mkdir()
    (output / "draft" / "genai_config.json").write_text("{}")
    (output / "mine.txt").write_text("a note of the user")
    evaluation = replace(sample_reports.evaluation(), judged=Manifest.load(output).judged("pruned"))
    update_report(output, evaluations={"pruned": evaluation})
    assert {"parity", "evaluations"} <= Manifest.load(output).verdicts.keys()
    result = run("recover", output, "--text", text, "--steps", 4, "--learning-rate", 1e-3)
    assert result.exit_code == 0, result.output
    manifest = Manifest.load(output)
    assert not manifest.exports
    assert manifest.verdicts.keys() == {"reload", "quality", "recoveries"}
    assert {entry.name for entry in output.iterdir() if entry.name[:7] != "report."} == {
        "amp_export.json",
        "pruned",
        "mine.txt",
    }
    assert (Report.load(output).parity, Report.load(output).evaluations) == (None, None)
    assert f"amp-export export --model {output / 'pruned'} --to onnx --output {output}" in result.stderr
    assert run("validate", output).exit_code == 2
    assert run("export", "--model", output / "pruned", "--to", "onnx", "--output", output).exit_code == 0
    assert run("validate", output).exit_code == 0
    report = Report.load(output)
    assert report.holds
    assert report.parity is not None
    assert len(report.pruning.recoveries) == 1


@pytest.mark.slow
def test_an_end_to_end_run_goes_on_with_the_new_weights(
    converted: Callable[[str], Converted], text: Path, tmp_path: Path
) -> None:
    made = converted("llama")
    output = Path(shutil.copytree(made.output, tmp_path / "out"))
    assert recover(output, options(text, steps=4)).recovery.improved
    words = ("--to", "onnx", "--model", made.checkpoint, "--ratio", 0.1, "--snap", 1, "--one-width", "--threads", 1)
    words += ("--calibration", made.checkpoint.parent / "prompts.txt", "--output", output)
    result = run(*words, "--resume")
    assert result.exit_code == 0, result.output
    report = Report.load(output)
    assert report.parity.holds
    assert report.benchmarks
    assert len(report.pruning.recoveries) == 1
    assert not Manifest.load(output).unfinished


def test_a_second_recovery_is_recorded_after_the_first(output: Path, text: Path) -> None:
    first, second = (recover(output, options(text, steps=4)).recovery for _ in range(2))
    assert Report.load(output).pruning.recoveries == (first, second)
    assert second.loss_before == pytest.approx(first.loss_after)


@pytest.mark.parametrize(
    ("model_type", "uniform", "kind", "fields"),
    [
        ("llama", Uniform.RESIZE, RewriteKind.RESIZED_CLASS, {"tie_word_embeddings": True}),
        ("gemma2", Uniform.PAD, RewriteKind.PADDED, {}),
        ("gpt2", None, RewriteKind.SAME_CLASS, {}),
        ("mixtral", None, RewriteKind.SAME_CLASS, {}),
    ],
)
def test_other_kinds_of_checkpoints(
    model_type: str,
    uniform: Uniform | None,
    kind: RewriteKind,
    fields: dict[str, Any],
    text: Path,
    tmp_path: Path,
) -> None:
    dense, output = save_tiny_model(tmp_path / "dense", model_type, **fields), tmp_path / "out"
    save_tiny_tokenizer(dense)
    # what training can repair, even in models as small as these
    how: dict[str, Any] = {
        "ratio": 0.2,
        "snap": 8,
        "criterion": CriterionName.AMP,
        "allocation": Allocation.BALANCED,
    }
    if uniform is not None:
        lopsided_plan(open_checkpoint(dense).config).save(tmp_path / "plan.json")
        how = {"plan": tmp_path / "plan.json", "uniform": uniform}
    prune(dense, output, PruneOptions(calibration=text, compensate=False, **how))
    assert Manifest.load(output).rewrite.kind is kind
    before = weights(output)
    recovery = recover(output, options(text, steps=8)).recovery
    assert recovery.loss_after < recovery.loss_before
    after = weights(output)
    assert {name: tensor.shape for name, tensor in before.items()} == {
        name: tensor.shape for name, tensor in after.items()
    }
    if kind is RewriteKind.PADDED:
        padded = {name: tensor == 0 for name, tensor in before.items() if name.endswith("down_proj.weight")}
        assert any(places.any() for places in padded.values())
        assert not any(after[name][places].any() for name, places in padded.items()), "padding stays zero"


@pytest.mark.parametrize(("rate", "improves"), [(1e-3, True), (1e-9, False)])
def test_weights_are_trained_in_float32_and_written_in_their_own_dtype(
    rate: float, improves: bool, text: Path, tmp_path: Path
) -> None:
    dense, output = tmp_path / "dense", tmp_path / "out"
    load_model(save_tiny_model(tmp_path / "first", "llama"), dtype=torch.bfloat16).save_pretrained(dense)
    save_tiny_tokenizer(dense)
    prune(dense, output, PruneOptions(ratio=0.3, snap=1, calibration=text, compensate=False))
    recovered = recover(output, options(text, steps=8, learning_rate=rate))
    # a step that rounding takes back is no gain
    assert recovered.recovery.improved is improves
    assert (recovered.reload is not None) is improves
    assert {tensor.dtype for tensor in weights(output).values()} == {torch.bfloat16}


def short(checkpoint: Path, output: Path, text: Path) -> list[object]:
    file = output.parent / "short.txt"
    file.write_text("Just one line.")
    return ["recover", output, "--text", file]


def without_pruned(checkpoint: Path, output: Path, text: Path) -> list[object]:
    assert run("export", "--model", checkpoint, "--output", output.parent / "exported").exit_code == 0
    return ["recover", output.parent / "exported"]


def without_dense(checkpoint: Path, output: Path, text: Path) -> list[object]:
    content = json.loads((output / "amp_export.json").read_text())
    content["source"]["path"] = str(output.parent / "gone")
    (output / "amp_export.json").write_text(json.dumps(content))
    return ["recover", output, "--text", text]


def an_encoder(checkpoint: Path, output: Path, text: Path) -> list[object]:
    bert = save_tiny_model(output.parent / "bert", "bert")
    save_tiny_tokenizer(bert)
    result = run(
        "prune",
        "--model",
        bert,
        "--ratio",
        "0.1",
        "--snap",
        1,
        "--calibration",
        text,
        "--output",
        output,
        "--overwrite",
    )
    assert result.exit_code == 0, result.output
    return ["recover", output]


def changed(checkpoint: Path, output: Path, text: Path) -> list[object]:
    (output / "pruned/config.json").write_text("{}")
    return ["recover", output]


BAD: dict[str, tuple[Callable[[Path, Path, Path], list[object]], str]] = {
    "no pruned checkpoint": (without_pruned, "no pruned checkpoint to recover. Prune first: amp-export prune --model"),
    "short text": (
        short,
        "needs two windows of 128 tokens or more, one to train on and one to measure on, but short.txt has 14",
    ),
    "an encoder": (an_encoder, "is a BertForMaskedLM, which does not predict the next token. Export it as it is"),
    "no dense model": (without_dense, "gone, which no longer exists. Recovery needs its predictions"),
    "a changed file": (changed, "is not the file that"),
    "no output": (lambda _, output, __: ["recover", output.parent / "absent"], "No such directory"),
    "no such text": (lambda _, output, __: ["recover", output, "--text", "absent.txt"], "absent.txt cannot be read"),
    "no text": (lambda _, output, __: ["recover", output, "--text", "a.npz"], "neither a .txt nor a .jsonl file"),
    "no time": (lambda _, output, __: ["recover", output, "--minutes", 0], "--minutes is 0, and must be above 0"),
    "no rate": (
        lambda _, output, __: ["recover", output, "--learning-rate", "nan"],
        "--learning-rate is nan, and must",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_exit_code_2_and_leaves_the_output(
    case: str, shallow_llama: Path, output: Path, text: Path
) -> None:
    make, message = BAD[case]
    words = make(shallow_llama, output, text)
    before = files(output)
    result = run(*words)
    assert result.exit_code == 2, result.output
    assert message in " ".join(result.stderr.split())
    assert files(output) == before
    assert not has_unfinished(output)
