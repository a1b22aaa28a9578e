from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs
from typer.testing import CliRunner

from amp_export.architectures import LayerWidths
from amp_export.benchmarking.device_results import (
    DeviceBenchmark,
    DeviceFacts,
    DeviceMeasurement,
    DeviceReport,
    PowerSource,
)
from amp_export.benchmarking.results import BenchmarkReport, GpuRecord, SweepPoint
from amp_export.benchmarking.statistics import Conclusion, PhaseResult, Timing
from amp_export.cli import app
from amp_export.errors import OutputError
from amp_export.hardware.gpus import Gpu, GpuState
from amp_export.options import Phase
from amp_export.outputs.manifest import Manifest, RewriteKind, RewriteRecord, SourceRecord
from amp_export.pruning.reload_check import ReloadProof
from amp_export.reporting.benchmarks import benchmark_lines, gpu_line, noise_lines
from amp_export.reporting.report import PruningSection, Report, record_verdicts
from amp_export.reporting.summary import summary_rows, verdict_lines
from tests.support import sample_reports
from tests.support.shared import Bundled

WIDTHS = LayerWidths(4, 4, 48)
RELOAD = ReloadProof("ViTForImageClassification", logits_compared=1234, tokens_compared=0)


def pruning(**changes: Any) -> PruningSection:
    whole = PruningSection(
        asked=0.5,
        achieved=0.5,
        parameters_before=200,
        parameters_after=100,
        widths_before=WIDTHS,
        widths=(WIDTHS,),
        rewrite=RewriteRecord(RewriteKind.SAME_CLASS, "ViTForImageClassification", "all layers are alike"),
        reload=RELOAD,
    )
    return replace(whole, **changes)


def phase(speedup: float, conclusion: Conclusion = Conclusion.FASTER) -> PhaseResult:
    dense = Timing(samples=(), median=0.002, p90=0.002, p99=0.002, variation=0.1)
    pruned = Timing(samples=(), median=0.001, p90=0.001, p99=0.001, variation=0.2)
    return PhaseResult(dense, pruned, speedup=speedup, interval=(1.5, 2.5), conclusion=conclusion)


def benchmark(*phases: Phase, prompt_tokens: int, share: float | None) -> BenchmarkReport:
    measured = sample_reports.benchmark(decodes=share is not None)
    return replace(
        measured,
        phases={name: phase(2.0) for name in phases},
        dense=replace(measured.dense, bandwidth_share=share),
        pruned=replace(measured.pruned, bandwidth_share=share),
        prompt_tokens=prompt_tokens,
        decode_tokens=16,
    )


@pytest.mark.parametrize(
    ("phases", "prompt_tokens", "labels"),
    [
        ((Phase.PREFILL, Phase.DECODE), 128, ["Prefill, 128 tokens", "Decode after 128"]),
        ((Phase.FORWARD,), 128, ["Forward, 128 tokens"]),
        ((Phase.FORWARD,), 0, ["Forward, one sample"]),
        ((Phase.ENCODE, Phase.DECODE), 0, ["Encode, one sample", "Decode"]),
    ],
)
def test_every_phase_has_a_row(phases: tuple[Phase, ...], prompt_tokens: int, labels: list[str]) -> None:
    share = 0.5 if Phase.DECODE in phases else None
    report = Report("m", benchmarks={"onnxruntime": benchmark(*phases, prompt_tokens=prompt_tokens, share=share)})
    assert [row.label for row in summary_rows(report)] == ["Size on disk", "Peak memory", "Load time", *labels]
    assert ("dense 50%" in " ".join(verdict_lines(report))) == (Phase.DECODE in phases)


def test_other_workloads_and_runtimes_have_rows_of_their_own() -> None:
    lead = benchmark(Phase.PREFILL, Phase.DECODE, prompt_tokens=128, share=0.5)
    points = [(4, 128, 16), (1, 1024, 16), (4, 128, 64)]
    sweep = tuple(SweepPoint(batch, prompt, written, lead.phases, None) for batch, prompt, written in points)
    compiled = replace(lead, runtime="PyTorch 2 compiled")
    report = Report("m", benchmarks={"onnxruntime": replace(lead, sweep=sweep), "pytorch-compiled": compiled})
    assert [row.label for row in summary_rows(report)] == [
        "Size on disk",
        "Peak memory",
        "Load time",
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
        "Load time",
        "Prefill, 128 tokens",
        "Decode after 128",
    ]


