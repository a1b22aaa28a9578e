from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from amp_export.api import validate
from amp_export.architectures import find_architecture, supported_model_types
from amp_export.benchmarking.workloads import PHASES
from amp_export.cli import app
from amp_export.errors import RequestError
from amp_export.options import Format, Phase
from amp_export.outputs.manifest import Manifest, SourceRecord
from amp_export.reporting.checks import Check
from amp_export.reporting.metrics import METRICS, Value, measure
from amp_export.reporting.report import Report
from amp_export.reporting.thresholds import FACTORS, Threshold, check_thresholds, read_thresholds, refuse_absent_phases
from tests.support import PROJECT, sample_reports
from tests.support.sample_reports import full_report
from tests.support.shared import Converted

BY_KEY = {metric.key: metric for metric in METRICS}


def written(folder: Path, text: str) -> Path:
    file = folder / "amp-export.toml"
    file.write_text(text)
    return file


def checked(folder: Path, text: str, values: dict[str, Value]) -> list[Check]:
    return check_thresholds(read_thresholds(written(folder, text)), values)


def test_numbers_units_and_phases_are_read(tmp_path: Path) -> None:
    lines = ["[thresholds]", "max_kl = 1e-4", 'max_size = "500 MB"', 'max_latency.decode = "20 ms"', "min_speedup = 1"]
    read = {each.key: each.limit for each in read_thresholds(written(tmp_path, "\n".join(lines)))}
    assert read == {"max_kl": 1e-4, "max_size": 5e8, "max_latency.decode": 0.02, "min_speedup": 1}


def test_the_names_of_version_0_1_are_read(tmp_path: Path) -> None:
    (threshold,) = read_thresholds(written(tmp_path, "[thresholds]\nmin_gain.decode = 1.2"))
    assert (threshold.key, threshold.limit) == ("min_speedup.decode", 1.2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '[thresholds]\nmax_kl = "low"',
            r"max_kl is 'low'; expected a number that is not negative\.\nWrite a number, such as",
        ),
        ("[thresholds]\nmax_kl = true", "max_kl is True"),
        ("[thresholds]\nmax_kl = nan", "max_kl is nan"),
        ("[thresholds]\nmax_kl = -1", "max_kl is -1"),
        ('[thresholds]\nmax_size = "5 parsec"', r"'5 parsec'.*\n.*ends with B, kB, MB"),
        ('[thresholds]\nmax_size = "1.2.3 MB"', "'1.2.3 MB'"),
        ("[thresholds]\nmin_speedup.decode = []", r"min_speedup\.decode is \[\]"),
        ("[thresholds]\nmax_speedup = 1", r"max_speedup is not known.\nKnown are max_kl, .*min_speedup"),
        ("[thresholds.min_speedup]\n# decode = 1.2", "the table min_speedup is empty, so that it limits nothing"),
        ("[thresholds.min_gain]", "the table min_speedup is empty"),
        ("[thresholds]\nmin_speedup.decod = 1.2", r"min_speedup\.decod is not a phase\.\nKnown are prefill, decode"),
        ("[thresholds]\nmax_kl.decode = 1", "max_kl has no phases; expected a number, found a table"),
        ("[thresholds]\nmax_kl = {}", "max_kl has no phases; expected a number, found a table"),
        ("[treshold]\nmax_kl = 1", "treshold, which is not known"),
        ("", "has no thresholds"),
        ("thresholds = 3", "has no thresholds"),
        ("[thresholds", "is not valid TOML"),
    ],
)
def test_what_cannot_be_kept_to_is_refused_by_file_and_key(tmp_path: Path, text: str, message: str) -> None:
    file = written(tmp_path, text)
    with pytest.raises(RequestError, match=message) as refused:
        read_thresholds(file)
    assert str(file) in str(refused.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"absent\.toml cannot be read: No such file"):
        read_thresholds(tmp_path / "absent.toml")


def test_quality_and_parity_have_limits_of_their_own(tmp_path: Path) -> None:
    values = {"kl": Value(1e-9), "top1_agreement": Value(1.0), "quality_kl": Value(0.5)}
    values["quality_top1_agreement"] = Value(0.7)
    text = "[thresholds]\nmax_kl = 1e-4\nmin_top1_agreement = 1\nmax_quality_kl = 0.4\nmin_quality_top1_agreement = 0.6"
    assert [check.holds for check in checked(tmp_path, text, values)] == [True, True, False, True]


def test_a_failure_says_by_how_much(tmp_path: Path) -> None:
    values = {"size": Value(6e8), "kl": Value(1e-5)}
    size, kl = checked(tmp_path, '[thresholds]\nmax_size = "500 MB"\nmax_kl = 1e-4', values)
    assert (size.holds, kl.holds) == (False, True)
    assert size.text == "max_size: FAILS, 600 MB is above 500 MB by 100 MB (20.0%)."


