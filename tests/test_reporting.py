from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from amp_export.errors import OutputError
from amp_export.manifest import Manifest, SourceRecord
from amp_export.reporting import Report, record_verdicts, summary_rows, verdict_lines

WIDTHS = {"query_heads": 4, "key_value_heads": 4, "neurons": 48}
RELOAD = {"class_name": "ViTForImageClassification", "logits_compared": 1234, "tokens_compared": 0}


def pruning(**changes: object) -> dict[str, object]:
    counts = {"parameters_before": 200, "parameters_after": 100, "widths_before": WIDTHS, "widths": [WIDTHS]}
    return {**counts, "rewrite": {}, "notes": [], "reload": RELOAD, **changes}


def phase(speedup: float) -> dict[str, object]:
    times = {"dense": {"median": 0.002}, "pruned": {"median": 0.001}}
    return {**times, "speedup": speedup, "interval": (1.5, 2.5), "conclusion": "faster"}


def benchmark(*phases: str, prompt_tokens: int, share: float | None) -> dict[str, object]:
    subject = {"bytes_on_disk": 1e6, "peak_memory_bytes": 2e6, "bandwidth_share": share}
    facts = {"rounds": 20, "runtime": "ONNX Runtime 1", "threads": 2, "bandwidth_bytes_per_second": 1e9}
    timed = {name: phase(2.0) for name in phases}
    return {"dense": subject, "pruned": subject, "phases": timed, "prompt_tokens": prompt_tokens, **facts}


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
    report = Report("m", benchmark=benchmark(*phases, prompt_tokens=prompt_tokens, share=share))
    assert [row.label for row in summary_rows(report)] == ["Size on disk", "Peak memory", *labels]
    (line,) = verdict_lines(report)
    assert ("dense 50%" in line) == ("decode" in phases)


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
    measured = Report("m", benchmark=benchmark("encode", "decode", prompt_tokens=0, share=0.1))
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
        "benchmark": {**measured, "prompt_tokens": 128} if holds else None,
    }


def test_a_device_has_rows_of_its_own() -> None:
    rows = list(summary_rows(Report("m", devices={"orin.local": orin(energy=0.25, gpu=3e8)})))
    assert [row.label for row in rows] == [
        "On orin.local",
        "Size on disk",
        "Peak memory",
        "Prefill, 128 tokens",
        "Decode after 128",
        "Tokens a second",
        "GPU memory",
        "Energy a token",
    ]
    assert (rows[5].dense, rows[5].pruned, rows[5].change) == ("10.0", "20.0", "+100.0%")
    assert (rows[7].dense, rows[7].change) == ("0.25 J", "+0.0%")


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
    with pytest.raises(OutputError, match=r"has schema 1, and this version reads 3\.\nMeasure again"):
        Report.load(tmp_path)
