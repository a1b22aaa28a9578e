from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from amp_export.cli import app
from amp_export.errors import OutputError
from amp_export.outputs.manifest import Manifest, SourceRecord
from amp_export.reporting.benchmarks import gpu_line, noise_lines
from amp_export.reporting.report import SCHEMA, Report, record_verdicts
from amp_export.reporting.summary import summary_rows, verdict_lines
from tests.support.shared import Bundled

WIDTHS = {"query_heads": 4, "key_value_heads": 4, "neurons": 48}
RELOAD = {"class_name": "ViTForImageClassification", "logits_compared": 1234, "tokens_compared": 0}


def pruning(**changes: object) -> dict[str, object]:
    counts = {"parameters_before": 200, "parameters_after": 100, "widths_before": WIDTHS, "widths": [WIDTHS]}
    return {**counts, "rewrite": {}, "notes": [], "reload": RELOAD, **changes}


def phase(speedup: float) -> dict[str, object]:
    times = {"dense": {"median": 0.002, "variation": 0.1}, "pruned": {"median": 0.001, "variation": 0.2}}
    return {**times, "speedup": speedup, "interval": (1.5, 2.5), "conclusion": "faster"}


def benchmark(*phases: str, prompt_tokens: int, share: float | None) -> dict[str, Any]:
    subject = {"bytes_on_disk": 1e6, "peak_memory_bytes": 2e6, "bandwidth_share": share}
    roofline = {"allowed_gain": 2.0, "realised_gain": 0.9, "interval": [0.8, 1.0]} if share is not None else None
    return {
        "dense": subject,
        "pruned": subject,
        "phases": {name: phase(2.0) for name in phases},
        "roofline": roofline,
        "batch_size": 1,
        "prompt_tokens": prompt_tokens,
        "decode_tokens": 16,
        "sweep": [],
        "rounds": 20,
        "launches": 4,
        "unsettled_launches": 0,
        "threads": 2,
        "runtime": "ONNX Runtime 1",
        "clock": "wall clock",
        "bandwidth_bytes_per_second": 1e9,
        "gpu": None,
    }


@pytest.mark.parametrize(
    ("phases", "prompt_tokens", "labels"),
    [
        (("prefill", "decode"), 128, ["Prefill, 128 tokens", "Decode after 128"]),
        (("forward",), 128, ["Forward, 128 tokens"]),
        (("forward",), 0, ["Forward, one sample"]),
        (("encode", "decode"), 0, ["Encode, one sample", "Decode"]),
    ],
)
def test_every_phase_has_a_row(phases: tuple[str, ...], prompt_tokens: int, labels: list[str]) -> None:
    share = 0.5 if "decode" in phases else None
    report = Report("m", benchmarks={"onnxruntime": benchmark(*phases, prompt_tokens=prompt_tokens, share=share)})
    assert [row.label for row in summary_rows(report)] == ["Size on disk", "Peak memory", *labels]
    assert ("dense 50%" in " ".join(verdict_lines(report))) == ("decode" in phases)


def test_other_workloads_and_runtimes_have_rows_of_their_own() -> None:
    lead = benchmark("prefill", "decode", prompt_tokens=128, share=0.5)
    points = [(4, 128, 16), (1, 1024, 16), (4, 128, 64)]
    sweep = [
        {"batch_size": batch, "prompt_tokens": prompt, "decode_tokens": written, "phases": lead["phases"]}
        for batch, prompt, written in points
    ]
    compiled = {**lead, "runtime": "PyTorch 2 compiled"}
    report = Report("m", benchmarks={"onnxruntime": {**lead, "sweep": sweep}, "pytorch-compiled": compiled})
    assert [row.label for row in summary_rows(report)] == [
        "Size on disk",
        "Peak memory",
        "Prefill, 128 tokens",
        "Decode after 128",
        "Prefill, 4 x 128 tokens",
        "Decode after 128, batch of 4",
        "Prefill, 1024 tokens",
        "Decode after 1024",
        "Prefill, 4 x 128 tokens, 64 written",
        "Decode after 128, batch of 4, 64 written",
        "With PyTorch 2 compiled",
        "Size on disk",
        "Peak memory",
        "Prefill, 128 tokens",
        "Decode after 128",
    ]


def test_noise_is_told_where_nothing_can_be_concluded() -> None:
    measured = benchmark("prefill", "decode", prompt_tokens=128, share=0.5)
    assert not list(noise_lines(measured))
    noisy = {**phase(1.0), "conclusion": "too noisy to conclude"}
    measured = {**measured, "phases": {**measured["phases"], "decode": noisy}, "unsettled_launches": 3}
    first, second = noise_lines(measured)
    assert "Decode after 128 (dense 10%, pruned 20%)" in first
    assert "Prefill" not in first
    assert second.startswith("In 3 of 4 launches")


def test_a_gpu_is_told_with_its_state() -> None:
    gpu = {"name": "H100", "compute_capability": "9.0", "memory_bytes": 8e10, "driver": "580"}
    state = {
        "sm_clock_mhz": 1980,
        "sm_clock_limit_mhz": 1980,
        "memory_clock_mhz": 2619,
        "temperature_c": 40,
        "power_watts": None,
        "slowed_by": 0,
    }
    line = gpu_line({"gpu": gpu, "before": state, "after": {**state, "temperature_c": 61, "slowed_by": 4}})
    assert line == (
        "GPU: H100, driver 580; before 1980 MHz of 1980 MHz, memory 2619 MHz, 40 C, unknown W; after 1980 MHz of "
        "1980 MHz, memory 2619 MHz, 61 C, unknown W, slowed."
    )


