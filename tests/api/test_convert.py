"""An end-to-end run that fails late keeps what was finished, and is resumed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from amp_export.api import convert as converting
from amp_export.benchmarking import rounds as benchmark_rounds
from amp_export.checkpoints.hashing import hash_file
from amp_export.cli import app
from amp_export.errors import RequestError
from amp_export.hardware import machine
from amp_export.outputs.manifest import Manifest, Step
from amp_export.reporting.report import Report
from tests.support.tiny_models import save_tiny_model, save_tiny_samples, save_tiny_tokenizer


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = save_tiny_model(tmp_path_factory.mktemp("model") / "checkpoint", "llama", num_hidden_layers=1)
    save_tiny_tokenizer(folder)
    return folder


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark_rounds, "read_bandwidth", lambda _: machine.read_bandwidth(1, buffer_bytes=1 << 20))


def run(model: Path, output: Path, *options: str, ratio: str = "0.1") -> Result:
    samples = model.parent / "samples.txt"
    if not samples.exists():
        samples = save_tiny_samples(model)
    command = ["--to", "onnx", "--model", model, "--ratio", ratio, "--snap", "1", "--threads", "1", "--output", output]
    return CliRunner().invoke(app, [str(part) for part in (*command, "--calibration", samples, *options)])


def fail(*_: object, **__: object) -> None:
    raise RequestError("The sky fell.\nHold it up.")


def crash(*_: object, **__: object) -> None:
    raise ZeroDivisionError


FAILURES: dict[Step, tuple[str, set[str]]] = {
    Step.EXPORT: ("export_as", set()),
    Step.VALIDATE: ("compare", {"onnx"}),
    Step.BENCHMARK: ("benchmark_models", {"onnx"}),
}


@pytest.mark.slow
@pytest.mark.parametrize("step", Step)
@pytest.mark.parametrize(("error", "code"), [(fail, 2), (crash, 70)])
def test_what_was_finished_is_kept_and_the_rest_is_resumed(
    step: Step, error: Callable[..., None], code: int, model: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    name, folders = FAILURES[step]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(converting, name, error)
        failed = run(model, output)
    assert failed.exit_code == code
    assert f"What was finished is in {output}. The same command with --resume goes on from there." in failed.stderr
    manifest = Manifest.load(output)
    manifest.verify(output)
    assert manifest.unfinished == tuple(Step)[tuple(Step).index(step) :]
    assert {entry.name for entry in output.iterdir() if entry.is_dir()} == {"pruned"} | folders
    report = Report.load(output)
    assert (report.parity is not None) == (step is Step.BENCHMARK)
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]

    pruned = hash_file(output / "pruned/model.safetensors")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(converting, "prune_into", crash)
        resumed = run(model, output, "--resume")
        assert resumed.exit_code == 0, resumed.stderr
        again = run(model, output, "--resume")
    assert hash_file(output / "pruned/model.safetensors") == pruned
    manifest, report = Manifest.load(output), Report.load(output)
    manifest.verify(output)
    assert manifest.unfinished == ()
    assert report.holds
    assert report.parity is not None
    assert report.benchmark is not None
    assert again.exit_code == 0
    assert "All steps are finished" in again.stderr


@pytest.fixture(scope="module")
def unfinished(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("unfinished") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(converting, "export_as", fail)
        run(model, output)
    return output


@pytest.mark.slow
def test_only_the_same_request_is_resumed(unfinished: Path, model: Path, tmp_path: Path) -> None:
    output = Path(shutil.copytree(unfinished, tmp_path / "out"))
    other = run(model, output, "--resume", ratio="0.2")
    assert other.exit_code == 2
    assert "ratio was 0.1 and is 0.2" in other.stderr
    moved = run(model, output, "--resume", "--revision", "v1")
    assert moved.exit_code == 2
    assert "revision was None and is v1" in moved.stderr
    elsewhere = run(model, output, "--resume", "--target", "l4")
    assert elsewhere.exit_code == 2
    assert "prune.target was cpu and is l4" in elsewhere.stderr, "the export has an option of that name, too"
    assert "exists" in run(model, output).stderr or "holds an earlier result" in run(model, output).stderr
    config = output / "pruned/config.json"
    config.write_text(config.read_text() + " ")
    changed = run(model, output, "--resume")
    assert changed.exit_code == 2
    assert "pruned/config.json is not the file" in " ".join(changed.stderr.split())


@pytest.mark.slow
def test_an_earlier_result_stands_until_the_steps_are_run_and_a_first_run_may_be_resumed(
    unfinished: Path, model: Path, tmp_path: Path
) -> None:
    output = Path(shutil.copytree(unfinished, tmp_path / "out"))
    before = hash_file(output / "amp_export.json")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(converting, "prune_into", fail)
        assert run(model, output, "--overwrite").exit_code == 2
    assert hash_file(output / "amp_export.json") == before
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(converting, "export_as", fail)
        first = run(model, tmp_path / "new", "--resume")
    assert "--resume goes on from there" in first.stderr
