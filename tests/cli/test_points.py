"""The commands `compare` and `sweep`, end to end on a tiny model."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from amp_export import CompareOptions, CriterionName, PruneOptions, SweepOptions, compare, sweep
from amp_export.api import benchmark as benchmarking
from amp_export.api import points as making
from amp_export.api import sweep as sweeping
from amp_export.benchmarking import rounds
from amp_export.benchmarking.drafting.results import MEASUREMENT, DraftedText, DraftMeasurement
from amp_export.benchmarking.sampling import Sampling
from amp_export.cli import app
from amp_export.documents import to_json
from amp_export.errors import RequestError, VerificationError
from amp_export.hardware import machine
from amp_export.outputs.locks import lock_until_closed
from amp_export.outputs.manifest import Manifest
from amp_export.pruning import pipeline
from amp_export.reporting import files
from tests.support import PROJECT, sample_reports
from tests.support.tiny_models import save_tiny_model, save_tiny_samples, save_tiny_tokenizer

PRUNING = ("--snap", "1", "--fitting-tokens", "128")

needs_genai = pytest.mark.skipif(
    importlib.util.find_spec("onnxruntime_genai") is None, reason="onnxruntime-genai is not installed"
)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [*map(str, arguments)], env={"COLUMNS": "200"})


def said(result: Result, code: int = 2) -> str:
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return " ".join(result.stderr.split())


@pytest.fixture(scope="module")
def shared(shallow_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """The model and the options that all tests share."""
    file = tmp_path_factory.mktemp("prompts") / "prompts.txt"
    file.write_text("\n".join(f"Say the number {number} and nothing else." for number in range(10)))
    return ("--model", str(shallow_llama), "--calibration", str(file), *PRUNING)


class Calls:
    """Counts what is made, and fails when it is told to."""

    def __init__(self) -> None:
        self.scored: list[str] = []
        self.pruned: list[str] = []
        self.timed: list[str] = []
        self.broken_at: str | None = None
        self.error: BaseException = VerificationError("The disk caught fire.")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """Counts passes over the model, and takes a time from the number of parameters instead of a clock."""
    found = Calls()
    score, prune = pipeline._score, making.prune

    def counted_score(request: Any, *given: Any) -> Any:
        found.scored.append(request.settings.criterion.value)
        return score(request, *given)

    def counted_prune(model: str, output: Path, *given: Any, **more: Any) -> Any:
        if output.name == found.broken_at:
            raise found.error
        found.pruned.append(output.name)
        return prune(model, output, *given, **more)

    def timed(folder: Path, options: Any, *, progress: Any) -> None:
        found.timed.append(folder.name)
        manifest = Manifest.load(folder)
        assert manifest.plan is not None
        assert options.against == folder.parent / "dense"
        left = manifest.plan.parameters_after / manifest.plan.parameters_before
        report = sample_reports.benchmark()
        phases = {
            name: replace(each, dense=replace(each.dense, median=0.1), pruned=replace(each.pruned, median=0.1 * left))
            for name, each in report.phases.items()
        }
        report = replace(
            report,
            phases=phases,
            dense=replace(report.dense, bytes_on_disk=10**9),
            pruned=replace(report.pruned, bytes_on_disk=int(left * 10**9)),
            judged=manifest.judged("onnx"),
        )
        files.update_report(folder, benchmarks={report.name: report}, progress=progress)

    monkeypatch.setattr(pipeline, "_score", counted_score)
    monkeypatch.setattr(making, "prune", counted_prune)
    monkeypatch.setattr(sweeping, "benchmark", timed)
    return found


@pytest.mark.slow
def test_criteria_are_compared_and_more_are_added(shared: tuple[str, ...], tmp_path: Path, calls: Calls) -> None:
    output = tmp_path / "out"
    arguments = ("compare", *shared, "--output", output)
    result = run(*arguments, "--criteria", "wanda,random", "--ratios", "0.2,0.3")
    assert result.exit_code == 0, result.stderr
    assert result.stdout == ""
    assert sorted(calls.pruned) == ["random-0.2", "random-0.3", "wanda-0.2", "wanda-0.3"]
    assert sorted(calls.scored) == ["random", "wanda"], "the model is scored once for each criterion"
    shown = " ".join(result.stderr.split())
    assert "Point 4 of 4 is finished" in shown
    assert "Smallest perplexity: " in shown
    table = json.loads((output / "compare.json").read_text())
    assert [f"{each['point']['criterion']}-{each['point']['asked']}" for each in table["points"]] == [
        *("wanda-0.2", "wanda-0.3", "random-0.2", "random-0.3")
    ]
    for each in table["points"]:
        assert (
            set(each["numbers"]) == set(each["dense"]) == {"ratio", "parameters", "perplexity", "kl", "top1_agreement"}
        )
    text = (output / "compare.md").read_text()
    assert all(name in text for name in ("| dense |", "| wanda-0.2 |", "| random-0.3 |", "Smallest perplexity: "))
    assert "<svg" in (output / "compare.html").read_text()
    # a point is what `prune` alone writes
    alone = ("prune", *shared, "--criterion", "random", "--ratio", "0.3", "--output", tmp_path / "alone")
    assert run(*alone).exit_code == 0
    assert (tmp_path / "alone/plan.json").read_text() == (output / "random-0.3/plan.json").read_text()
    assert run("report", output / "random-0.3").exit_code == 0

    calls.pruned.clear()
    calls.scored.clear()
    result = run(*arguments, "--criteria", "wanda,magnitude", "--ratios", "0.1:0.3:0.1", "--resume", "--json")
    assert result.exit_code == 0, result.stderr
    assert calls.pruned == ["magnitude-0.1", "wanda-0.1", "magnitude-0.2", "magnitude-0.3"]
    assert calls.scored == ["magnitude"]
    assert len(json.loads(result.stdout)["points"]) == 8
    assert json.loads(result.stdout) == json.loads((output / "compare.json").read_text())


def test_a_run_that_ends_early_goes_on(shared: tuple[str, ...], tmp_path: Path, calls: Calls) -> None:
    output = tmp_path / "out"
    arguments = ("compare", *shared, "--output", output, "--criteria", "amp", "--ratios", "0.1,0.2,0.3")
    calls.broken_at = "amp-0.2"
    assert "Finished points are kept. The same command with --resume goes on" in said(run(*arguments), code=1)
    assert [each["point"]["asked"] for each in json.loads((output / "compare.json").read_text())["points"]] == [0.1]
    calls.error = KeyboardInterrupt()
    interrupted = said(run(*arguments, "--resume"), code=130)
    assert "Error: Interrupted; finished points are kept. The same command with --resume goes on" in interrupted
    calls.broken_at = None
    assert "holds the points of an earlier run. Give --resume to go on" in said(run(*arguments))
    assert "were made with other options: prune.heads was auto and is none." in said(
        run(*arguments, "--resume", "--heads", "none")
    )
    result = run(*arguments, "--resume")
    assert result.exit_code == 0, result.stderr
    assert calls.pruned == ["amp-0.1", "amp-0.2", "amp-0.3"]
    assert calls.scored == ["amp"]
    # a file that has changed since is not taken for a result
    (output / "amp-0.1/pruned/config.json").write_text("{}")
    assert "is not the file that" in said(run(*arguments, "--resume"))
    (output / "notes.txt").write_text("mine")
    shutil.copytree(output / "amp-0.2", output / "best")
    assert run(*arguments[:-1], "0.3", "--overwrite", "--heads", "none").exit_code == 0
    assert sorted(entry.name for entry in output.iterdir()) == [
        *("amp-0.3", "best", "compare.html", "compare.json", "compare.md", "notes.txt")
    ]


@pytest.mark.parametrize(
    ("command", "arguments", "words"),
    [
        ("compare", ("--criteria", "amp", "--ratios", "0.5:0.1:0.1"), "begins at 0.5 and ends before it"),
        ("compare", ("--criteria", "amp", "--ratios", "abc"), "'abc' is neither a ratio nor a range"),
        ("compare", ("--criteria", "amp,best", "--ratios", "0.1"), "'best' is no criterion. Known are amp, wanda"),
        ("compare", ("--criteria", "amp", "--ratios", "0.1,0.99"), "The nearest legal ratio is 0."),
        ("compare", ("--ratios", "0.1"), "Missing option '--criteria'"),
        ("compare", ("--criteria", "amp"), "Missing option '--ratios'"),
        ("sweep", (), "There is nothing to sweep. Give --ratios 0.1:0.5:0.1, --until"),
        ("sweep", ("--until", "speed<=3"), "at character 1: expected the name of a number, found 'speed'"),
        ("sweep", ("--until", "decode_ms=3"), "expected one of <=, <, >=, >, found '='"),
        ("sweep", ("--until", "decode_ms<="), "at character 12: expected a number, found the end"),
        ("sweep", ("--ratios", "0.99"), "The nearest legal ratio is 0."),
        ("sweep", ("--ratios", "0.1", "--plan", "plan.json"), "No such option"),
        ("sweep", ("--ratios", "0.1", "--context", "4000"), "does not fit into a context of 128"),
        ("sweep", ("--ratios", "0.1", "--min-effect", "0"), "--min-effect is 0, but must be above 0"),
        ("sweep", ("--ratios", "0.1", "--dtype", "bfloat16"), "no bfloat16 arithmetic"),
        ("sweep", ("--draft", "--to", "openvino"), "onnxruntime-genai, which does not read --to openvino"),
    ],
)
def test_mistakes_are_refused_before_any_work(
    command: str, arguments: tuple[str, ...], words: str, shared: tuple[str, ...], tmp_path: Path, calls: Calls
) -> None:
    assert words in said(run(command, *shared, *arguments, "--output", tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    assert calls.pruned == calls.scored == []


def test_a_directory_of_something_else_is_not_written_to(
    shared: tuple[str, ...], tmp_path: Path, calls: Calls, shallow_llama: Path
) -> None:
    ours, others, file = tmp_path / "ours", tmp_path / "others", tmp_path / "file"
    arguments = ("compare", *shared, "--criteria", "amp", "--ratios", "0.2", "--output")
    assert run(*arguments, ours).exit_code == 0
    others.mkdir()
    (others / "notes.txt").write_text("mine")
    file.write_text("mine")
    for more in ((), ("--resume",), ("--overwrite",)):
        assert "was not written by amp-export compare (it holds notes.txt)" in said(run(*arguments, others, *more))
        assert "is not a directory" in said(run(*arguments, file, *more))
        assert "holds the result of another command, for one model" in said(run(*arguments, ours / "amp-0.2", *more))
        swept = ("sweep", *shared, "--ratios", "0.2", "--output", ours)
        assert "holds the points of amp-export compare" in said(run(*swept, *more))
    other = save_tiny_model(tmp_path / "other", "llama", num_hidden_layers=2)
    save_tiny_tokenizer(other)
    another = run(*arguments, ours, "--resume", "--model", other)
    assert f"holds points of {shallow_llama}" in said(another)
    assert "is another model" in said(another)
    descriptor = lock_until_closed(ours / ".points.lock")
    assert descriptor > 0
    assert "Another command is working in" in said(run(*arguments, ours, "--resume"))


@pytest.mark.slow
def test_a_sweep_times_every_point_after_all_are_made(shared: tuple[str, ...], tmp_path: Path, calls: Calls) -> None:
    output = tmp_path / "out"
    arguments = ("sweep", *shared, "--output", output)
    result = run(*arguments, "--ratios", "0.1:0.3:0.1", "--json")
    assert result.exit_code == 0, result.stderr
    assert calls.pruned == calls.timed == ["obs-0.1", "obs-0.2", "obs-0.3"]
    assert calls.scored == ["obs"]
    table = json.loads(result.stdout)
    for each in table["points"]:
        left = 1 - each["numbers"]["ratio"]
        assert each["numbers"]["decode_ms"] == pytest.approx(100 * left)
        assert each["numbers"]["size_mb"] == pytest.approx(1000 * left, abs=1)
        assert each["dense"]["decode_ms"] == 100
    assert set(table["fronts"]) == {"decode_ms", "prefill_ms", "size_mb"}
    assert "obs-0.3" in table["fronts"]["decode_ms"], "the fastest is always on the front"
    assert (output / "dense/onnx/model.onnx").is_file()
    page = (output / "sweep.html").read_text()
    assert page.count("<svg") == 3
    assert "Pareto front" in (output / "sweep.md").read_text()
    # another criterion joins the same table
    result = run(*arguments, "--criterion", "random", "--ratios", "0.2", "--resume")
    assert result.exit_code == 0, result.stderr
    assert calls.timed[3:] == ["random-0.2"]
    assert "other options: export.dtype was None and is float16" in said(
        run(*arguments, "--ratios", "0.2", "--dtype", "float16", "--resume")
    )


@pytest.mark.slow
def test_until_searches_and_checks_the_chosen_export(shared: tuple[str, ...], tmp_path: Path, calls: Calls) -> None:
    output = tmp_path / "out"
    arguments = ("sweep", *shared, "--output", output, "--ratios", "0.1:0.4:0.1")
    result = run(*arguments, "--until", "decode_ms<=0.8x and parameters<=0.82x", "--json")
    assert result.exit_code == 0, result.stderr
    assert "obs-0.2: decode_ms <= 0.8x holds (79." in result.stderr
    table = json.loads(result.stdout)
    choice = table["choice"]
    assert (choice["met"], choice["parity"]) == (True, True)
    assert choice["held"] == {"decode_ms <= 0.8x": True, "parameters <= 0.82x": True}
    assert sorted(calls.timed) == ["obs-0.1", "obs-0.2", "obs-0.3"], "by bisection, both sides of the limit"
    # of a random model, more may be removed at less loss
    meeting = [each for each in table["points"] if each["numbers"]["decode_ms"] <= 80]
    best = min(meeting, key=lambda each: each["numbers"]["perplexity"])
    assert choice["point"] == f"obs-{best['point']['asked']}"
    assert json.loads((output / choice["point"] / "report.json").read_text())["parity"]["holds"]

    shown = said(run(*arguments, "--until", "decode_ms<=30 and ratio<0.45", "--resume"), code=1)
    assert "No point meets decode_ms<=30 and ratio<0.45. The closest is obs-0.4: decode_ms <= 30 fails, at" in shown
    assert re.search(r"decode_ms (60|59\.9)", shown)
    assert calls.timed[3:] == ["obs-0.4"], "points that were measured are kept"
    assert json.loads((output / "sweep.json").read_text())["choice"]["parity"] is None

    # without a limit that a larger ratio helps to meet, as much as possible is removed
    result = run(*arguments, "--until", "ratio<=0.31", "--resume", "--json")
    assert json.loads(result.stdout)["choice"]["point"] == "obs-0.3"
    assert "FAILS" not in (output / "sweep.html").read_text()


def draft_at_best(best: float, *, same: bool = True) -> Any:
    """Return what stands for `draft`: a draft is the faster, the nearer its ratio is to one."""

    def draft(folder: Path, options: Any, **_more: Any) -> SimpleNamespace:
        speedup = 1.5 - abs(float(folder.name.rpartition("-")[2]) - best)
        text = DraftedText(5, 60, 60, 30, 20, speedup, 1.0, first_difference=None if same else 3)
        # a second text, without which there is no interval
        measured = DraftMeasurement.of("a runtime", [text, replace(text, dense_seconds=speedup * 1.01)])
        (folder / "draft").mkdir()
        (folder / "draft" / MEASUREMENT).write_text(to_json(measured))
        return SimpleNamespace(measurement=measured)

    return draft


@pytest.mark.slow
@needs_genai
def test_the_ratio_of_the_fastest_draft_is_searched(
    shared: tuple[str, ...], tmp_path: Path, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeping, "draft", draft_at_best(0.2))
    arguments = ("sweep", *shared, "--output", tmp_path / "out")
    result = run(*arguments, "--ratios", "0.1,0.3", "--draft", "--json")
    assert result.exit_code == 0, result.stderr
    numbers = [each["numbers"] for each in json.loads(result.stdout)["points"]]
    assert [each["draft_speedup"] for each in numbers] == pytest.approx([1.4, 1.4], rel=0.01)
    assert all(each["draft_speedup_low"] < each["draft_speedup"] for each in numbers)

    monkeypatch.setattr(sweeping, "_legal_ratios", lambda *_: (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4))
    shown = said(run(*arguments, "--draft", "--resume"), code=0)
    assert "Fastest draft: obs-0.2. With it the dense model generates 1.51 times as fast as alone" in shown
    assert "fastest draft" in (tmp_path / "out/sweep.md").read_text()
    assert len(calls.timed) < 7


@needs_genai
def test_a_draft_that_changes_the_text_is_no_success(
    shared: tuple[str, ...], tmp_path: Path, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeping, "draft", draft_at_best(0.2, same=False))
    result = run("sweep", *shared, "--ratios", "0.2", "--draft", "--output", tmp_path / "out")
    assert "With obs-0.2 as the draft, a text is not the dense model's" in said(result, code=1)


def test_an_export_without_parity_is_no_success(
    shared: tuple[str, ...], tmp_path: Path, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeping, "validate", lambda *_given, **_more: SimpleNamespace(holds=False))
    result = run("sweep", *shared, "--ratios", "0.2", "--until", "ratio>=0.1", "--output", tmp_path / "out")
    assert "Parity FAILS for its export. What differs: amp-export validate" in said(result, code=1)


def test_without_ratios_whole_percents_are_searched(
    shared: tuple[str, ...], tmp_path: Path, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    ratios: list[tuple[float, ...]] = []

    def found(_self: object, points: Any, *_given: object) -> None:
        ratios.append(tuple(point.asked for point in points))

    monkeypatch.setattr(sweeping._Run, "search", found)
    for step in (1, 16):
        options = ("--snap", step, "--heads", "none", "--until", "size_mb<=900", "--output", tmp_path / f"out{step}")
        result = run("sweep", *shared, *options)
        assert result.exit_code == 0, result.stderr
    fine, coarse = ratios
    assert all(round(100 * ratio) / 100 == ratio for ratio in (*fine, *coarse))
    # 3 layers of 48 neurons, of which 16 or 32 may be kept
    assert len(coarse) == 2 < len(fine) <= 47


@pytest.mark.parametrize(
    ("model_type", "until", "words"),
    [
        ("bert", "decode_ms<=3", "a BertForMaskedLM generates no tokens; its time is prefill_ms"),
        ("bert", "perplexity<=3", "a BertForMaskedLM does not predict the next token"),
        ("llama", "perplexity<=3", "there is no text held out from calibration, which takes five rows or more"),
    ],
)
def test_what_cannot_be_measured_cannot_be_limited(
    model_type: str, until: str, words: str, tmp_path: Path, calls: Calls
) -> None:
    checkpoint = save_tiny_model(tmp_path / "checkpoint", model_type, num_hidden_layers=1)
    samples = save_tiny_samples(checkpoint)
    samples.write_text("One row.\nAnother.")
    arguments = ("--model", checkpoint, "--calibration", samples, "--snap", 1, "--output", tmp_path / "out")
    assert words in said(run("sweep", *arguments, "--until", until))
    assert calls.pruned == []


@pytest.mark.slow
def test_a_sweep_with_real_times(shared: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measure = benchmarking.benchmark_models
    monkeypatch.setattr(rounds, "read_bandwidth", lambda _: machine.read_bandwidth(1, buffer_bytes=1 << 20))
    monkeypatch.setattr(
        benchmarking,
        "benchmark_models",
        lambda *given, **more: measure(*given, **{**more, "sampling": Sampling(launches=2, rounds=2)}),
    )
    output = tmp_path / "out"
    result = run("sweep", *shared, "--ratios", "0.2", "--threads", 1, "--output", output, "--json")
    assert result.exit_code == 0, result.stderr
    (point,) = json.loads(result.stdout)["points"]
    assert set(point["numbers"]) == {
        *("ratio", "parameters", "perplexity", "kl", "top1_agreement", "size_mb", "prefill_ms", "decode_ms")
    }
    benchmark = json.loads((output / "obs-0.2/report.json").read_text())["benchmarks"]["onnxruntime"]
    for side, numbers in (("pruned", point["numbers"]), ("dense", point["dense"])):
        assert numbers["decode_ms"] == pytest.approx(benchmark["phases"]["decode"][side]["median"] * 1e3)
        assert numbers["size_mb"] == benchmark[side]["bytes_on_disk"] / 1e6
    assert point["numbers"]["size_mb"] < point["dense"]["size_mb"]


def test_python_takes_the_same_options_and_refuses_what_is_each_points_own(tmp_path: Path) -> None:
    for options in (PruneOptions(ratio=0.2), PruneOptions(plan=Path("plan.json")), PruneOptions(scores=Path("x"))):
        with pytest.raises(RequestError, match="cannot be shared by all points"):
            compare(
                "demo", tmp_path / "out", CompareOptions(criteria=(CriterionName.AMP,), ratios=(0.2,), prune=options)
            )
        with pytest.raises(RequestError, match="cannot be shared by all points"):
            sweep("demo", tmp_path / "out", SweepOptions(ratios=(0.2,), prune=options))
    with pytest.raises(RequestError, match="nothing to compare"):
        compare("demo", tmp_path / "out", CompareOptions(criteria=(), ratios=(0.2,)))


@pytest.mark.slow
def test_a_point_that_was_removed_is_made_again(shared: tuple[str, ...], tmp_path: Path, calls: Calls) -> None:
    output = tmp_path / "out"
    arguments = ("sweep", *shared, "--output", output, "--ratios", "0.1,0.2")
    assert run(*arguments).exit_code == 0
    shutil.rmtree(output / "obs-0.1")
    shutil.rmtree(output / "obs-0.2/onnx")
    assert "is missing, but" in said(run(*arguments, "--resume"))
    shutil.rmtree(output / "obs-0.2")
    assert run(*arguments, "--resume").exit_code == 0
    assert calls.timed == ["obs-0.1", "obs-0.2", "obs-0.1", "obs-0.2"]


def test_the_guide_names_options_that_exist() -> None:
    guide = (PROJECT / "docs/sweep.md").read_text()
    named = set(re.findall(r"--[a-z][a-z-]*", guide))
    shown = {
        command: set(re.findall(r"--[a-z][a-z-]*", run(command, "--help").output)) for command in ("compare", "sweep")
    }
    assert named <= shown["sweep"] | {"--criteria"}
    assert shown["compare"] - shown["sweep"] == {"--criteria"}
    each_points_own = {"--ratio", "--plan", "--scores", "--against"}
    assert not each_points_own & (shown["compare"] | shown["sweep"])