def test_a_gain_must_be_proved(tmp_path: Path) -> None:
    values = {"speedup.prefill": Value(1.3, (1.25, 1.35)), "speedup.decode": Value(1.3, (1.1, 1.5))}
    prefill, decode = checked(tmp_path, "[thresholds]\nmin_speedup = 1.2", values)
    assert (prefill.name, prefill.holds) == ("min_speedup.prefill", True)
    assert (decode.name, decode.holds) == ("min_speedup.decode", False)
    assert "the lower end of the interval of 1.3 [1.1, 1.5] is below 1.2 by 0.1" in decode.text


def test_what_was_not_measured_fails_and_says_what_to_do(tmp_path: Path) -> None:
    values = {"speedup.decode": Value(1.3, (1.25, 1.35))}
    forward, memory = checked(tmp_path, "[thresholds]\nmin_speedup.forward = 1.2\nmax_peak_memory = 1", values)
    assert not forward.holds
    assert not memory.holds
    assert "speedup.forward was not measured; measured are decode" in forward.text
    assert "peak_memory was not measured; amp-export benchmark measures it" in memory.text


@given(
    key=st.sampled_from(sorted(BY_KEY)),
    value=st.floats(allow_nan=True, allow_infinity=True),
    limit=st.floats(0, 1e12),
)
def test_a_number_holds_on_one_side_of_its_limit_alone(key: str, value: float, limit: float) -> None:
    metric = BY_KEY[key]
    (check,) = check_thresholds([Threshold(metric, "", limit)], {metric.name: Value(value)})
    assert check.holds == (value >= limit if metric.rises else value <= limit)


@given(number=st.floats(0, 1e9), unit=st.sampled_from(sorted(FACTORS[BY_KEY["max_size"].unit])))
def test_a_quantity_is_its_number_times_its_unit(
    tmp_path_factory: pytest.TempPathFactory, number: float, unit: str
) -> None:
    file = written(tmp_path_factory.getbasetemp(), f'[thresholds]\nmax_size = "{number} {unit}"')
    (threshold,) = read_thresholds(file)
    assert threshold.limit == number * FACTORS[threshold.metric.unit][unit]


def test_a_real_report_has_every_number(converted: Callable[[str], Converted]) -> None:
    output = converted("llama").output
    values = measure(Report.load(output), output / Format.ONNX)
    # an end-to-end run does not evaluate on files, which only the user has
    expected = {metric.name for metric in METRICS if metric.made_by != "evaluate"}
    assert {name.partition(".")[0] for name in values} == expected
    report = converted("llama").report
    # the files are counted anew, as the benchmark counted them
    assert values["size"].value == report["benchmarks"]["onnxruntime"]["pruned"]["bytes_on_disk"]
    decode = report["benchmarks"]["onnxruntime"]["phases"]["decode"]
    assert values["speedup.decode"].interval == tuple(decode["interval"])


def test_what_an_evaluation_lost_has_limits(tmp_path: Path) -> None:
    values = measure(full_report(), None)
    text = "[thresholds]\nmax_accuracy_loss = {}\nmax_text_perplexity_ratio = {}"
    # the export lost more than the pruned checkpoint: 20 of 40 questions of one of two tasks
    assert values["accuracy_loss"] == Value(25.0)
    assert [check.holds for check in checked(tmp_path, text.format(25, 1.6), values)] == [True, True]
    loss, ratio = checked(tmp_path, text.format(24.9, 1.5), values)
    assert loss.text == "max_accuracy_loss: FAILS, 25 is above 24.9 by 0.1 (0.4%)."
    assert not ratio.holds
    pruned = replace(full_report(), evaluations={"pruned": sample_reports.evaluation()})
    assert measure(pruned, None)["accuracy_loss"] == Value(3.75)


@given(lost=st.integers(0, 30))
def test_a_loss_of_accuracy_is_what_the_tasks_lose_on_average(lost: int) -> None:
    report = Report("m", evaluations={"pruned": sample_reports.evaluation(lost=lost)})
    loss = measure(report, None)["accuracy_loss"].value
    for limit, holds in ((lost * 1.25, True), (lost * 1.25 - 0.01, False)):
        (check,) = check_thresholds([Threshold(BY_KEY["max_accuracy_loss"], "", limit)], {"accuracy_loss": Value(loss)})
        assert check.holds == holds


