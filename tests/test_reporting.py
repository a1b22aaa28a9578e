from __future__ import annotations

import json
from pathlib import Path

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


def test_a_report_of_an_earlier_schema_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text(json.dumps({"schema": 1, "model": "m"}))
    with pytest.raises(OutputError, match=r"has schema 1, and this version reads 2\.\nMeasure again"):
        Report.load(tmp_path)
