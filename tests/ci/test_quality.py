"""The script `ci/bench/quality.py`: it divides the data, keeps rows, writes the page, and works on a tiny model."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from amp_export.architectures import ModelConfig, find_architecture
from amp_export.cli import app
from amp_export.errors import TaskError
from amp_export.evaluation.estimates import Estimate, average
from amp_export.evaluation.generation import GenerationResult, Text
from amp_export.evaluation.measuring import Measured
from amp_export.evaluation.pairs import Difference, PerplexityDifference
from amp_export.evaluation.perplexity import PerplexityResult
from amp_export.evaluation.scoring import Metric, TaskResult
from amp_export.options import Allocation, CriterionName, HeadPolicy, PerLayer
from amp_export.progress import Silent
from amp_export.pruning.defaults import choose_plan_settings
from amp_export.pruning.dry_run import possible_candidates
from amp_export.verb_options import PlanChoices
from tests.support.tiny_models import SMOLLM2_135M

quality: Any = importlib.import_module("ci.bench.quality")
measuring, methods, page, splitting = (
    importlib.import_module(f"bench.pruning_quality.{name}") for name in ("measuring", "methods", "page", "splitting")
)
METHODS = {method.name: method for method in methods.METHODS}


def table(text: str, heading: str) -> list[list[str]]:
    """Returns the cells below a heading, without the names and the rule."""
    lines = text.partition(f"## {heading}\n")[2].partition("\n## ")[0].splitlines()
    return [[cell.strip() for cell in line[1:-1].split(" | ")] for line in lines if line.startswith("|")][2:]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory in which each row and each line has a number of its own."""
    folder = tmp_path_factory.mktemp("data")
    paragraphs = [f"Paragraph {number} says little of interest.\n \n" for number in range(400)]
    (folder / "wikitext2_valid.txt").write_text("".join(paragraphs))
    rows = [{"instruction": f"Say {number}.", "input": "", "output": f"It is {number}!"} for number in range(2000)]
    (folder / "instructions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    choices = [
        {"context": f"{number} is", "choices": [" odd", " even"], "answer": 1 - number % 2} for number in range(4)
    ]
    contexts = [
        {"contexts": ["A cat", "A dog"], "continuation": f" has {number} legs", "answer": number % 2}
        for number in range(4)
    ]
    for name in splitting.TASKS:
        questions = contexts if name == "winogrande" else choices
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in questions))
    return folder


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes calibration files small."""
    monkeypatch.setattr(splitting, "CALIBRATION_CHARACTERS", 1500)
    monkeypatch.setattr(splitting, "PIECE_CHARACTERS", 100)


def read_rows(file: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_calibration_shares_nothing_with_what_is_measured_nor_with_the_other_seed(
    small: None, data: Path, tmp_path: Path
) -> None:
    split = splitting.split(data, tmp_path / "split", seeds=2)
    measured = "\n".join(file.read_text() for file in (split.text, split.instructions, split.prompts)).splitlines()
    files = [
        {line for row in read_rows(file) for value in row.values() for line in value.splitlines() if line.strip()}
        for file in split.calibrations
    ]
    assert all(files)
    for place, lines in enumerate((*files, set(filter(str.strip, measured)))):
        assert lines.isdisjoint(set().union(*files[:place]))


def test_the_parts_are_the_rows_that_the_page_names(small: None, data: Path, tmp_path: Path) -> None:
    split = splitting.split(data, tmp_path / "split", seeds=2)
    assert [row["instruction"] for row in read_rows(split.prompts)] == [f"Say {each}." for each in range(1990, 2000)]
    instructions = split.instructions.read_text()
    assert instructions.startswith("Say 1500.\nIt is 1500!\n\nSay 1501.")
    assert instructions.endswith("Say 1989.\nIt is 1989!\n")
    text = split.text.read_text()
    whole = (data / "wikitext2_valid.txt").read_text()
    # blank lines are measured, and calibrated on
    assert whole.endswith(text)
    assert len(text) / len(whole) == pytest.approx(0.4, abs=0.01)
    texts = [row["text"] for file in split.calibrations for row in read_rows(file) if "text" in row]
    assert all(each in whole and each.endswith("\n") for each in texts)


def test_calibration_has_as_much_of_each_kind(small: None, data: Path, tmp_path: Path) -> None:
    split = splitting.split(data, tmp_path / "split", seeds=2)
    for file in split.calibrations:
        rows = read_rows(file)
        texts = sum(len(row["text"]) for row in rows if "text" in row)
        others = sum(len("".join(row.values())) for row in rows if "text" not in row)
        assert texts == pytest.approx(1500, abs=150)
        assert others == pytest.approx(1500, abs=150)


def test_the_same_data_is_divided_in_the_same_way(data: Path, tmp_path: Path) -> None:
    first, second = (splitting.split(data, tmp_path / name, seeds=2) for name in ("first", "second"))
    for one, other in zip(
        (*first.calibrations, *first.measured), (*second.calibrations, *second.measured), strict=True
    ):
        assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize("missing", ["winogrande.jsonl", "wikitext2_valid.txt", "instructions.jsonl"])
def test_missing_data_is_named(missing: str, data: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for file in data.iterdir():
        if file.name != missing:
            (tmp_path / "data" / file.name).write_bytes(file.read_bytes())
    with pytest.raises(TaskError, match=f"lacks {missing}"):
        splitting.split(tmp_path / "data", tmp_path / "split", seeds=2)


def test_too_few_instructions_are_refused(data: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for file in data.iterdir():
        lines = file.read_text().splitlines(keepends=True)
        (tmp_path / "data" / file.name).write_text("".join(lines[:1999]))
    with pytest.raises(TaskError, match="has 1,999 rows, but 2,000 are needed"):
        splitting.split(tmp_path / "data", tmp_path / "split", seeds=2)


def make_row(*, loss: float, wrong: int, removed: float = 0.0, text: str = "It waxes and wanes.") -> Any:
    """Returns a row of forty questions of each task, of which some answers are wrong."""
    correct = tuple(number >= wrong for number in range(40))
    accuracies = {Metric.ACC: Estimate.of([float(each) for each in correct])}
    task = TaskResult(Metric.ACC, accuracies, 0.5, ((-1.0, -2.0),) * 40, correct)
    losses = tuple(loss * (10 + number % 3) for number in range(8))
    tokens = tuple(10 + number % 3 for number in range(8))
    perplexity = PerplexityResult(2.718281828**loss, 0.1, losses, tokens, 512, 512, "the hash")
    written = Text("prompt", text, 5, 0.9, 0.25)
    generation = GenerationResult((written, written), Estimate(5.0, None, 1), Estimate(0.9, 0.01, 2), None)
    measured = Measured("m", dict.fromkeys(splitting.TASKS, task), average([task.accuracy] * 4), perplexity, generation)
    return measuring.Row(
        made=measuring.Made(1_000_000, removed, pruning_seconds=61.0 if removed else None),
        measured=measured,
        instructions=replace(perplexity, token_ids_sha256="another hash"),
        overlapping=replace(perplexity, stride=256),
        shown=generation,
        evaluation_seconds=10.0,
        machine="A machine, 2 cores",
        threads=2,
        packages={"torch": "2.9"},
    )


ABOUT = page.About("demo", measuring.Extent.of(100), " --limit 100")


def test_the_page_shows_what_is_there_and_names_what_is_not() -> None:
    rows = {
        "dense": make_row(loss=3.0, wrong=10),
        "ours-20": make_row(loss=3.2, wrong=18, removed=0.2, text="Now `code` |\n# and a heading"),
        "amp": make_row(loss=4.0, wrong=10, removed=0.2),
    }
    text = page.write(rows, ABOUT)
    dense, ours, amp = table(text, "Perplexity and bars")
    assert dense == ["dense", "", "20.09", "", "20.09", "20.09", "", "75.0 ± 3.5", "", "", "", ""]
    ratio = "1.22 [1.22, 1.22]"
    assert ours[:7] == ["ours, 20 %", "20.00%", "24.53", ratio, ratio, "24.53", ratio]
    assert ours[8].startswith("-20.0 [")
    assert ours[9:] == ["1.30 x, 1.5 points", "met", "**not met**"]
    assert amp[0] == "AMP as published, 20 %"
    assert amp[8].endswith(", none")
    assert amp[9:] == ["", "", ""]
    assert [row[0] for row in table(text, "Tasks")] == [dense[0], ours[0], amp[0]]
    assert all(cell.startswith("75.0 ± 6.9: +0.0 [") for cell in table(text, "Tasks")[2][1:])
    assert table(text, "Generated text and time")[1] == ["ours, 20 %", "0.900", "", "1.0 M", "61 s", ""]
    commands = dict(table(text, "Commands"))
    assert "--criterion amp --allocation paper --no-compensate" in commands["AMP as published, 20 %"]
    assert "dense" not in commands
    assert "the first 100 questions of each" in text
    assert "the first 25 of each text" in text
    assert "--limit 100" in text
    assert "    # and a heading" in text.splitlines()
    missing = text.split("Not measured yet: ")[1].splitlines()[0]
    assert [name.strip("`.") for name in missing.split(", ")] == [name for name in METHODS if name not in rows]
    assert "A machine, 2 cores, threads of torch: 2, with torch 2.9" in text


def test_a_full_page_has_a_row_for_every_method() -> None:
    rows = {name: make_row(loss=3.0, wrong=10, removed=0.0 if name == "dense" else 0.2) for name in METHODS}
    text = page.write(rows, replace(ABOUT, extent=measuring.Extent(), options=""))
    for heading in ("Perplexity and bars", "Tasks", "Generated text and time"):
        assert [row[0] for row in table(text, heading)] == [method.title for method in METHODS.values()]
    assert "all questions" in text
    assert "Not measured yet" not in text


def test_only_the_dense_row_makes_a_page() -> None:
    text = page.write({"dense": make_row(loss=3.0, wrong=10)}, ABOUT)
    assert "## Commands" not in text
    assert "## Texts" not in text


@pytest.mark.parametrize(
    ("ratio", "interval", "said"),
    [
        (1.2, (1.1, 1.25), "met"),
        (1.2, (1.1, 1.4), r"met \*"),
        (1.35, (1.2, 1.5), r"**not met** \*"),
        (1.35, (1.31, 1.5), "**not met**"),
        (1.3, (1.3, 1.3), "met"),
    ],
)
def test_a_ratio_is_judged_with_its_interval(ratio: float, interval: tuple[float, float], said: str) -> None:
    same = Difference.within(0.0, (-0.1, 0.1), 40)
    perplexity, _ = page.judge(methods.Bar(1.3, 1.5), PerplexityDifference(same, ratio, interval), same)
    assert str(perplexity) == said


@pytest.mark.parametrize(
    ("points", "value", "interval", "said"),
    [
        (1.5, -0.01, (-0.014, 0.01), "met"),
        (1.5, -0.01, (-0.03, 0.01), r"met \*"),
        (1.5, -0.02, (-0.03, -0.01), r"**not met** \*"),
        (1.5, -0.03, (-0.05, -0.02), "**not met**"),
        (None, -0.03, (-0.05, 0.01), "met"),
        (None, -0.03, (-0.05, -0.01), "**not met**"),
        (None, 0.03, (0.01, 0.05), "met"),
    ],
)
def test_a_loss_is_judged_with_its_interval(
    points: float | None, value: float, interval: tuple[float, float], said: str
) -> None:
    same = PerplexityDifference(Difference.within(0.0, (0.0, 0.0), 8), 1.0, (1.0, 1.0))
    _, tasks = page.judge(methods.Bar(1.3, points), same, Difference.within(value, interval, 40))
    assert str(tasks) == said


def make_bench(data: Path, folder: Path, model: Path, **changes: Any) -> Any:
    split = splitting.split(data, folder / "split", seeds=2)
    bench = measuring.Bench(
        str(model), model, "a hash", split, measuring.Extent.of(4), folder / "work", folder / "rows"
    )
    return replace(bench, **changes)


def test_a_row_that_is_there_is_not_measured_again(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = []

    def run(method: Any, _bench: Any, _progress: Any) -> Any:
        runs.append(method.name)
        return make_row(loss=3.0, wrong=3)

    monkeypatch.setattr(quality, "run_method", run)
    bench, progress, main = make_bench(data, tmp_path, tmp_path), Silent(), methods.MAIN
    for changed in (
        *[(bench, [methods.DENSE, main])] * 2,
        (bench, [replace(main, pruning={**main.pruning, "ratio": "0.25"})]),
        (bench, [replace(main, seed=1)]),
        (replace(bench, extent=measuring.Extent.of(8)), [main]),
        (replace(bench, sha256="another"), [methods.DENSE]),
        (bench, [main, methods.DENSE]),
    ):
        assert quality.measure_missing(changed[1], changed[0], progress) == {}
    assert runs == ["dense", "ours-20", "ours-20", "ours-20", "ours-20", "dense", "ours-20", "dense"]
    assert bench.kept_row(main) == measuring.without_data(make_row(loss=3.0, wrong=3))
    # of a method, the last row is kept
    assert sorted(file.name[:-18] for file in bench.rows.iterdir()) == ["dense", "ours-20"]
    quality.measure_missing([methods.DENSE, main], bench, Silent(), again=["ours-20"])
    assert runs[8:] == ["ours-20"]


def test_a_kept_row_holds_nothing_of_the_data(data: Path, tmp_path: Path) -> None:
    bench = make_bench(data, tmp_path, tmp_path)
    row = make_row(loss=3.0, wrong=3, text="It is 1990!")
    shown = replace(row.shown, texts=())
    bench.keep_row(methods.DENSE, replace(row, shown=shown))
    assert "1990" not in bench.row_file(methods.DENSE).read_text()
    # the page is the same
    kept = bench.kept_row(methods.DENSE)
    assert page.write({"dense": kept}, ABOUT) == page.write({"dense": row}, ABOUT)


def test_other_questions_are_measured_again(data: Path, tmp_path: Path) -> None:
    bench = make_bench(data, tmp_path, tmp_path)
    bench.keep_row(methods.DENSE, make_row(loss=3.0, wrong=3))
    assert bench.kept_row(methods.DENSE) is not None
    changed = tmp_path / "piqa.jsonl"
    changed.write_text((data / "piqa.jsonl").read_text() * 2)
    tasks = tuple(changed if file.name == changed.name else file for file in bench.split.tasks)
    assert replace(bench, split=replace(bench.split, tasks=tasks)).kept_row(methods.DENSE) is None


def test_a_method_that_fails_does_not_keep_the_others_from_being_measured(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(method: Any, _bench: Any, _progress: Any) -> Any:
        if method is methods.MAIN:
            raise subprocess.CalledProcessError(2, ["amp-export", "prune"])
        return make_row(loss=3.0, wrong=3)

    monkeypatch.setattr(quality, "run_method", run)
    bench = make_bench(data, tmp_path, tmp_path)
    failed = quality.measure_missing([methods.DENSE, methods.MAIN, METHODS["amp"]], bench, Silent())
    assert list(failed) == ["ours-20"]
    assert "exit status 2" in failed["ours-20"]
    assert bench.kept_row(METHODS["amp"]) is not None
    assert bench.kept_row(methods.MAIN) is None


def test_every_method_asks_for_options_that_the_command_has() -> None:
    known = {"prune": CliRunner().invoke(app, ["prune", "--help"]).stdout}
    known["recover"] = CliRunner().invoke(app, ["recover", "--help"]).stdout
    files = [Path("0.jsonl"), Path("1.jsonl")]
    for method in methods.METHODS:
        for verb, *words in measuring.commands(method, "demo", Path("out"), files):
            options = [word for word in words if word.startswith("--")]
            assert len(set(options)) == len(options)
            assert [word for word in options if word not in known[verb]] == []


@pytest.mark.parametrize("method", [each for each in methods.METHODS if each.pruning], ids=lambda each: each.name)
def test_no_method_asks_for_what_is_refused(method: Any) -> None:
    config = ModelConfig.read(find_architecture("llama"), SMOLLM2_135M)
    asked = {name.replace("-", "_"): value for name, value in method.pruning.items()}
    kinds: dict[str, Any] = {
        "criterion": CriterionName,
        "allocation": Allocation,
        "heads": HeadPolicy,
        "snap": int,
        "heads_per_layer": PerLayer,
        "neurons_per_layer": PerLayer,
    }
    choices = PlanChoices(**{name: kind(asked[name]) for name, kind in kinds.items() if name in asked})
    settings = choose_plan_settings(config, float(asked["ratio"]), choices)
    assert possible_candidates(SMOLLM2_135M, config, settings)


def test_flap_has_its_own_allocation_and_no_compensation_of_ours() -> None:
    plain, compensated = METHODS["flap"], METHODS["flap-compensated"]
    assert plain.seed == compensated.seed == 0
    words = " ".join(methods.words(plain.pruning))
    assert words == (
        "--ratio 0.2 --criterion flap --allocation flap --heads auto --snap 1 --fitting-tokens 49152 --no-compensate"
    )
    assert words == " ".join(methods.words({**compensated.pruning, "compensate": False}))


def test_data_may_not_be_copied_into_the_project(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    work = quality.PROJECT / "docs/work"
    monkeypatch.setattr(sys, "argv", ["quality.py", "--data", str(data), "--work", str(work)])
    with pytest.raises(SystemExit):
        quality.main()
    assert "give a directory elsewhere" in capsys.readouterr().err
    assert not work.exists()


@pytest.mark.slow
def test_a_tiny_model_is_measured_from_end_to_end(
    small: None, data: Path, tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = []

    def invoke(arguments: Any) -> None:
        commands.append(arguments[0])
        result = CliRunner().invoke(app, list(arguments))
        assert result.exit_code == 0, result.stderr

    options = {**methods.OURS, "snap": "1", "fitting-tokens": "512"}
    main = replace(methods.MAIN, pruning={"ratio": "0.1", **options}, recovery={"steps": "1"})
    tried = (methods.DENSE, main, replace(METHODS["amp"], pruning={**METHODS["amp"].pruning, "ratio": "0.1"}))
    monkeypatch.setattr(measuring, "amp_export", invoke)
    for module, name, value in ((quality, "METHODS", tried), (page, "METHODS", tried), (page, "MAIN", main)):
        monkeypatch.setattr(module, name, value)
    written, work = tmp_path / "quality.md", tmp_path / "work"
    words = ["--data", data, "--work", work, "--model", tiny_llama, "--limit", "2", "--page", written]
    monkeypatch.setattr(sys, "argv", ["quality.py", *map(str, words)])
    assert quality.main() == 0
    assert commands == ["prune", "recover", "prune"]
    rows = table(written.read_text(), "Perplexity and bars")
    assert [row[0] for row in rows] == [method.title for method in tried]
    assert all(float(row[place].replace(",", "")) > 1 for row in rows for place in (2, 5))
    assert [0.05 < float(row[1].rstrip("%")) / 100 < 0.15 for row in rows[1:]] == [True, True]
    assert not any((work / "outputs").iterdir())
    first = written.read_bytes()
    assert quality.main() == 0
    assert len(commands) == 3
    assert written.read_bytes() == first
