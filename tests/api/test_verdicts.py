"""A verdict is about the files that were judged: it ends when they change, and commands that run at once keep it."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from amp_export import ExportOptions, export
from amp_export.cli import app
from amp_export.errors import OutputError
from amp_export.options import Dtype, Format
from amp_export.outputs.manifest import Manifest
from amp_export.outputs.scratch import lock_output
from amp_export.reporting.files import save_report, update_report
from amp_export.reporting.report import Report, record_verdicts
from tests.support import sample_reports
from tests.support.sample_reports import JUDGED, full_report, manifest, save_graph
from tests.support.tiny_models import save_tiny_output


@pytest.fixture
def judged(tmp_path: Path) -> Path:
    """An output whose graph was judged in every way."""
    output = tmp_path / "out"
    output.mkdir()
    save_graph(output)
    report = full_report()
    save_report(output, report, record_verdicts(manifest(report), report))
    return output


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, " ".join(result.stderr.split())


def damage(output: Path) -> Path:
    graph = output / "onnx/model.onnx"
    graph.write_bytes(b"another")
    return graph


@pytest.mark.parametrize(
    "command", [("report",), ("validate",), ("benchmark",), ("bundle",), ("report", "--format", "md")], ids=" ".join
)
def test_every_command_names_a_file_that_was_changed(command: tuple[str, ...], judged: Path) -> None:
    graph = damage(judged)
    name, *options = command
    code, said = run(name, judged, *options)
    assert code == 2
    assert f"{graph} is not the file that" in said.replace("\n", " ")


def test_every_output_of_a_comparison_is_looked_at(judged: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    save_graph(other)
    save_report(other, full_report(), manifest(full_report()))
    damage(other)
    code, said = run("report", judged, other)
    assert code == 2
    assert "other/onnx/model.onnx is not the file" in said


def test_verdicts_on_files_that_are_gone_are_not_read(judged: Path) -> None:
    damage(judged)
    anew = Manifest.load(judged).with_hashes(judged)
    anew.write(judged)
    report = Report.load(judged)
    assert (report.parity, report.benchmarks, report.devices, report.checks) == (None, None, None, None)
    assert report.quality == full_report().quality, "it is about the pruned checkpoint"
    assert report.evaluations == {"pruned": sample_reports.evaluation()}, "and so is this one"
    assert record_verdicts(anew, report).verdicts.keys() & {"parity", "speedup", "devices"} == set()
    code, said = run("report", judged)
    assert "Parity is not checked" in said
    assert code == 0


def test_a_verdict_on_files_that_were_replaced_meanwhile_is_not_recorded(judged: Path) -> None:
    damage(judged)
    Manifest.load(judged).with_hashes(judged).write(judged)
    with pytest.raises(OutputError, match="its files are not those that were checked"):
        update_report(judged, parity=sample_reports.parity(sample_reports.case("1 token")))
    assert Report.load(judged).parity is None


def test_results_that_come_at_once_are_all_kept(judged: Path) -> None:
    """Each command waits for the other: none writes back what it read before."""
    bare = Report.of(Manifest.load(judged))
    save_report(judged, bare, record_verdicts(Manifest.load(judged), bare))
    threads = [
        threading.Thread(target=update_report, args=(judged,), kwargs=section)
        for section in (
            {"parity": sample_reports.parity(sample_reports.case("1 token"))},
            {"benchmarks": {"onnxruntime": sample_reports.benchmark()}},
            {"devices": {"orin": sample_reports.device()}},
            {"evaluations": {"pruned": sample_reports.evaluation()}},
            {"evaluations": {"onnx": sample_reports.evaluation("onnx")}},
        )
    ]
    with lock_output(judged):
        for thread in threads:
            thread.start()
        threads[0].join(0.2)
        assert all(thread.is_alive() for thread in threads)
    for thread in threads:
        thread.join()
    report = Report.load(judged)
    assert report.parity is not None
    assert report.benchmarks is not None
    assert report.devices is not None
    assert (report.evaluations or {}).keys() == {"pruned", "onnx"}
    Manifest.load(judged).verify(judged)
    update_report(judged, checks=full_report().checks)
    assert Report.load(judged).checks == full_report().checks
    assert [entry.name for entry in judged.parent.iterdir()] == ["out"]


def test_a_run_that_is_killed_while_it_writes_a_report_leaves_one_that_can_be_read(
    judged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stop after each of the files that are written, one after the other."""
    from amp_export.outputs import manifest as manifests
    from amp_export.reporting import files

    real, written = files.replace_text, 0
    for stop in range(12):
        remaining = stop

        def replace_text(file: Path, text: str) -> None:
            nonlocal remaining
            if remaining == 0:
                raise KeyboardInterrupt
            remaining -= 1
            real(file, text)

        with monkeypatch.context() as patch:
            patch.setattr(files, "replace_text", replace_text)
            patch.setattr(manifests, "replace_text", replace_text)
            try:
                update_report(judged, parity=sample_reports.parity(sample_reports.case(f"{stop} tokens")))
            except KeyboardInterrupt:
                written += 1
        Manifest.load(judged).verify(judged)
        parity = Report.load(judged).parity
        assert parity is not None
        assert parity.judged == JUDGED
        if written == stop:
            break  # it ended before it could be stopped, as all would that come later
    assert 4 <= written < 12, "the last was not stopped"


@pytest.mark.slow
def test_another_export_ends_the_verdicts_on_the_one_before(tmp_path: Path) -> None:
    output = save_tiny_output(tmp_path)
    pruned = output / "pruned"
    assert run("validate", output)[0] == 0
    assert "Parity holds" in run("report", output)[1]
    parts = {part: Manifest.load(output).judged(part) for part in ("pruned", "onnx")}
    evaluations = {part: replace(sample_reports.evaluation(), judged=judged) for part, judged in parts.items()}
    update_report(output, evaluations=evaluations)
    with pytest.raises(OutputError, match="exists already"):
        export(pruned, output)
    export(pruned, output, ExportOptions(dtype=Dtype.FLOAT16), overwrite=True)
    code, said = run("report", output)
    assert code == 0
    assert "Parity is not checked" in said
    verdicts, report = (json.loads((output / name).read_text()) for name in ("amp_export.json", "report.json"))
    assert "parity" not in verdicts["verdicts"]
    assert report["parity"] is None
    assert verdicts["verdicts"]["evaluations"].keys() == report["evaluations"].keys() == {"pruned"}
    assert run("validate", output)[0] == 0
    assert "Parity holds" in run("report", output)[1]
    with pytest.raises(OutputError, match="onnx exists already"):
        export(pruned, output, ExportOptions(to=Format.TENSORRT))


@pytest.mark.slow
def test_the_dense_model_is_the_one_that_was_pruned(tmp_path: Path) -> None:
    output = save_tiny_output(tmp_path)
    config = Path(Manifest.load(output).source.path) / "config.json"
    config.write_text(config.read_text() + " ")
    for command in ("benchmark", "bundle"):
        code, said = run(command, output)
        assert code == 2
        assert "which has changed since" in said
