"""The command `evaluate`, end to end on tiny models."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from amp_export import EvaluateOptions, evaluate
from amp_export.cli import app
from amp_export.errors import ModelError
from tests.support.questions import CHOICES, CONTEXTS
from tests.support.tiny_models import save_tiny_model, save_tiny_output, save_tiny_tokenizer


@dataclass(frozen=True)
class Files:
    output: Path
    dense: Path
    tasks: Path
    partial: Path
    text: Path
    prompts: Path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """An output with a pruned model, its dense one, and something of each kind to evaluate on."""
    folder = tmp_path_factory.mktemp("evaluate")
    output = save_tiny_output(folder)
    for name, rows in (("parity.jsonl", CHOICES), ("partial.jsonl", CONTEXTS)):
        (folder / name).write_text("\n".join(map(json.dumps, rows)))
    (folder / "text.txt").write_text("It is a long way to the sea, and longer back. " * 5)
    (folder / "prompts.txt").write_text("Say one.\nSay two.\nSay three.")
    names = ("parity.jsonl", "partial.jsonl", "text.txt", "prompts.txt")
    return Files(output, folder / "checkpoint", *(folder / name for name in names))


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["evaluate", *map(str, arguments)], env={"COLUMNS": "160"})


def said(result: Result) -> str:
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    return " ".join(result.stderr.split())


@pytest.fixture(scope="module")
def everything(files: Files) -> tuple[Mapping[str, Any], str]:
    result = run(
        files.output,
        *("--tasks", files.tasks, files.partial, "--perplexity", files.text, "--window", 64, "--stride", 32),
        *("--generate", files.prompts, "--new-tokens", 6, "--json"),
    )
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout), result.stderr


def test_an_output_is_compared_with_its_dense_model(files: Files, everything: tuple[Mapping[str, Any], str]) -> None:
    report, stderr = everything
    assert report["model"]["model"] == str(files.output / "pruned")
    assert report["against"]["model"] == "tiny"
    assert report["notes"] == []
    for name, metric, questions in (("parity", "acc_norm", 11), ("partial", "acc", 7)):
        ours, theirs = (report[side]["tasks"][name] for side in ("model", "against"))
        assert ours["metric"] == metric
        assert ours["accuracies"][metric]["value"] == sum(ours["correct"]) / questions
        found = report["differences"]["tasks"][name]
        difference = sum(ours["correct"]) - sum(theirs["correct"])
        assert found["difference"]["value"] == pytest.approx(difference / questions)
        assert found["gained"] - found["lost"] == difference
    assert report["model"]["tasks"]["parity"]["floor"] == pytest.approx(6 / 11)
    assert report["model"]["tasks"]["partial"]["floor"] == 1
    ours, theirs = (report[side]["perplexity"] for side in ("model", "against"))
    assert report["differences"]["perplexity"]["ratio"] == pytest.approx(ours["perplexity"] / theirs["perplexity"])
    assert sum(ours["tokens"]) == len(files.text.read_text()) - 1
    assert len(report["model"]["generation"]["texts"]) == 3
    assert set(report["differences"]["generation"]) == {"tokens", "distinct_bigrams", "repeated_4grams"}
    assert stderr.index(f"Generating text with {files.output / 'pruned'}") < stderr.index("Scoring parity with tiny")


def test_python_gives_the_same(files: Files, everything: tuple[Mapping[str, Any], str]) -> None:
    options = EvaluateOptions(tasks=(files.tasks,), perplexity=files.text, window=64)
    found = evaluate(files.output / "pruned", options)
    assert (found.against, found.differences) == (None, None)
    report = everything[0]["model"]
    assert list(map(list, found.model.tasks["parity"].log_likelihoods)) == report["tasks"]["parity"]["log_likelihoods"]
    assert found.model.perplexity.perplexity == report["perplexity"]["perplexity"]


def test_the_table_shows_errors_intervals_and_the_constant_answer(files: Files) -> None:
    result = run(files.output, files.tasks, files.partial, "--generate", files.prompts, "--limit", 2)
    assert result.exit_code == 0, result.stderr
    assert result.stdout == ""
    shown = " ".join(result.stderr.split())
    for words in ("acc_norm", "±", "none", "best constant answer", "Average of the tasks", "Repeated 4-grams"):
        assert words in shown
    assert f"Model: {files.output / 'pruned'} Compared with: tiny" in shown
    assert "Only the first 2 of each file were taken." in shown
    assert shown.count("Prompt: ") == 2


def test_a_model_differs_in_nothing_from_itself(files: Files) -> None:
    arguments = ("--tasks", files.tasks, "--perplexity", files.text, "--generate", files.prompts, "--new-tokens", 5)
    result = run(files.dense, "--against", files.dense, *arguments, "--json")
    found = json.loads(result.stdout)["differences"]
    assert (found["tasks"]["parity"]["gained"], found["tasks"]["parity"]["lost"]) == (0, 0)
    assert found["perplexity"]["ratio"] == 1
    all_found = [
        found["tasks"]["parity"]["difference"],
        found["perplexity"]["difference"],
        *found["generation"].values(),
    ]
    assert {each["change"] for each in all_found} == {"none"}


def test_without_its_dense_model_an_output_is_evaluated_alone(files: Files, tmp_path: Path) -> None:
    output = Path(shutil.copytree(files.output, tmp_path / "out"))
    manifest = json.loads((output / "amp_export.json").read_text())
    manifest["source"]["path"] = str(tmp_path / "gone")
    (output / "amp_export.json").write_text(json.dumps(manifest))
    result = run(output, "--tasks", files.tasks, "--json")
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    assert (report["against"], report["differences"]) == (None, None)
    assert "which no longer exists. Name the dense model with --against MODEL" in report["notes"][0]
    assert json.loads(run(output, "--tasks", files.tasks, "--against", files.dense, "--json").stdout)["differences"]
    (output / "pruned/config.json").write_text("{}")
    assert "is not the file that" in said(run(output, "--tasks", files.tasks))


def test_texts_in_other_tokens_do_not_compare(files: Files, tmp_path: Path) -> None:
    other = Path(shutil.copytree(files.dense, tmp_path / "other"))
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    result = run(other, "--against", files.dense, "--perplexity", files.text, "--json")
    report = json.loads(result.stdout)
    assert report["differences"]["perplexity"] is None
    assert "tokenize the text differently" in report["notes"][0]


def test_a_tokenizer_of_another_checkpoint_is_named(files: Files, tmp_path: Path) -> None:
    small = save_tiny_model(tmp_path / "small", "llama", vocab_size=60, num_hidden_layers=1)
    save_tiny_tokenizer(small)
    for option, file in (("--tasks", files.tasks), ("--perplexity", files.text), ("--generate", files.prompts)):
        assert "The tokenizer is of another model" in said(run(small, option, file))


def test_damaged_weights_are_no_score(files: Files, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    broken = Path(shutil.copytree(files.dense, tmp_path / "broken"))
    tensors = load_file(broken / "model.safetensors")
    tensors["model.norm.weight"][3] = float("nan")
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="computes NaN"):
        evaluate(broken, EvaluateOptions(tasks=(files.tasks,)))


def test_bad_requests_are_exit_code_2(files: Files, tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text('{"context": "a", "choices": ["b", "c"], "answer": 0}\n{"context": "a"}')
    assert f"{tmp_path / 'bad.jsonl'}, line 2: found the keys context." in said(
        run(files.dense, "--tasks", tmp_path / "bad.jsonl")
    )
    (tmp_path / "instructions.jsonl").write_text('{"instruction": "Sing.", "output": "La."}')
    instructions = said(run(files.dense, "--tasks", tmp_path / "instructions.jsonl"))
    assert "line 1: found `instruction`: this is text, no task" in instructions
    assert "There is nothing to evaluate on." in said(run(files.dense))
    assert "is a file to evaluate on, no model. Name the model first" in said(run("--tasks", files.tasks, files.text))
    assert "--window is 500, but the model takes 128" in said(
        run(files.dense, "--perplexity", files.text, "--window", 500)
    )
    assert "are for --perplexity" in said(run(files.dense, "--tasks", files.tasks, "--stride", 5))
    assert "No such model: ./absent" in said(run("./absent", "--tasks", files.tasks))
    assert "is neither a .jsonl nor a .txt file" in said(run(files.dense, "--generate", files.dense / "config.json"))
    bert = save_tiny_model(tmp_path / "bert", "bert", num_hidden_layers=1)
    assert "which does not predict the next token" in said(run(bert, "--tasks", files.tasks))


def test_a_graph_scores_and_writes_as_its_checkpoint(files: Files) -> None:
    """The graph runs in ONNX Runtime; what it was exported from is compared with it, question by question."""
    arguments = ("--tasks", files.tasks, files.partial, "--perplexity", files.text, "--generate", files.prompts)
    result = run(files.output / "onnx", "--against", files.output, *arguments, "--json")
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    graph, checkpoint = report["model"], report["against"]
    assert (graph["model"], checkpoint["model"]) == (str(files.output / "onnx"), str(files.output / "pruned"))
    for name in ("parity", "partial"):
        ours, theirs = (np.array(each["tasks"][name]["log_likelihoods"]) for each in (graph, checkpoint))
        np.testing.assert_allclose(ours, theirs, rtol=1e-4)
    assert graph["perplexity"]["losses"] == pytest.approx(checkpoint["perplexity"]["losses"], rel=1e-4)
    assert graph["generation"] == checkpoint["generation"]
    assert "--to onnx evaluates an export in an output directory" in said(run(files.dense, "--to", "onnx", *arguments))
    assert "has no openvino export" in said(run(files.output, "--to", "openvino", *arguments))
