from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs
from typer.testing import CliRunner

from amp_export.cli import app
from amp_export.documents import to_json
from amp_export.errors import OutputError, RequestError
from amp_export.options import Format
from amp_export.reporting.baselines import Baseline, compare_baseline
from amp_export.reporting.metrics import METRICS, Value, find_metric, full_name
from amp_export.reporting.report import Report
from tests.support.shared import Converted


def baseline(**metrics: Value) -> Baseline:
    return Baseline(
        "m", "0" * 64, "onnx", "float32", {name.replace("_at_", "."): value for name, value in metrics.items()}
    )


def of(output: Path) -> Baseline:
    return Baseline.of(output, Report.load(output), to=Format.ONNX)


def test_sizes_are_exact_and_a_failure_names_before_and_now() -> None:
    before = baseline(size=Value(1e6), parameters=Value(1000))
    size, parameters = compare_baseline(before, {"size": Value(1.1e6), "parameters": Value(900)})
    assert (size.holds, parameters.holds) == (False, True)
    assert size.text == "size: FAILS, 1 MB before, 1.1 MB now (+10.00%); no regression is tolerated."


@pytest.mark.parametrize(
    ("before", "now", "holds"),
    [
        (Value(1.5, (1.49, 1.51)), Value(1.2, (1.19, 1.21)), False),
        # the same fall, and both runs too noisy to tell
        (Value(1.5, (1.2, 1.8)), Value(1.2, (0.9, 1.6)), True),
        # a fall that is sure, and too small to matter
        (Value(1.5, (1.499, 1.501)), Value(1.45, (1.449, 1.451)), True),
        (Value(1.2, (1.19, 1.21)), Value(1.5, (1.49, 1.51)), True),
    ],
)
def test_a_gain_fails_where_more_than_noise_was_lost(before: Value, now: Value, holds: bool) -> None:
    (check,) = compare_baseline(baseline(speedup_at_decode=before), {"speedup.decode": now})
    assert check.holds == holds
    assert check.name == "speedup.decode"


def test_a_divergence_of_nothing_may_become_one_of_rounding() -> None:
    assert compare_baseline(baseline(kl=Value(0.0)), {"kl": Value(1e-12)})[0].holds
    assert not compare_baseline(baseline(kl=Value(0.0)), {"kl": Value(1e-3)})[0].holds


def test_what_is_not_measured_again_fails() -> None:
    (check,) = compare_baseline(baseline(speedup_at_decode=Value(1.2, (1.1, 1.3))), {})
    assert not check.holds
    assert "was not measured; amp-export benchmark" in check.text


@given(
    name=st.sampled_from(
        [
            full_name(metric.name, "decode" if metric.has_phases else "")
            for metric in METRICS
            if metric.tolerated is not None
        ]
    ),
    value=st.floats(1e-6, 1e9),
    factor=st.floats(1.0, 100.0),
)
def test_better_always_holds_and_far_worse_never(name: str, value: float, factor: float) -> None:
    metric = find_metric(name)
    better, worse = (value * factor, value / 20) if metric.rises else (value / factor, value * 20)
    before = baseline(**{name: Value(value)})
    assert compare_baseline(before, {name: Value(better)})[0].holds
    assert not compare_baseline(before, {name: Value(worse)})[0].holds


def test_a_baseline_is_read_as_it_was_written(converted: Callable[[str], Converted], tmp_path: Path) -> None:
    written = of(converted("llama").output)
    written.save(tmp_path / "new/baseline.json")
    assert Baseline.load(tmp_path / "new/baseline.json") == written
    assert "latency.decode" not in written.metrics
    assert written.metrics["speedup.decode"].interval is not None


def test_a_link_to_a_baseline_stays_one(tmp_path: Path) -> None:
    shared, link = tmp_path / "shared/baseline.json", tmp_path / "baseline.json"
    link.symlink_to(shared)
    for written in (baseline(size=Value(2.0)), baseline(size=Value(1.0))):
        written.save(link)
        assert link.is_symlink()
        assert Baseline.load(shared) == written
    assert [file.name for file in shared.parent.iterdir()] == ["baseline.json"]