def test_an_evaluation_that_compared_nothing_has_no_loss(tmp_path: Path) -> None:
    alone = replace(sample_reports.evaluation(), against=None, differences=None)
    values = measure(Report("m", evaluations={"pruned": alone}), None)
    assert values == {}
    (check,) = checked(tmp_path, "[thresholds]\nmax_accuracy_loss = 1", values)
    assert not check.holds
    assert "accuracy_loss was not measured; amp-export evaluate measures it" in check.text


@given(st.sampled_from(supported_model_types()), st.sampled_from(Phase), st.booleans())
def test_a_phase_that_a_model_does_not_have_is_refused(
    tmp_path_factory: pytest.TempPathFactory, model_type: str, phase: Phase, resized: bool
) -> None:
    file = written(tmp_path_factory.getbasetemp(), f"[thresholds]\nmax_kl = 1\nmin_speedup.{phase} = 1.1")
    config = {"model_type": model_type}
    config_before = {"model_type": "amp_resized", "dense": config} if resized else config
    manifest = Manifest(source=SourceRecord("m", "/m", "0" * 64), config_before=config_before)
    phases = PHASES[find_architecture(model_type).kind]
    if phase in phases:
        refuse_absent_phases(file, read_thresholds(file), manifest)
    else:
        with pytest.raises(RequestError, match=rf"min_speedup\.{phase} limits {phase}.*\n.*one of {', '.join(phases)}"):
            refuse_absent_phases(file, read_thresholds(file), manifest)


def test_validate_refuses_a_phase_before_it_compares(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validate, "validate", lambda *_, **__: pytest.fail("it compared"))
    manifest = Manifest(source=SourceRecord("m", "/m", "0" * 64), config_before={"model_type": "llama"})
    manifest.save(tmp_path)
    file = written(tmp_path, "[thresholds]\nmin_speedup.encode = 1.1")
    refused = CliRunner().invoke(app, ["validate", str(tmp_path), "--thresholds", str(file)])
    assert refused.exit_code == 2, refused.output
    assert "min_speedup.encode limits encode" in refused.stderr


@pytest.mark.parametrize("order", [1, -1])
def test_a_case_of_which_nothing_is_known_is_the_worst(order: int) -> None:
    cases = [replace(sample_reports.case("1 token"), kl=kl) for kl in (1e-9, float("nan"), 1e-8)[::order]]
    values = measure(Report("m", parity=sample_reports.parity(*cases)), None)
    (check,) = check_thresholds([Threshold(BY_KEY["max_kl"], "", 1.0)], values)
    assert not check.holds


def test_the_guide_names_every_threshold() -> None:
    guide = (PROJECT / "docs/ci.md").read_text()
    assert set(re.findall(r"^\| `((?:max|min)_\w+)`", guide, re.MULTILINE)) == BY_KEY.keys()


@pytest.mark.parametrize(("limit", "code"), [("1 GB", 0), ("1 kB", 1)])
def test_report_exits_as_thresholds_say(
    converted: Callable[[str], Converted], tmp_path: Path, limit: str, code: int
) -> None:
    file = written(tmp_path, f'[thresholds]\nmax_size = "{limit}"')
    shown = CliRunner().invoke(app, ["report", str(converted("llama").output), "--thresholds", str(file), "--json"])
    assert shown.exit_code == code
    printed, stored = json.loads(shown.stdout), json.loads((converted("llama").output / "report.json").read_text())
    assert [(check["name"], check["holds"]) for check in printed.pop("checks")] == [("max_size", code == 0)]
    assert stored.pop("checks") is None
    assert printed == stored
    assert ("FAILS" in shown.stderr) == (code == 1)


def test_a_form_that_is_written_tells_what_was_checked(converted: Callable[[str], Converted], tmp_path: Path) -> None:
    output = Path(shutil.copytree(converted("llama").output, tmp_path / "out"))
    file = written(tmp_path, '[thresholds]\nmax_size = "1 kB"')
    command = ["report", str(output), "--thresholds", str(file), "--format", "xml"]
    assert CliRunner().invoke(app, command).exit_code == 1
    assert "max_size: FAILS" in (output / "report.xml").read_text()
    assert CliRunner().invoke(app, ["report", str(output), "--format", "md"]).exit_code == 1
    assert "max_size: FAILS" in (output / "report.md").read_text(), "report.json has it too"


def test_a_bad_file_is_found_before_anything_runs(converted: Callable[[str], Converted], tmp_path: Path) -> None:
    output = Path(shutil.copytree(converted("llama").output, tmp_path / "out"))
    before = (output / "report.json").read_bytes()
    file = written(tmp_path, '[thresholds]\nmax_kl = "low"')
    shown = CliRunner().invoke(app, ["validate", str(output), "--thresholds", str(file)])
    assert shown.exit_code == 2
    assert "Running" not in shown.stderr
    assert (output / "report.json").read_bytes() == before
