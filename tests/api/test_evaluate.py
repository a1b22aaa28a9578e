"""What `evaluate` finds out is part of the output, as long as the files that were judged are."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs
from typer.testing import CliRunner

from amp_export import EvaluateOptions, evaluate
from amp_export.cli import app
from amp_export.errors import RequestError
from amp_export.evaluation.summaries import summarize_model
from amp_export.options import Format
from amp_export.outputs.manifest import FileRecord, Manifest
from amp_export.outputs.resumable import has_unfinished
from amp_export.progress import Advance, Silent
from amp_export.reporting.files import update_report
from amp_export.reporting.report import Report, record_verdicts
from tests.support import sample_reports
from tests.support.sample_reports import full_report, manifest
from tests.support.tiny_models import save_tiny_output

ITEMS = {"correct", "log_likelihoods", "losses", "texts", "text", "prompt"}
"""Keys of what is too large to keep: one number or text for each question, window or prompt."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output with a graph, its dense checkpoint, and files to evaluate on beside it; not to be changed."""
    folder = tmp_path_factory.mktemp("evaluate")
    save_tiny_output(folder)
    for name in ("even", "odd"):
        rows = [
            {"context": f"Is {number} {name}?\nAnswer:", "choices": [" yes", " no"], "answer": number % 2}
            for number in range(5)
        ]
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "text.txt").write_text("It is a long way to the sea, and longer back. " * 3)
    (folder / "prompts.txt").write_text("Say one.\nSay two.")
    return folder


@pytest.fixture
def output(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made / "out", tmp_path / "out"))


def questions(made: Path, *, to: Format | None = None, **more: Any) -> EvaluateOptions:
    return EvaluateOptions(tasks=(made / "even.jsonl", made / "odd.jsonl"), to=to, **more)


def keys(content: Any) -> Iterator[str]:
    if isinstance(content, dict):
        yield from content
    for value in content.values() if isinstance(content, dict) else content if isinstance(content, list) else ():
        yield from keys(value)


