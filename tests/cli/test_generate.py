"""The command `generate`, end to end on tiny models."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner, Result

from amp_export import GenerateOptions, generate
from amp_export.checkpoints.loading import load_model, load_tokenizer
from amp_export.cli import app
from tests.support.tiny_models import save_tiny_model, save_tiny_output, save_tiny_tokenizer

pytestmark = pytest.mark.slow

PROMPT = "Water boils when"


@dataclass(frozen=True)
class Files:
    output: Path
    dense: Path
    prompts: Path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("generate")
    output = save_tiny_output(folder)
    (folder / "prompts.txt").write_text(f"Say one.\n{PROMPT}\nSay three, four and five.")
    return Files(output, folder / "checkpoint", folder / "prompts.txt")


def run(*arguments: object, **options: Any) -> Result:
    words = ["generate", *map(str, arguments), *("--new-tokens", "12", "--threads", "1")]
    return CliRunner().invoke(app, words, env={"COLUMNS": "400"}, **options)


def said(result: Result) -> str:
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    assert result.stdout == ""
    return " ".join(result.stderr.split())


def by_transformers(path: Path, prompt: str) -> str:
    tokenizer, model = load_tokenizer(path), load_model(path, dtype=torch.float32)
    given = tokenizer(prompt, return_tensors="pt")
    found = model.generate(**given, max_new_tokens=12, do_sample=False, pad_token_id=0)[0, given.input_ids.shape[1] :]
    return str(tokenizer.decode(found, skip_special_tokens=True))


def test_the_export_of_an_output_writes_what_its_checkpoint_writes(files: Files) -> None:
    result = run(files.output, "-p", PROMPT)
    assert result.exit_code == 0, result.stderr
    assert result.stdout == by_transformers(files.output / "pruned", PROMPT) + "\n"
    assert f"{files.output / 'onnx'}: 16 prompt tokens in" in result.stderr
    assert "ONNX Runtime" in result.stderr


def test_an_export_may_be_named_by_its_folder(files: Files, tmp_path: Path) -> None:
    expected = run(files.output, "-p", PROMPT).stdout
    assert run(files.output / "onnx", "-p", PROMPT).stdout == expected
    assert run(f"{files.output}/onnx/", "-p", PROMPT, "--to", "onnx").stdout == expected
    result = run(files.output / "pruned", "-p", PROMPT, "--against", files.output / "onnx", "--json")
    report = json.loads(result.stdout)
    assert report["model"]["texts"] == report["against"]["texts"]
    assert "ONNX Runtime" in report["against"]["runtime"]
    refused = said(run(files.output / "onnx", "-p", PROMPT, "--to", "openvino"))
    assert "is an export to onnx, but --to is openvino" in refused
    # a folder of that name elsewhere is a checkpoint or nothing
    (tmp_path / "onnx").mkdir()
    assert "holds no config.json" in said(run(tmp_path / "onnx", "-p", PROMPT))


def test_a_checkpoint_is_run_in_pytorch(files: Files) -> None:
    result = run(files.dense, "-p", PROMPT)
    assert result.exit_code == 0, result.stderr
    assert result.stdout == by_transformers(files.dense, PROMPT) + "\n"
    assert "PyTorch" in result.stderr


def test_a_prompt_may_come_from_stdin(files: Files) -> None:
    assert run(files.output, "-p", "-", input=PROMPT).stdout == run(files.output, "-p", PROMPT).stdout


@pytest.mark.parametrize("against", ["dense", "named", "output"])
def test_two_models_are_shown_side_by_side(files: Files, against: str) -> None:
    name = {"dense": "dense", "named": files.dense, "output": files.output}[against]
    result = run(files.output, "--prompts", files.prompts, "--against", name, "--json")
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    other = files.output / "pruned" if against == "output" else files.dense
    for side, path in (("model", files.output / "pruned"), ("against", other)):
        texts = report[side]["texts"]
        assert [each["prompt"] for each in texts] == files.prompts.read_text().splitlines()
        assert [each["text"] for each in texts] == [by_transformers(path, each["prompt"]) for each in texts]
    shown = run(files.output, "--prompts", files.prompts, "--against", name)
    assert shown.exit_code == 0, shown.stderr
    assert PROMPT in shown.stdout
    assert ("tiny" if against == "dense" else str(name)) in "".join(shown.stdout.split())


def test_several_texts_are_shown_below_their_prompts(files: Files) -> None:
    result = run(files.output, "-p", PROMPT, "-p", "Say two.")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith(f"{PROMPT}\n")
    assert "\n\nSay two.\n" in result.stdout
    assert "Generating with" in result.stderr


def test_what_is_drawn_is_the_same_again(files: Files) -> None:
    drawn = ("-p", PROMPT, "--temperature", 1.5, "--top-k", 20, "--top-p", 0.95, "--min-p", 0.01)
    first, second, other = (run(files.output, *drawn, "--seed", seed) for seed in (1, 1, 2))
    assert first.exit_code == 0, first.stderr
    assert first.stdout == second.stdout
    assert first.stdout != other.stdout


def test_a_text_stops_before_a_string(files: Files) -> None:
    whole = run(files.output, "-p", PROMPT).stdout
    stop = whole[2:4]
    assert run(files.output, "-p", PROMPT, "--stop", stop).stdout == whole[: whole.index(stop)] + "\n"


def test_a_chat_template_is_applied(files: Files, tmp_path: Path) -> None:
    checkpoint = save_tiny_model(tmp_path / "chat", "llama")
    save_tiny_tokenizer(checkpoint)
    template = "{% for message in messages %}<s>{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    (checkpoint / "chat_template.jinja").write_text(template + "{% if add_generation_prompt %}me: {% endif %}")
    # the template has the token that begins a text, so that the tokenizer adds none
    options = GenerateOptions(prompt=("Hi",), chat=True, new_tokens=8)
    found = generate(checkpoint, options).model.texts[0]
    expected = generate(checkpoint, GenerateOptions(prompt=("user: Hi\nme: ",), new_tokens=8)).model.texts[0]
    has_first = len(load_tokenizer(checkpoint)("a").input_ids) - 1
    assert (found.prompt, found.prompt_tokens) == ("Hi", 1 + len("user: Hi\nme: "))
    assert found.prompt_tokens - expected.prompt_tokens == 1 - has_first
    assert "has no chat template, so it cannot be talked to" in said(run(files.dense, "--chat", "-p", "Hi"))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), "There is no prompt. Give one with --prompt"),
        (("-p", ""), "A prompt is empty."),
        (("-p", "a", "--stop", ""), "--stop is an empty string"),
        (("-p", "a", "--top-p", "0.9"), "top_p is for tokens that are drawn, but temperature is 0"),
        (("-p", "a", "--temperature", "-1"), "temperature is -1.0. Give a number at least 0"),
        (("-p", "a", "--prompts", "none.txt"), "none.txt"),
        (("-p", "a", "--to", "tensorrt"), "has no tensorrt export. Its exports: onnx."),
        (("-p", "a" * 120), "120 tokens and 12 new ones are 132 tokens, but the model takes 128"),
        (("-p", "a", "--against", "nowhere"), "nowhere"),
    ],
)
def test_what_cannot_be_done_is_said(files: Files, words: tuple[str, ...], expected: str) -> None:
    assert expected in said(run(files.output, *words))


def test_what_is_for_outputs_is_refused_for_models(files: Files) -> None:
    assert "--against dense is for an output directory" in said(run(files.dense, "-p", "a", "--against", "dense"))
    assert "--to onnx runs an export in an output directory" in said(run(files.dense, "-p", "a", "--to", "onnx"))
    assert "runs in PyTorch" in said(run(files.dense, "-p", "a", "--provider", "cuda"))


def test_a_reader_that_leaves_ends_it_quietly(files: Files) -> None:
    command = [sys.executable, "-m", "amp_export", "generate", str(files.output), "-p", PROMPT, "-n", "100"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        stderr = process.stderr.read()
    assert process.returncode == 141
    assert "rror" not in stderr


def test_what_does_not_write_is_refused(tmp_path: Path) -> None:
    checkpoint = save_tiny_model(tmp_path / "bert", "bert")
    save_tiny_tokenizer(checkpoint)
    assert "does not predict the next token" in said(run(checkpoint, "-p", "a"))
