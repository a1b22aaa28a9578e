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
import torch
from transformers import AutoConfig

from tests.support import PROJECT, sample_reports

SCRIPTS = sorted((PROJECT / "ci/bench").glob("*.py"))

TINY_SHAPE = {"vocab_size": 101, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4}


def load(name: str) -> Any:
    return importlib.import_module(f"ci.bench.{name}")


@pytest.fixture
def few_rounds(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Returns the script for a GPU, which measures a tiny model twice."""
    gpu = load("gpu")
    sizes = {"BATCHES": (1, 3), "PROMPT": 5, "DECODED": 2, "ROUNDS": 2, "WARM_UP_ROUNDS": 1}
    for name, value in {**sizes, "LLAMA_2_7B": TINY_SHAPE}.items():
        monkeypatch.setattr(gpu, name, value)
    return gpu


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


def test_the_script_for_a_gpu_writes_its_page_on_a_cpu(
    few_rounds: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "gpu.md"
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--layers", "2", "--device", "cpu", "--output", str(page)])
    few_rounds.main()
    heads, _, *rows = table(page.read_text())
    assert {len(row) for row in rows} == {len(heads)}
    measured = [(row[0].split()[0], row[1], row[2]) for row in rows]
    runtimes, phases = ("PyTorch", "ONNX"), ("prefill", "decode")
    assert measured == [(name, batch, phase) for name in runtimes for batch in ("1", "3") for phase in phases]
    assert all(float(row[column]) > 0 for row in rows for column in (3, 4))


def test_decoding_in_pytorch_reads_the_cache(few_rounds: Any) -> None:
    config = AutoConfig.for_model("llama", **TINY_SHAPE, num_hidden_layers=2)
    tokens_bt = torch.arange(14).reshape(2, 7).numpy()
    step = few_rounds.torch_step(config, torch.float32, torch.device("cpu"))
    past = step(tokens_bt[:, :5], 0, None)
    for place in (5, 6):
        past = step(tokens_bt[:, place : place + 1], place, past)
    assert past.get_seq_length() == 7


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
    for layers in (4, 28):
        place = tmp_path / str(layers)
        scale.write_model(place / "dense", shape, layers)
        scale.write_plan(place / "dense", place / "plan.json")
        peaks.append([verb(place, spill=True).peak_bytes for verb in (scale.prune, scale.export)])
    # 24 further layers have 154 MB
    for peaks_of_verb in zip(*peaks, strict=True):
        assert max(peaks_of_verb) < 1.05 * min(peaks_of_verb), peaks