def test_noise_is_told_where_nothing_can_be_concluded() -> None:
    measured = benchmark(Phase.PREFILL, Phase.DECODE, prompt_tokens=128, share=0.5)
    assert not list(noise_lines(measured))
    noisy = phase(1.0, Conclusion.TOO_NOISY)
    measured = replace(measured, phases={**measured.phases, Phase.DECODE: noisy}, unsettled_launches=3)
    first, second = noise_lines(measured)
    assert "Decode after 128 (dense 10%, pruned 20%)" in first
    assert "Prefill" not in first
    assert second.startswith("In 3 of 4 launches")


def test_a_gpu_is_told_with_its_state() -> None:
    gpu = Gpu("H100", compute_capability="9.0", memory_bytes=80_000_000_000, driver="580")
    before = GpuState(
        sm_clock_mhz=1980,
        sm_clock_limit_mhz=1980,
        memory_clock_mhz=2619,
        temperature_c=40,
        power_watts=None,
        slowed_by=0,
    )
    line = gpu_line(GpuRecord(gpu, before, replace(before, temperature_c=61, slowed_by=4)))
    assert line == (
        "GPU: H100, driver 580; before 1980 MHz of 1980 MHz, memory 2619 MHz, 40 C, unknown W; after 1980 MHz of "
        "1980 MHz, memory 2619 MHz, 61 C, unknown W, slowed."
    )


def test_launches_are_said_to_bound_decoding_where_nothing_else_can() -> None:
    gpu = GpuRecord(Gpu("H100", "9.0", 80_000_000_000, "580"), None, None)

    def lines(dense: float | None, pruned: float | None, **changes: Any) -> list[str]:
        report = sample_reports.benchmark()
        models = {
            "dense": replace(report.dense, bandwidth_share=dense),
            "pruned": replace(report.pruned, bandwidth_share=pruned),
        }
        return list(benchmark_lines(replace(report, gpu=gpu, **models, **changes)))

    said = "Launches of operators bound decoding: a step takes 8.0 and 12.5 times as long as reading its bytes would"
    assert any(line.startswith(said) for line in lines(0.125, 0.08))
    assert any("Share of the GPU's memory bandwidth" in line for line in lines(0.125, 0.08))
    for silent in (
        lines(0.125, 0.5),
        lines(None, None),
        lines(0.125, 0.08, batch_size=256),
        lines(0.125, 0.08, cuda_graph=True),
        list(benchmark_lines(sample_reports.benchmark())),
    ):
        assert not any("Launches of operators" in line for line in silent)
    assert "decoding by a CUDA graph" in lines(0.9, 0.9, cuda_graph=True)[0]


def test_key_value_heads_have_a_row_where_heads_share_them() -> None:
    assert "KV heads" not in {row.label for row in summary_rows(Report("m", pruning=pruning()))}
    grouped = pruning(widths=(replace(WIDTHS, key_value_heads=2),))
    assert "KV heads" in {row.label for row in summary_rows(Report("m", pruning=grouped))}


def test_the_reload_names_what_was_compared() -> None:
    assert next(verdict_lines(Report("m", pruning=pruning()))).endswith(
        "amp_export, 1,234 output values equal bit for bit."
    )
    bare = replace(RELOAD, class_name="CLIPVisionModel", tokens_compared=7)
    line = next(verdict_lines(Report("m", pruning=pruning(reload=bare))))
    assert "1,234 output values and 7 token ids equal" in line


def test_the_speedup_of_every_phase_is_recorded() -> None:
    manifest = Manifest(SourceRecord("m", "p", "0"), config_before={})
    measured = benchmark(Phase.ENCODE, Phase.DECODE, prompt_tokens=0, share=0.1)
    recorded = record_verdicts(manifest, Report("m", benchmarks={"onnxruntime": measured}))
    assert recorded.verdicts["speedup"] == {"encode": 2.0, "decode": 2.0}