@pytest.mark.usefixtures("pictures")
def test_the_numbers_are_stored_without_what_they_are_made_from(made: Path, output: Path) -> None:
    text, prompts = made / "text.txt", made / "prompts.txt"
    options = questions(made, perplexity=text, prompts=prompts, window=64, new_tokens=5, limit=4)
    found = evaluate(output, options)
    report = Report.load(output)
    assert report.evaluations is not None
    (stored,) = report.evaluations.values()
    assert (stored.model, stored.differences) == (summarize_model(found.model), found.differences)
    assert found.against is not None
    assert stored.against == summarize_model(found.against)
    assert (stored.limit, stored.new_tokens, stored.model.perplexity.windows) == (4, 5, 4)
    files = [*options.tasks, text, prompts]
    assert stored.files == {str(file): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    content = json.loads((output / "report.json").read_text())["evaluations"]
    assert set(keys(content)).isdisjoint(ITEMS)
    assert stored.judged == Manifest.load(output).judged("pruned")
    verdict = Manifest.load(output).verdicts["evaluations"]["pruned"]
    assert verdict["accuracy"] == stored.model.average.value
    assert verdict["accuracy_change"] == "none"
    assert verdict["perplexity_ratio"] == found.differences.perplexity.ratio
    shown = CliRunner().invoke(app, ["report", str(output)], env={"COLUMNS": "160"})
    assert shown.exit_code == 0
    for words in ("even, acc_norm, 4 questions", "Average of the tasks", "Perplexity, 4 windows of 64", "none ["):
        assert words in shown.stderr
    assert "Average of 2 tasks: " in (output / "report.html").read_text()


def test_each_part_has_an_evaluation_beside_what_else_was_measured(made: Path, output: Path) -> None:
    parity = sample_reports.parity(sample_reports.case("1 token"))
    update_report(output, parity=structs.replace(parity, judged=Manifest.load(output).judged("onnx")))
    evaluate(output, questions(made))
    evaluate(output, questions(made, to=Format.ONNX))
    report = Report.load(output)
    assert report.parity is not None
    assert report.evaluations is not None
    assert list(report.evaluations) == ["pruned", "onnx"]
    assert report.evaluation == report.evaluations["pruned"]
    assert Manifest.load(output).verdicts.keys() >= {"parity", "evaluations"}
    before = report.evaluations["onnx"]
    evaluate(output, EvaluateOptions(tasks=(made / "odd.jsonl",)))
    again = Report.load(output).evaluations
    assert again is not None
    assert list(again["pruned"].model.tasks) == ["odd"], "the newer takes the place of the older"
    assert again["onnx"] == before


def test_what_is_not_about_an_output_alone_is_not_stored(made: Path, output: Path, tmp_path: Path) -> None:
    before = (output / "amp_export.json").read_bytes()
    evaluate(output / "pruned", questions(made))
    found = evaluate(output, questions(made, to=Format.ONNX, against=str(output)))
    assert f"not stored in {output}: {output / 'pruned'} is not the dense model" in found.notes[-1]
    evaluate(made / "checkpoint", questions(made, against=str(output)))
    assert (output / "amp_export.json").read_bytes() == before
    assert not (output / "report.json").exists()
    moved = shutil.copytree(made / "checkpoint", tmp_path / "moved")
    evaluate(output, questions(made, against=str(moved)))
    (stored,) = (Report.load(output).evaluations or {}).values()
    assert stored.differences is not None, "wherever it is, it has the dense model's weights"


def test_a_result_for_files_that_were_replaced_meanwhile_is_shown_and_not_stored(made: Path, output: Path) -> None:
    class Replacing(Silent):
        @contextmanager
        def step(self, description: str) -> Iterator[Advance]:
            if description.startswith("Loading"):
                (output / "pruned/README.md").write_text(description)
                Manifest.load(output).with_hashes(output).write(output)
            with super().step(description) as advance:
                yield advance

    found = evaluate(output, questions(made), progress=Replacing())
    assert found.model.average is not None
    assert found.notes[-1].startswith(f"The result is not stored in {output}: {output} was written to while this")
    assert not (output / "report.json").exists()


class Stopping(Silent):
    """Stop at the first step whose description contains a word, and remember the steps that had something to do."""

    def __init__(self, word: str | None) -> None:
        self.word = word
        self.measured: list[str] = []

    @contextmanager
    def step(self, description: str) -> Iterator[Advance]:
        if self.word is not None and self.word in description:
            raise KeyboardInterrupt

        def advance(_done: int, _total: int) -> None:
            if description not in self.measured:
                self.measured.append(description)

        yield advance


def test_a_run_that_was_stopped_goes_on_after_what_was_finished(made: Path, output: Path) -> None:
    options = questions(made, perplexity=made / "text.txt", prompts=made / "prompts.txt", new_tokens=3)
    once = evaluate(output, options)
    stopped = Stopping("Scoring odd with tiny")
    with pytest.raises(KeyboardInterrupt):
        evaluate(output, options, progress=stopped)
    assert len(stopped.measured) == 5
    assert has_unfinished(output, of="evaluate-pruned")
    resumed = Stopping(None)
    assert evaluate(output, options, resume=True, progress=resumed) == once
    rest = ["Scoring odd with tiny", "Measuring perplexity of tiny", "Generating text with tiny"]
    assert resumed.measured == rest
    assert not has_unfinished(output, of="evaluate-pruned")
    assert [entry.name for entry in output.parent.iterdir()] == ["out"]


def test_what_was_finished_of_other_weights_or_settings_is_measured_again(made: Path, output: Path) -> None:
    options = EvaluateOptions(perplexity=made / "text.txt")
    stop = Stopping("perplexity of tiny")
    with pytest.raises(KeyboardInterrupt):
        evaluate(output, options, progress=stop)
    model = f"Measuring perplexity of {output / 'pruned'}"
    for changed, again in ((options, []), (replace(options, stride=7), [model]), (replace(options, limit=1), [model])):
        stop = Stopping("perplexity of tiny")
        with pytest.raises(KeyboardInterrupt):
            evaluate(output, changed, resume=True, progress=stop)
        assert stop.measured == again
    (output / "pruned/tokenizer_config.json").write_text('{"clean_up_tokenization_spaces": true}')
    Manifest.load(output).with_hashes(output).write(output)
    stop = Stopping("perplexity of tiny")
    with pytest.raises(KeyboardInterrupt):
        evaluate(output, options, resume=True, progress=stop)
    assert stop.measured == [model]


def test_what_is_not_stored_cannot_be_resumed(made: Path) -> None:
    with pytest.raises(RequestError, match=r"--resume goes on with an evaluation that is stored .*\nLeave it out"):
        evaluate(made / "checkpoint", questions(made), resume=True)


REPORT = full_report()


@given(data=st.data())
def test_an_evaluation_is_gone_after_any_file_that_it_judged_changes(data: st.DataObject) -> None:
    report = REPORT
    before = manifest(report)
    part = data.draw(st.sampled_from(["pruned", "onnx"]))
    name = data.draw(st.sampled_from([*(name for name in before.files if name.startswith(f"{part}/")), f"{part}/new"]))
    files = {other: record for other, record in before.files.items() if other != name}
    if name not in before.files or data.draw(st.booleans()):
        files[name] = FileRecord(data.draw(st.text("0123456789abcdef", min_size=64, max_size=64)), 1)
    changed = replace(before, files=files)
    bound = report.bound_to(changed)
    assert bound.evaluations is not None
    assert set(bound.evaluations) == {"pruned", "onnx"} - {part}
    assert bound.checks is None, "thresholds were held against the evaluation, too"
    assert record_verdicts(changed, bound).verdicts["evaluations"].keys() == bound.evaluations.keys()
    elsewhere = replace(before, files={**before.files, "plan.json": FileRecord("0" * 64, 1)})
    assert report.bound_to(elsewhere) == report


def test_gates_are_checked_again_after_an_evaluation(made: Path, output: Path, tmp_path: Path) -> None:
    update_report(output, checks=full_report().checks)
    evaluate(output, EvaluateOptions(perplexity=made / "text.txt"))
    report = Report.load(output)
    assert report.checks is None
    ratio = report.evaluation.differences.perplexity.ratio
    file = tmp_path / "gates.toml"
    for limit, code in ((ratio * 1.01, 0), (ratio * 0.99, 1)):
        file.write_text(f"[thresholds]\nmax_text_perplexity_ratio = {limit}")
        assert CliRunner().invoke(app, ["report", str(output), "--thresholds", str(file)]).exit_code == code


def test_reports_without_evaluations_are_read(output: Path) -> None:
    update_report(output, checks=())
    content = json.loads((output / "report.json").read_text())
    del content["evaluations"]
    for schema in range(Report.OLDEST_SCHEMA, Report.SCHEMA + 1):
        (output / "report.json").write_text(json.dumps({**content, "schema": schema}))
        assert Report.load(output).evaluations is None