def test_key_value_heads_have_a_row_where_heads_share_them() -> None:
    assert "Key/value heads" not in {row.label for row in summary_rows(Report("m", pruning=pruning()))}
    grouped = pruning(widths=[{**WIDTHS, "key_value_heads": 2}])
    assert "Key/value heads" in {row.label for row in summary_rows(Report("m", pruning=grouped))}


def test_the_reload_names_what_was_compared() -> None:
    assert next(verdict_lines(Report("m", pruning=pruning()))).endswith("amp_export, 1,234 logits equal bit for bit.")
    bare = {**RELOAD, "class_name": "CLIPVisionModel", "tokens_compared": 7}
    line = next(verdict_lines(Report("m", pruning=pruning(reload=bare))))
    assert "1,234 hidden values and 7 token ids equal" in line


def test_the_gain_of_every_phase_is_recorded() -> None:
    manifest = Manifest(SourceRecord("m", "p", "0"), config_before={})
    measured = Report("m", benchmarks={"onnxruntime": benchmark("encode", "decode", prompt_tokens=0, share=0.1)})
    assert record_verdicts(manifest, measured).verdicts["gain"] == {"encode": 2.0, "decode": 2.0}


def orin(*, energy: float | None, gpu: float | None, holds: bool = True) -> dict[str, Any]:
    """What a device found out."""
    subject = {
        "bytes_on_disk": 1e6,
        "peak_memory_bytes": 2e6,
        "gpu_memory_bytes": gpu,
        "joules_per_decoded_token": energy,
    }
    phases = {name: phase(2.0) for name in ("prefill", "decode")}
    for subjects in phases.values():
        for name, rate in (("dense", 10.0), ("pruned", 20.0)):
            subjects[name] = {**subjects[name], "tokens_per_second": rate}
    parity = {"holds": holds, "tolerance": 1e-3, "cases": [{"name": "1 token", "max_error": 1e-4, "holds": holds}]}
    measured = {"dense": subject, "pruned": subject, "phases": phases, "rounds": 20, "interleaved": "by round"}
    return {
        "facts": {"model": "Jetson Orin Nano", "processor": None, "system": "Linux aarch64"},
        "runtime": "TensorRT 10.3.0",
        "parity": {"dense": parity, "pruned": parity},
        "holds": holds,
        "power": None if energy is None else {"source": "tegrastats", "rails": ["VDD_IN"]},
        "benchmark": {**measured, "prompt_tokens": 128, "decode_tokens": 16} if holds else None,
    }


def test_a_device_has_rows_of_its_own() -> None:
    rows = list(summary_rows(Report("m", devices={"orin.local": orin(energy=0.25, gpu=3e8)})))
    assert [row.label for row in rows] == [
        "On orin.local",
        "Size on disk",
        "Peak memory",
        "GPU memory",
        "Energy a token",
        "Prefill, 128 tokens",
        "Decode after 128",
        "Tokens a second",
    ]
    assert (rows[7].dense, rows[7].pruned, rows[7].change) == ("10.0", "20.0", "+100.0%")
    assert (rows[4].dense, rows[4].change) == ("0.25 J", "+0.0%")


def test_what_a_device_does_not_tell_has_no_row() -> None:
    report = Report("m", devices={"orin.local": orin(energy=None, gpu=None)})
    assert {"GPU memory", "Energy a token"}.isdisjoint(row.label for row in summary_rows(report))
    *_, times = verdict_lines(report)
    assert "its power is not told" in times


def test_parity_that_fails_on_a_device_fails_the_report() -> None:
    report = Report("m", devices={"a": orin(energy=0.1, gpu=None), "b": orin(energy=None, gpu=None, holds=False)})
    assert not report.holds
    lines = list(verdict_lines(report))
    assert lines[0].startswith(
        "On a (Jetson Orin Nano, TensorRT 10.3.0): parity of the dense graph holds in 1 of 1 cases"
    )
    assert "power from tegrastats: VDD_IN" in lines[2]
    assert "parity of the pruned graph FAILS in 1 of 1 cases" in lines[-1]
    verdict = record_verdicts(Manifest(SourceRecord("m", "p", "0"), config_before={}), report).verdicts["devices"]
    assert verdict == {
        "a": {"holds": True, "gain": {"prefill": 2.0, "decode": 2.0}},
        "b": {"holds": False, "gain": {}},
    }


def test_a_report_of_an_earlier_schema_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text(json.dumps({"schema": 1, "model": "m"}))
    with pytest.raises(OutputError, match=r"has schema 1, and this version reads 4\.\nMeasure again"):
        Report.load(tmp_path)


@pytest.mark.parametrize("command", ["validate", "benchmark"])
def test_a_report_of_a_newer_version_is_told_before_anything_runs(
    command: str, bundled: Bundled, tmp_path: Path
) -> None:
    output = bundled.copy(tmp_path / "out")
    (output / "report.json").write_text(json.dumps({"schema": SCHEMA + 1}))
    result = CliRunner().invoke(app, [command, str(output)])
    assert result.exit_code == 2
    assert result.stderr.splitlines()[0].startswith("Error: "), "no step came before"
    assert f"has schema {SCHEMA + 1}, this version knows up to {SCHEMA}" in " ".join(result.stderr.split())