def orin(*, energy: float | None, gpu: float | None, holds: bool = True) -> DeviceReport:
    """What a device found out."""
    subject = DeviceMeasurement(
        bytes_on_disk=1_000_000,
        peak_memory_bytes=2_000_000,
        load_seconds=0.5,
        gpu_memory_bytes=gpu,
        joules_per_decoded_token=energy,
    )
    result = phase(2.0)
    result = replace(
        result,
        dense=replace(result.dense, tokens_per_second=10.0),
        pruned=replace(result.pruned, tokens_per_second=20.0),
    )
    case = replace(sample_reports.case("1 token", share=0.25), holds=holds)
    parity = structs.replace(sample_reports.parity(case), tolerance=1e-3)
    measured = DeviceBenchmark(
        dense=subject,
        pruned=subject,
        phases={Phase.PREFILL: result, Phase.DECODE: result},
        rounds=20,
        launches=4,
        warm_up_rounds=8,
        interleaved="by round",
        prompt_tokens=128,
        decode_tokens=16,
        seed=0,
        threads=2,
    )
    return DeviceReport(
        runtime="TensorRT 10.3.0",
        facts=DeviceFacts(model="Jetson Orin Nano", system="Linux aarch64"),
        parity={"dense": parity, "pruned": parity},
        holds=holds,
        power=None if energy is None else PowerSource("tegrastats", ("VDD_IN",)),
        benchmark=measured if holds else None,
    )


def test_a_device_has_rows_of_its_own() -> None:
    rows = list(summary_rows(Report("m", devices={"orin.local": orin(energy=0.25, gpu=3e8)})))
    assert [row.label for row in rows] == [
        "On orin.local",
        "Size on disk",
        "Peak memory",
        "GPU memory",
        "Load time",
        "Energy per token",
        "Prefill, 128 tokens",
        "Decode after 128",
        "Tokens per second",
    ]
    assert (rows[8].dense, rows[8].pruned, rows[8].change) == ("10.0", "20.0", "+100.0%")
    assert (rows[5].dense, rows[5].change) == ("0.25 J", "+0.0%")


def test_what_a_device_does_not_tell_has_no_row() -> None:
    report = Report("m", devices={"orin.local": orin(energy=None, gpu=None)})
    assert {"GPU memory", "Energy per token"}.isdisjoint(row.label for row in summary_rows(report))
    *_, times = verdict_lines(report)
    assert "its power is unknown" in times


def test_parity_that_fails_on_a_device_fails_the_report() -> None:
    report = Report("m", devices={"a": orin(energy=0.1, gpu=None), "b": orin(energy=None, gpu=None, holds=False)})
    assert not report.holds
    lines = list(verdict_lines(report))
    assert lines[0] == "Parity is not checked; amp-export validate OUT checks it."
    assert lines[1].startswith(
        "On a (Jetson Orin Nano, TensorRT 10.3.0): parity of the dense graph holds in 1 of 1 cases"
    )
    assert "power from tegrastats: VDD_IN" in lines[3]
    assert "parity of the pruned graph FAILS in 1 of 1 cases" in lines[-1]
    verdict = record_verdicts(Manifest(SourceRecord("m", "p", "0"), config_before={}), report).verdicts["devices"]
    assert verdict == {
        "a": {"holds": True, "speedup": {"prefill": 2.0, "decode": 2.0}},
        "b": {"holds": False, "speedup": {}},
    }


def test_a_report_of_an_earlier_schema_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text(json.dumps({"schema": 1, "model": "m"}))
    with pytest.raises(OutputError, match=r"has schema 1, but this version reads schema 4 and later\.\nMeasure again"):
        Report.load(tmp_path)


@pytest.mark.parametrize("command", ["validate", "benchmark"])
def test_a_report_of_a_newer_version_is_told_before_anything_runs(
    command: str, bundled: Bundled, tmp_path: Path
) -> None:
    output = bundled.copy(tmp_path / "out")
    (output / "report.json").write_text(json.dumps({"schema": Report.SCHEMA + 1}))
    result = CliRunner().invoke(app, [command, str(output)])
    assert result.exit_code == 2
    assert result.stderr.splitlines()[0].startswith("Error: "), "no step came before"
    assert f"has schema {Report.SCHEMA + 1}, this version knows up to {Report.SCHEMA}" in " ".join(
        result.stderr.split()
    )