def test_a_write_that_fails_leaves_the_earlier_baseline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "baseline.json"
    earlier = baseline(size=Value(2.0))
    earlier.save(file)

    def write_half(partial: Path, text: str, **_: object) -> None:
        with partial.open("w") as handle:
            handle.write(text[: len(text) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(partial))

    monkeypatch.setattr(Path, "write_text", write_half)
    with pytest.raises(OutputError, match="The disk filled up"):
        baseline(size=Value(1.0)).save(file)
    assert Baseline.load(file) == earlier
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.slow
def test_validate_writes_a_baseline_and_fails_on_what_got_worse(
    converted: Callable[[str], Converted], tmp_path: Path
) -> None:
    output = Path(shutil.copytree(converted("llama").output, tmp_path / "out"))
    file = tmp_path / "baseline.json"

    def validate(*options: str) -> tuple[int, str]:
        command = ["validate", str(output), "--threads", "1", "--baseline", str(file), *options]
        shown = CliRunner().invoke(app, command)
        return shown.exit_code, shown.stderr

    code, text = validate()
    assert (code, "Baseline not found: " in text) == (2, True)
    assert validate("--update-baseline")[0] == 0
    smaller = json.loads(file.read_text())
    smaller["metrics"]["size"]["value"] //= 2
    file.write_text(json.dumps(smaller))
    code, text = validate()
    assert code == 1
    assert "size: FAILS, " in text
    assert "kl: holds, " in text
    suite = ElementTree.parse(output / "report.xml").getroot()
    tests = {
        each.get("name"): each for each in suite.iter("testcase") if each.get("classname") == "amp_export.baseline"
    }
    assert tests.keys() == smaller["metrics"].keys()
    assert {name for name, test in tests.items() if test.find("failure") is not None} == {"size"}
    assert "Baseline: FAILS in 1 of" in (output / "report.html").read_text()
    shown = CliRunner().invoke(app, ["report", str(output)])
    assert (shown.exit_code, "size: FAILS, " in shown.stderr) == (1, True)


def test_a_run_that_fails_is_no_baseline(converted: Callable[[str], Converted], tmp_path: Path) -> None:
    from amp_export.cli.gates import Gates

    output, file = converted("llama").output, tmp_path / "baseline.json"
    report = Report.load(output)
    assert report.parity is not None
    failed = replace(report, parity=structs.replace(report.parity, holds=False))
    gates = Gates(output, baseline=file, update_baseline=True)
    said = gates.write_baseline(gates.check(failed))
    assert said is not None
    assert "was not written: a run that fails cannot be a baseline" in said
    assert not file.exists()


def test_other_models_formats_and_schemas_are_refused(converted: Callable[[str], Converted], tmp_path: Path) -> None:
    output, file = converted("llama").output, tmp_path / "baseline.json"
    good = of(output)
    good.check_same_model(output, file, to=Format.ONNX)
    with pytest.raises(RequestError, match="a different model or different weights"):
        structs.replace(good, source_sha256="0" * 64).check_same_model(output, file, to=Format.ONNX)
    with pytest.raises(RequestError, match=r"is of onnx in float16, and .* holds onnx in float32"):
        structs.replace(good, dtype="float16").check_same_model(output, file, to=Format.ONNX)
    structs.replace(good, schema=Baseline.SCHEMA + 1).save(file)
    with pytest.raises(OutputError, match="has schema 2, this version knows up to 1"):
        Baseline.load(file)


def text_of(**metrics: Value) -> str:
    return to_json(baseline(**metrics))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[]", ": expected an object with a number schema, but it holds a list"),
        ("{", " is not valid JSON"),
        ('{"schema": 1}', ": model is missing"),
        (text_of(speed=Value(1)), ": metrics.speed is not a number that amp-export measures"),
        (text_of(speedup=Value(1)), ": metrics.speedup is not a number that amp-export measures"),
        (text_of(size_at_decode=Value(1)), r": metrics\.size\.decode is not a number that amp-export measures"),
        (text_of(speedup_at_decod=Value(1)), r": metrics\.speedup\.decod is not a number"),
        (text_of(latency_at_decode=Value(1)), r": metrics\.latency\.decode cannot be compared with a baseline"),
        (
            text_of(speedup_at_decode=Value(1, (0, 2))),
            r": metrics\.speedup\.decode\.interval is \[0(\.0)?, 2(\.0)?\]; expected two positive numbers",
        ),
        (text_of(speedup_at_decode=Value(0, (0.5, 2))), r": metrics\.speedup\.decode\.interval is"),
    ],
)
def test_a_damaged_baseline_is_named(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "baseline.json"
    file.write_text(text)
    with pytest.raises(OutputError, match=rf"baseline\.json{said}"):
        Baseline.load(file)
    with pytest.raises(OutputError, match="is not a baseline, so it is not overwritten"):
        baseline().save(file)


def test_a_graph_of_another_exporter_has_no_baseline(tmp_path: Path) -> None:
    command = ["validate", "--onnx", "g.onnx", "--reference", "m", "--baseline", str(tmp_path / "baseline.json")]
    shown = CliRunner().invoke(app, command)
    assert shown.exit_code == 2
    assert "Use --thresholds for other graphs" in shown.stderr


def test_a_baseline_of_version_0_1_is_read(tmp_path: Path) -> None:
    file = tmp_path / "baseline.json"
    baseline(speedup_at_decode=Value(1.2, (1.1, 1.3))).save(file)
    file.write_text(file.read_text().replace("speedup.decode", "gain.decode"))
    assert Baseline.load(file) == baseline(speedup_at_decode=Value(1.2, (1.1, 1.3)))


def test_update_needs_a_file(converted: Callable[[str], Converted]) -> None:
    shown = CliRunner().invoke(app, ["validate", str(converted("llama").output), "--update-baseline"])
    assert shown.exit_code == 2
    assert "Name it with --baseline FILE" in shown.stderr
