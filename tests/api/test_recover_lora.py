"""Recovery with LoRA: what is trained and recorded, how it ends and goes on, and what is refused."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from amp_export.api.prune import prune
from amp_export.api.recover import recover
from amp_export.checkpoints.reading import open_checkpoint
from amp_export.errors import MissingExtraError, OutputError
from amp_export.options import Allocation, RecoveryMethod, Uniform
from amp_export.outputs.manifest import Manifest, RewriteKind
from amp_export.outputs.resumable import has_unfinished
from amp_export.recovery import pipeline
from amp_export.recovery.adapters import Adapters, projections
from amp_export.recovery.results import Recovery, Stop
from amp_export.reporting.report import Report
from amp_export.verb_options import PruneOptions, RecoverOptions
from tests.support.command_line import run
from tests.support.lopsided import lopsided_plan
from tests.support.recovering import StopAt, files, pruned_output, train, weights
from tests.support.tiny_models import save_tiny_model, save_tiny_tokenizer

pytest.importorskip("peft")


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty instructions that repeat."""
    file = tmp_path_factory.mktemp("text") / "rows.jsonl"
    rows = [{"instruction": f"Say {number % 7}.", "output": f"{number % 7} again"} for number in range(40)]
    file.write_text("\n".join(map(json.dumps, rows)))
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
    return RecoverOptions(**{"method": RecoveryMethod.LORA, "text": text, "steps": 8, "learning_rate": 1e-2, **others})


