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
        peaks.append([verb(place, spill=True).own_bytes for verb in (scale.prune, scale.export)])
    # 24 further layers have 154 MB
    for peaks_of_verb in zip(*peaks, strict=True):
        assert max(peaks_of_verb) < 1.05 * min(peaks_of_verb), peaks


@pytest.fixture
def decoding(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Returns the script that compares runtimes, which starts a graph and the checkpoint twice."""
    # it finds its siblings there
    monkeypatch.setattr(sys, "path", [str(PROJECT / "ci"), *sys.path])
    script = load("decoding")
    first = next(each for each in script.CONTENDERS["float32"] if each.command == script.FUSED)
    checkpoint = next(each for each in script.CONTENDERS["float32"] if not each.command)
    for name, value in {"CONTENDERS": {"float32": (first, checkpoint)}, "CONTEXTS": (8,), "LAUNCHES": 2}.items():
        monkeypatch.setattr(script, name, value)
    return script


@pytest.mark.slow
def test_runtimes_are_compared_in_turn_and_what_was_measured_is_kept(
    decoding: Any, tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "decoding.md"
    words = ["--model", str(tiny_llama), "--work", str(tmp_path / "work"), "--text", "none.txt", "--page", str(page)]
    monkeypatch.setattr(sys, "argv", ["decoding.py", *words])
    decoding.main()
    heads, _, first, second, *_ = table(page.read_text())
    assert {len(first), len(second)} == {len(heads)}
    assert [first[0], second[0]] == ["fused operators", "checkpoint"]
    assert not first[3]
    assert second[3].startswith("x ")

    kept = tmp_path / "work/float32.json"
    measured = json.loads(kept.read_text())
    fused, slower = measured["times"]["8"]
    slower["decode"] = [[2 * each for each in samples] for samples in fused["decode"]]
    kept.write_text(json.dumps(measured))
    decoding.main()
    _, _, first, second, *_ = table(page.read_text())
    assert second[5] == "x 2.00 [2.00, 2.00]"
    shares = [float(row[6].rstrip("%")) for row in (first, second)]
    assert shares[0] == pytest.approx(2 * shares[1], abs=1.5)


def test_another_contender_comes_first_in_each_round(decoding: Any) -> None:
    turns = [decoding._turn(5, start) for start in range(10)]
    assert [turn[0] for turn in turns] == [*range(5), *range(5)]
    assert all(sorted(turn) == [*range(5)] for turn in turns)


def test_exporters_are_compared_round_by_round() -> None:
    script = load("export")

    def taken(seconds: float, megabytes: int) -> tuple[Any, int]:
        return script.Taken(seconds, megabytes * 1_000_000, megabytes * 500_000), 5_000_000

    found = {
        script.OURS: [taken(seconds, 200) for seconds in (1.0, 2.0, 4.0)],
        script.BUILDER: [taken(seconds, 800) for seconds in (10.0, 4.0, 10.0)],
    }
    heads, _, ours, builder = table("\n".join(script.rows(found)))
    assert {len(ours), len(builder)} == {len(heads)}
    assert ours[1:] == ["2.0", "", "200", "", "100", "", "5"]
    assert builder[1:] == ["10.0", "0.400 (0.100 to 0.500)", "800", "0.25", "400", "0.25", "5"]


def test_memory_of_a_command_counts_its_children_and_no_mapped_files() -> None:
    load("export")
    from bench.processes import run_measured

    holds = "import subprocess, sys, time; held = bytearray(40_000_000); held[::4096] = b'1' * len(held[::4096]); "
    child = f"{holds}time.sleep(0.5)"
    taken = run_measured([sys.executable, "-c", f"{holds}subprocess.run([sys.executable, '-c', {child!r}])"])
    assert taken.seconds > 0.5
    assert taken.resident_bytes > 40_000_000
    assert not Path("/proc/self/status").exists() or taken.own_bytes > 80_000_000


def test_a_command_that_fails_says_what_it_printed() -> None:
    load("export")
    from bench.processes import run_measured

    with pytest.raises(SystemExit, match=r"ended with 3:\nsomething was wrong"):
        run_measured([sys.executable, "-c", "print('something was wrong'); raise SystemExit(3)"])
