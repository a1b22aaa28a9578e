"""Several outputs side by side."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from amp_export.cli import app
from amp_export.errors import RequestError
from amp_export.options import ReportFormat
from amp_export.reporting.comparison import compare_outputs
from amp_export.reporting.files import write_forms
from amp_export.reporting.report import Report
from tests.support import sample_reports
from tests.support.sample_reports import bare_report, full_report, manifest, save_graph

runner = CliRunner()


def run(*arguments: str | Path) -> Result:
    return runner.invoke(app, ["report", *map(str, arguments)])


def good_report() -> Report:
    good = sample_reports.parity(sample_reports.case("1 token"))
    return replace(full_report(), parity=good, devices=None, checks=None)


def smaller(report: Report) -> Report:
    """The same with more removed, and worse for it."""
    assert report.benchmark is not None
    assert report.pruning is not None
    assert report.quality is not None
    benchmark = report.benchmark
    benchmark = replace(benchmark, pruned=replace(benchmark.pruned, bytes_on_disk=300_000_000), threads=4)
    return replace(
        report,
        pruning=replace(report.pruning, parameters_after=729_000),
        quality=replace(report.quality, pruned=51.3, kl=0.824, top1_agreement=0.6),
        benchmarks={"onnxruntime": benchmark},
        evaluations={"pruned": sample_reports.evaluation(lost=2)},
    )


def write(folder: Path, report: Report, **source: Any) -> Path:
    folder.mkdir()
    save_graph(folder)
    made = manifest(report)
    made = replace(made, source=replace(made.source, **source))
    write_forms(folder, report, made, [ReportFormat.JSON])
    return folder


@pytest.fixture
def outputs(tmp_path: Path) -> list[Path]:
    report = good_report()
    return [write(tmp_path / "a", report), write(tmp_path / "b", smaller(report))]


def test_the_first_is_the_baseline(outputs: list[Path]) -> None:
    comparison = compare_outputs(outputs)
    measures = {measure.label: measure for measure in comparison.measures}
    assert list(measures) == [
        "Parameters",
        "Perplexity",
        "KL from dense, nats",
        "Top-1 agreement with dense",
        "Size on disk",
        "Peak memory",
        "Accuracy, piqa",
        "Accuracy, winogrande",
        "Accuracy, average of piqa, winogrande",
        "Perplexity on the evaluated text",
        "Perplexity per word, wikitext",
        "Prefill, 128 tokens: median",
        "Prefill, 128 tokens: speedup",
        "Decode after 128: median",
        "Decode after 128: speedup",
    ]
    assert measures["Parameters"].changes == (None, pytest.approx(-0.1))
    assert measures["Perplexity"].changes == (None, pytest.approx(0.5))
    assert measures["KL from dense, nats"].changes == (None, pytest.approx(1.0))
    assert measures["Top-1 agreement with dense"].changes == (None, pytest.approx(-0.2))
    assert measures["Accuracy, piqa"].values == (0.675, 0.7)
    assert measures["Size on disk"].values == (400_000_000, 300_000_000)
    gain = measures["Decode after 128: speedup"]
    assert gain.intervals[0] is not None
    assert gain.values[0] is not None
    assert gain.intervals[0][0] < gain.values[0] < gain.intervals[0][1]
    assert comparison.parity == (True, True)
    assert comparison.notes == (
        "Times were measured with different numbers of threads: 2, 4.",
        "Times are of separate runs; speedups were measured against the dense model within each run.",
    )


def test_a_table_and_json_say_the_same(outputs: list[Path]) -> None:
    shown = run(*outputs)
    assert shown.exit_code == 0
    assert shown.stdout == ""
    for said in ("300 MB (-25.0%)", "51.30 (+50.0%)", "0.824 (+100.0%)", "60.0% (-20.0%)", "holds"):
        assert said in shown.stderr
    content = json.loads(run(*outputs, "--json").stdout)
    assert content["schema"] == 1
    assert content["outputs"] == [str(output) for output in outputs]
    (size,) = [measure for measure in content["measures"] if measure["label"] == "Size on disk"]
    assert size == {
        "label": "Size on disk",
        "unit": "bytes",
        "values": [400_000_000, 300_000_000],
        "intervals": [None, None],
        "changes": [None, -0.25],
    }


def test_parity_that_fails_in_one_is_exit_code_1(outputs: list[Path], tmp_path: Path) -> None:
    failing = write(tmp_path / "c", full_report())
    shown = run(*outputs, failing)
    assert shown.exit_code == 1
    assert "Parity FAILS in one of them." in shown.stderr


def test_what_one_of_them_lacks_is_said_to_be_missing(outputs: list[Path], tmp_path: Path) -> None:
    bare = write(tmp_path / "c", bare_report())
    comparison = compare_outputs([bare, outputs[0]])
    assert comparison.parity == (None, True)
    assert comparison.measures[0].values == (None, 810_000)
    assert comparison.measures[0].changes == (None, None), "there is nothing to hold it against"
    assert "not measured" in run(bare, outputs[0]).stderr


def test_outputs_of_different_models_are_refused_unless_told(outputs: list[Path], tmp_path: Path) -> None:
    other = write(tmp_path / "c", replace(good_report(), model="org/other"), sha256="ef" * 32)
    refused = run(outputs[0], other)
    assert refused.exit_code == 2
    message = " ".join(refused.stderr.split())
    assert "org/a-model (SHA-256 abababababab)" in message
    assert "org/other (SHA-256 efefefefefef): these are different models." in message
    assert "Give --across-models" in message
    shown = run(outputs[0], other, "--across-models")
    assert shown.exit_code == 0
    assert "org/other" in shown.stderr


def newer(folder: Path) -> None:
    content = json.loads((folder / "report.json").read_text())
    (folder / "report.json").write_text(json.dumps({**content, "schema": 99}))


@pytest.mark.parametrize("arguments", [["{b}", "{a}"], ["{a}", "--format", "html"], ["{a}", "--format", "xml"]])
def test_a_report_of_a_newer_schema_is_refused_everywhere(arguments: list[str], outputs: list[Path]) -> None:
    newer(outputs[0])
    before = {file.name for file in outputs[0].iterdir()}
    refused = run(*(each.format(a=outputs[0], b=outputs[1]) for each in arguments))
    assert refused.exit_code == 2
    assert "report.json has schema 99" in refused.stderr
    assert "Update amp-export." in refused.stderr
    assert {file.name for file in outputs[0].iterdir()} == before


def test_bad_requests_say_what_to_do(outputs: list[Path], tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="Name at least two"):
        compare_outputs(outputs[:1])
    absent = run(outputs[0], tmp_path / "absent")
    assert absent.exit_code == 2
    assert "No such directory: " in absent.stderr
    both = run(*outputs, "--format", "html")
    assert both.exit_code == 2
    assert "the report of one output" in both.stderr
    unknown = run(outputs[0], "--format", "pdf")
    assert unknown.exit_code == 2
    assert "'json', 'md', 'xml', 'html'" in unknown.stderr


def test_forms_are_written_where_they_are_asked_for(outputs: list[Path]) -> None:
    shown = run(outputs[0], "--format", "xml", "--format", "md", "--format", "xml")
    assert shown.exit_code == 0
    written = [line for line in shown.stderr.splitlines() if line.startswith("Written: ")]
    assert [Path(line.removeprefix("Written: ")).name for line in written] == ["report.xml", "report.md"]
    files = json.loads((outputs[0] / "amp_export.json").read_text())["files"]
    assert {"report.json", "report.md", "report.xml"} <= files.keys()
    assert run(outputs[0], "--format", "md", "--json").stdout == (outputs[0] / "report.json").read_text()


def test_a_failing_report_is_written_before_the_exit_code_says_so(tmp_path: Path) -> None:
    failing = write(tmp_path / "failing", full_report())
    assert run(failing, "--format", "xml").exit_code == 1
    assert "<failure" in (failing / "report.xml").read_text()


def test_a_directory_that_cannot_be_written_to_is_named(outputs: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(file: Path, text: str) -> None:
        raise PermissionError(13, "Permission denied", str(file))

    monkeypatch.setattr("amp_export.reporting.files.replace_text", refuse)
    refused = run(outputs[0], "--format", "md")
    assert refused.exit_code == 2
    assert "cannot be written: Permission denied" in refused.stderr
