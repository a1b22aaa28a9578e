"""The scripts in `ci/bench`, which CI does not run in full: they start, and work on tiny models and sample reports."""

from __future__ import annotations

import importlib
import json
import runpy
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support import PROJECT, sample_reports

SCRIPTS = sorted((PROJECT / "ci/bench").glob("*.py"))


def load(name: str) -> Any:
    return importlib.import_module(f"ci.bench.{name}")


def table(text: str) -> list[list[str]]:
    """Returns the cells of all rows of Markdown tables."""
    return [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_every_script_answers_help(
    script: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # what it does to the path at its start is undone
    monkeypatch.setattr(sys, "path", [str(script.parent), *sys.path])
    monkeypatch.setattr(sys, "argv", [str(script), "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(script), run_name="__main__")
    assert ended.value.code == 0
    assert f"usage: {script.name}" in capsys.readouterr().out


def test_the_table_of_results_is_read_from_a_report() -> None:
    results = load("results")
    benchmark = sample_reports.benchmark()
    report = json.loads(replace(sample_reports.full_report(), benchmarks={"onnxruntime": benchmark}).to_json())
    heads, _, row = table(results.HEADER + results.table_row("0.2", "--heads auto", report))
    assert len(row) == len(heads)
    assert row[:4] == ["0.2", "`--heads auto`", "19.00%", "6 to 9, 3, 82 to 96"]
    assert row[4:7] == ["22.8", "34.2", "0.412"]
    assert row[-3:] == ["92%", "-20.0%", "**fails**"]


def test_the_picture_is_drawn_from_a_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output, picture = tmp_path / "out", tmp_path / "summary.svg"
    report = sample_reports.full_report()
    output.mkdir()
    sample_reports.save_graph(output)
    sample_reports.manifest(report).save(output)
    (output / "report.json").write_text(report.to_json())
    monkeypatch.setattr(sys, "argv", ["picture.py", str(output), str(picture)])
    load("picture").main()
    text = picture.read_text()
    assert "org/a-model" in text
    assert "@font-face" not in text


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_memory_does_not_grow_with_the_number_of_layers(tmp_path: Path) -> None:
    scale = load("scale")
    shape = {"vocab_size": 512, "hidden_size": 512, "intermediate_size": 1408, "num_attention_heads": 4}
    peaks = []
    for layers in (8, 32):
        place = tmp_path / str(layers)
        scale.write_model(place / "dense", shape, layers)
        scale.write_plan(place / "dense", place / "plan.json")
        peaks.append([verb(place, spill=True).peak_bytes for verb in (scale.prune, scale.export)])
    # 24 further layers have 154 MB
    for peaks_of_verb in zip(*peaks, strict=True):
        assert max(peaks_of_verb) < 1.05 * min(peaks_of_verb), peaks