def test_the_loss_falls_and_all_is_recorded(output: Path, text: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before, old = weights(output), torch.random.get_rng_state()
    capfd.readouterr()
    recovered = recover(output, options(text))
    assert capfd.readouterr() == ("", ""), "the Trainer's own messages are silenced"
    assert torch.equal(torch.random.get_rng_state(), old)
    recovery = recovered.recovery
    assert recovery.loss_after < 0.8 * recovery.loss_before
    assert recovery.loss_after == pytest.approx(min(each.loss for each in recovery.measurements), rel=1e-4)
    assert (recovery.steps, recovery.stop, recovery.window_tokens) == (8, Stop.STEPS, 128)
    assert (recovery.adapters, recovery.windows_per_step) == (Adapters(8, 16, 0.05), 16)
    assert recovery.tokens > 8 * 16 * len("Instruction: Say 1.\nResponse: 1 again") - 8 * 16
    assert recovered.reload is not None
    assert recovered.reload.logits_compared
    Manifest.load(output).verify(output)
    report = Report.load(output)
    assert report.pruning.recoveries == (recovery,)
    assert report.quality == recovered.quality
    assert f"{recovery}." in (output / "report.md").read_text()
    after, config = weights(output), open_checkpoint(output / "pruned").config
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {f"{path}.weight" for path, _ in projections(config)}
    assert not has_unfinished(output)


def test_by_default_two_epochs_are_trained(output: Path, text: Path) -> None:
    # 8 of 40 rows are held out, and a step takes 16
    recovery = recover(output, RecoverOptions(method=RecoveryMethod.LORA, text=text)).recovery
    assert (recovery.steps, recovery.learning_rate) == (2 * 2, 3e-4)


def test_the_time_ends_it(output: Path, text: Path) -> None:
    recovery = recover(output, options(text, steps=None, minutes=1 / 120)).recovery
    assert recovery.stop is Stop.TIME
    assert recovery.measurements[-1].step == recovery.steps > 0


@pytest.mark.slow
@pytest.mark.parametrize("step", [1, 8])
def test_stopped_and_resumed_gives_the_weights_of_one_run(
    step: int, pruned: Path, output: Path, text: Path, whole: tuple[Recovery, bytes]
) -> None:
    expected, expected_weights = whole
    with pytest.raises(KeyboardInterrupt):
        recover(output, options(text), progress=StopAt(step))
    assert files(output) == files(pruned)
    again = StopAt(-1)
    found = recover(output, options(text), resume=True, progress=again).recovery
    # the state is saved after the measurement at which it was stopped
    assert (f"Training goes on after step {step - 1}." in again.notes) == (step > 1)
    assert (found.measurements, found.tokens) == (expected.measurements, expected.tokens)
    assert (output / "pruned/model.safetensors").read_bytes() == expected_weights
    assert not has_unfinished(output)


@pytest.mark.slow
def test_a_training_that_ended_is_not_repeated(
    pruned: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OutputError("the disk is full")

    whole, parts = (Path(shutil.copytree(pruned, tmp_path / name)) for name in ("whole", "parts"))
    recover(whole, options(text, steps=4))
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "_write", fail)
        with pytest.raises(OutputError, match="the disk is full"):
            recover(parts, options(text, steps=4))
    progress = StopAt(-1)
    recover(parts, options(text, steps=4), resume=True, progress=progress)
    assert [note for note in progress.notes if "step" in note] == ["Training goes on after step 4."]
    assert (whole / "pruned/model.safetensors").read_bytes() == (parts / "pruned/model.safetensors").read_bytes()


@pytest.mark.parametrize("name", ["optimizer.pt", "amp_export.json"])
def test_a_damaged_state_is_an_error(name: str, output: Path, text: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        recover(output, options(text), progress=StopAt(3))
    file = output.parent / f".out.resume/content/checkpoint-2/{name}"
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(OutputError, match=r"checkpoint-2.* is damaged, .*\nLeave --resume out"):
        recover(output, options(text), resume=True)


@pytest.mark.parametrize("rate", [300.0, 1e30])
def test_training_that_diverges_leaves_the_output_and_says_so(rate: float, output: Path, text: Path) -> None:
    before = files(output)
    result = run("recover", output, "--method", "lora", "--text", text, "--steps", 8, "--learning-rate", rate)
    assert result.exit_code == 0, result.output
    said = " ".join(result.stderr.split())
    assert "training diverged. No step brought the cross-entropy on held-out answers below" in said
    assert f"{output} is unchanged. Try a smaller learning rate" in said
    assert files(output) == before
    assert not has_unfinished(output)


def test_a_gradient_that_is_not_finite_stops_it_and_keeps_the_best(
    output: Path, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from amp_export.recovery import lora

    calls = 0
    exact = lora.answer_loss

    def broken(logits_bsv: torch.Tensor, labels_bs: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return exact(logits_bsv, labels_bs) * (float("nan") if calls > 3 * 16 else 1)

    monkeypatch.setattr(lora, "answer_loss", broken)
    recovery = recover(output, options(text)).recovery
    assert recovery.stop is Stop.DIVERGED
    assert recovery.improved
    assert recovery.best_step <= recovery.steps < 8
    assert all(tensor.isfinite().all() for tensor in weights(output).values())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model_type", "uniform", "kind"),
    [
        ("llama", Uniform.RESIZE, RewriteKind.RESIZED_CLASS),
        ("gemma2", Uniform.PAD, RewriteKind.PADDED),
        ("gpt2", None, RewriteKind.SAME_CLASS),
    ],
)
def test_other_kinds_of_checkpoints(
    model_type: str, uniform: Uniform | None, kind: RewriteKind, text: Path, tmp_path: Path
) -> None:
    dense, output = save_tiny_model(tmp_path / "dense", model_type), tmp_path / "out"
    save_tiny_tokenizer(dense)
    how: dict[str, Any] = {"ratio": 0.2, "snap": 8, "allocation": Allocation.BALANCED}
    if uniform is not None:
        lopsided_plan(open_checkpoint(dense).config).save(tmp_path / "plan.json")
        how = {"plan": tmp_path / "plan.json", "uniform": uniform}
    prune(dense, output, PruneOptions(calibration=text, compensate=False, **how))
    assert Manifest.load(output).rewrite.kind is kind
    before = weights(output)
    recovery = recover(output, options(text, steps=4)).recovery
    assert recovery.loss_after < recovery.loss_before
    after = weights(output)
    assert {name: each.shape for name, each in before.items()} == {name: each.shape for name, each in after.items()}
    if kind is RewriteKind.PADDED:
        padded = {name: each == 0 for name, each in before.items() if name.endswith("down_proj.weight")}
        assert any(places.any() for places in padded.values())
        assert not any(after[name][places].any() for name, places in padded.items()), "padding stays zero"


def experts(output: Path, text: Path) -> list[object]:
    dense = save_tiny_model(output.parent / "mixtral", "mixtral")
    save_tiny_tokenizer(dense)
    prune(dense, output, PruneOptions(ratio=0.2, calibration=text, compensate=False), overwrite=True)
    return ["--text", text]


BAD: dict[str, tuple[Callable[[Path, Path], list[object]], str]] = {
    "windows": (
        lambda _, text: ["--text", text, "--windows-per-step", 1],
        "With --method lora, --windows-per-step would have no effect. Leave it out, or give --method distill.",
    ),
    "epochs of distillation": (
        lambda _, __: ["--method", "distill", "--epochs", 1],
        "With --method distill, --epochs would have no effect. Leave it out, or give --method lora.",
    ),
    "plain text": (lambda _, __: ["--text", "a.txt"], "--text a.txt is not a .jsonl file"),
    "experts": (experts, "stacks the weights of its experts in one parameter"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_exit_code_2_and_leaves_the_output(case: str, output: Path, text: Path) -> None:
    make, message = BAD[case]
    words = make(output, text)
    before = files(output)
    result = run("recover", output, "--method", "lora", *words)
    assert result.exit_code == 2, result.output
    assert message in " ".join(result.stderr.split())
    assert files(output) == before
    assert not has_unfinished(output)


@pytest.mark.parametrize("module", ["peft", "accelerate"])
def test_a_missing_extra_is_named(module: str, output: Path, text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=r"amp-export\[recover\]"):
        recover(output, options(text))
