"""Encoders, and encoders with decoders, through the command line: the whole way, and the steps."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from amp_export.architectures import find_architecture
from amp_export.benchmarking import rounds as benchmark_rounds
from amp_export.benchmarking.workloads import PHASES
from amp_export.checkpoints.reading import open_checkpoint
from amp_export.hardware import machine
from amp_export.pruning import pipeline
from amp_export.pruning.reload_check import ReloadProof
from tests.support.command_line import run
from tests.support.shared import Converted
from tests.support.tiny_models import save_tiny_model

pytestmark = pytest.mark.slow

pytest.importorskip("onnxscript", reason="onnxscript is not installed")


FAMILIES = {
    "bert": ({"logits"}, {"forward"}, "Forward, 128 tokens"),
    "vit": ({"logits"}, {"forward"}, "Forward, one sample"),
    "t5": ({"last_hidden_state", "logits"}, {"encode", "decode"}, "Encode, 128 tokens"),
    "whisper": ({"last_hidden_state", "logits"}, {"encode", "decode"}, "Encode, one sample"),
}
"""By family the outputs that are compared, the phases that are timed, and a row of the report."""

EACH = pytest.mark.parametrize("model_type", FAMILIES)


@EACH
def test_the_whole_way_proves_parity_and_times_every_phase(
    model_type: str, converted: Callable[[str], Converted]
) -> None:
    outputs, phases, _ = FAMILIES[model_type]
    report = converted(model_type).report
    assert report["schema"] == 5
    assert report["parity"]["holds"]
    assert {case["output"] for case in report["parity"]["cases"]} == outputs
    assert report["quality"] is None
    assert report["pruning"]["reload"]["holds"]
    assert abs(report["pruning"]["achieved"] - 0.1) < 0.03
    benchmark = report["benchmarks"]["onnxruntime"]
    assert benchmark["phases"].keys() == phases == set(PHASES[find_architecture(model_type).kind])
    for phase in benchmark["phases"].values():
        assert len(phase["dense"]["samples"]) == len(phase["pruned"]["samples"]) == benchmark["rounds"] == 2
    for subject in (benchmark["dense"], benchmark["pruned"]):
        assert (subject["bandwidth_share"] is None) == ("decode" not in phases)
    # weights begin at pages of memory, which tiny ones do not fill
    assert benchmark["dense"]["bytes_on_disk"] >= benchmark["pruned"]["bytes_on_disk"]
    manifest = json.loads((converted(model_type).output / "amp_export.json").read_text())
    assert manifest["verdicts"]["speedup"].keys() == phases


@EACH
def test_the_report_has_no_row_that_does_not_exist(model_type: str, converted: Callable[[str], Converted]) -> None:
    _, phases, label = FAMILIES[model_type]
    shown = run("report", converted(model_type).output)
    assert shown.exit_code == 0
    assert label in shown.stderr
    for absent in ("KV heads", "perplexity", "Perplexity", "Prefill", " 0 token ids", "None"):
        assert absent not in shown.stderr
    assert ("bandwidth" in shown.stderr) == ("decode" in phases)
    markdown = (converted(model_type).output / "report.md").read_text()
    assert ("last_hidden_state |" in markdown) == (model_type in ("t5", "whisper"))
    assert "perplexity" not in converted(model_type).stderr


@pytest.mark.parametrize("model_type", ["vit", "t5"])
def test_the_steps_start_from_what_the_whole_way_wrote(
    model_type: str, converted: Callable[[str], Converted], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of each kind and of each modality."""
    monkeypatch.setattr(benchmark_rounds, "read_bandwidth", lambda _: machine.read_bandwidth(1, buffer_bytes=1 << 20))
    done = converted(model_type)
    out = Path(shutil.copytree(done.output, tmp_path / "out"))
    validated = run("validate", out, "--threads", "1", "--json")
    assert validated.exit_code == 0
    assert json.loads(validated.stdout)["parity"] == done.report["parity"]
    command = ["benchmark", out, "--against", done.output, "--rounds", "4", "--threads", "1", "--json"]
    benchmarked = run(*command)
    assert benchmarked.exit_code == 0, benchmarked.stderr
    assert json.loads(benchmarked.stdout)["benchmarks"]["onnxruntime"]["phases"].keys() == FAMILIES[model_type][1]
    (out / "onnx").rename(tmp_path / "old")
    assert run("benchmark", out, "--against", done.output).exit_code == 2


def test_pruning_by_a_plan_or_by_scores_needs_no_samples(
    converted: Callable[[str], Converted], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "prove_reload", lambda *_, **__: ReloadProof("left out", 0, 0))
    done = converted("vit")
    common = ["prune", "--model", done.checkpoint, "--output", tmp_path / "out"]
    assert run(*common, "--plan", done.output / "plan.json").exit_code == 0
    scores = ["--scores", done.output / "scores.safetensors", "--ratio", "0.1", "--snap", "1", "--overwrite"]
    assert run(*common, *scores).exit_code == 0
    manifest = json.loads((tmp_path / "out/amp_export.json").read_text())
    assert manifest["plan"]["calibration"] == "6 samples of samples.npz"
    assert manifest["plan"]["widths"] == done.report["pruning"]["widths"]


def test_an_encoder_without_samples_is_told_what_to_give(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "vit", "vit")
    result = run("prune", "--model", folder, "--ratio", "0.1", "--snap", "1", "--output", tmp_path / "out")
    assert result.exit_code == 2
    said = " ".join(result.stderr.split())
    assert "ViTForImageClassification reads images, but there are no samples to score it on." in said
    assert "--calibration FILE.npz (or .safetensors) with `pixel_values` of shape [samples, 3, 12, 12]" in said


@pytest.mark.parametrize(
    ("model_type", "arrays", "message"),
    [
        ("vit", {"pixels": np.zeros((2, 3, 12, 12))}, "holds `pixels` [2, 3, 12, 12]. Give `pixel_values`"),
        (
            "vit",
            {"pixel_values": np.zeros((2, 3, 9, 9))},
            "has the shape [samples, 3, 9, 9]. Give `pixel_values`",
        ),
        ("vit", {"pixel_values": np.full((2, 3, 12, 12), np.nan)}, "holds NaN or infinity, first in sample 0."),
        ("vit", {"pixel_values": np.zeros((0, 3, 12, 12))}, "is empty: it has no samples."),
        ("bert", {"pixel_values": np.zeros((2, 3, 12, 12))}, "contains arrays, but BertForMaskedLM takes text"),
    ],
)
def test_samples_that_do_not_fit_are_exit_code_2(
    model_type: str, arrays: dict[str, np.ndarray], message: str, tmp_path: Path
) -> None:
    folder = save_tiny_model(tmp_path / "checkpoint", model_type)
    np.savez(tmp_path / "samples.npz", **arrays)
    command = ["--to", "onnx", "--model", folder, "--ratio", "0.1", "--snap", "1", "--output", tmp_path / "out"]
    result = run(*command, "--calibration", tmp_path / "samples.npz")
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_that_computes_something_else_fails_parity(
    converted: Callable[[str], Converted], tmp_path: Path
) -> None:
    out = Path(shutil.copytree(converted("bert").output, tmp_path / "out"))
    other = Path(shutil.copytree(out / "pruned", tmp_path / "other"))
    config = json.loads((other / "config.json").read_text())
    config["layer_norm_eps"] = 1e-2
    (other / "config.json").write_text(json.dumps(config))
    assert open_checkpoint(other).config.fields["layer_norm_eps"] == 1e-2
    result = run("validate", out, "--reference", other)
    assert result.exit_code == 1
    assert "17 tokens: largest error" in result.stderr
