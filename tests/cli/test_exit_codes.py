"""How commands end that fail: their exit codes, and what they say."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from amp_export import cli
from tests.support.command_line import run


def test_parity_that_fails_is_exit_code_1_and_names_the_case(tiny_llama: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run("export", "--model", tiny_llama, "--output", out).exit_code == 0
    other = Path(shutil.copytree(tiny_llama, tmp_path / "other"))
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 0.01}))
    result = run("validate", out, "--reference", other)
    assert result.exit_code == 1
    assert "prefill of 17 tokens: largest error" in result.stderr
    assert json.loads((out / "amp_export.json").read_text())["verdicts"]["parity"]["holds"] is False


def damaged(change: Callable[[Path], object]) -> Callable[[Path, Path], list[str]]:
    def make(checkpoint: Path, scratch: Path) -> list[str]:
        folder = Path(shutil.copytree(checkpoint, scratch / "damaged"))
        change(folder)
        return ["--model", str(folder), "--ratio", "0.2"]

    return make


def with_file(name: str, content: str, *options: str) -> Callable[[Path, Path], list[str]]:
    def make(checkpoint: Path, scratch: Path) -> list[str]:
        (scratch / name).write_text(content)
        return ["--model", str(checkpoint), *(option.format(file=scratch / name) for option in options)]

    return make


def model_type(folder: Path, name: str) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": name}))


BAD_INPUTS: dict[str, tuple[Callable[[Path, Path], list[str]], str]] = {
    "no such model": (lambda *_: ["--model", "./absent", "--ratio", "0.2"], "No such model: ./absent"),
    "no config": (damaged(lambda folder: (folder / "config.json").unlink()), "no config.json"),
    "unsupported": (damaged(lambda folder: model_type(folder, "rwkv")), "no class for models of type 'rwkv'"),
    "no weights": (damaged(lambda folder: (folder / "model.safetensors").unlink()), "no weights"),
    "ratio 0": (lambda checkpoint, _: ["--model", str(checkpoint), "--ratio", "0"], "between 0 and 1"),
    "ratio 1": (lambda checkpoint, _: ["--model", str(checkpoint), "--ratio", "1"], "between 0 and 1"),
    "ratio no number": (
        lambda checkpoint, _: ["--model", str(checkpoint), "--ratio", "much"],
        "Invalid value for '--ratio'",
    ),
    "calibration empty": (with_file("c.txt", "", "--ratio", "0.2", "--calibration", "{file}"), "is empty"),
    "calibration malformed": (
        with_file("c.jsonl", '{"text": "good"}\n{"bad": 1}\n', "--ratio", "0.2", "--calibration", "{file}"),
        "line 2",
    ),
    "plan does not fit": (with_file("p.json", '{"layers": []}', "--plan", "{file}"), "0 layers, but the model has 3"),
    "ratio and plan": (with_file("p.json", "{}", "--plan", "{file}", "--ratio", "0.2"), "either a ratio or a plan"),
    "plan and its rules": (
        with_file("p.json", "{}", "--plan", "{file}", "--snap", "64", "--heads", "groups"),
        "--plan defines what each layer keeps, so that --heads, --snap would have no effect. Leave them out",
    ),
}


@pytest.mark.parametrize("case", BAD_INPUTS)
def test_bad_input_is_exit_code_2_and_leaves_the_output_untouched(case: str, tiny_llama: Path, tmp_path: Path) -> None:
    make, message = BAD_INPUTS[case]
    result = run("--to", "onnx", *make(tiny_llama, tmp_path), "--output", tmp_path / "out")
    assert result.exit_code == 2, result.output
    assert message in " ".join(result.stderr.split())
    assert "Traceback" not in result.output
    assert not (tmp_path / "out").exists()


def test_an_output_that_is_not_ours_is_exit_code_2(tiny_llama: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    result = run("--to", "onnx", "--model", tiny_llama, "--ratio", "0.2", "--output", tmp_path, "--overwrite")
    assert result.exit_code == 2
    assert "was not written by amp-export (it holds notes.txt)" in result.stderr
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (ImportError("_core.so: failed to map segment from shared object"), 2, "Memory ran out: _core.so"),
        (KeyError("option"), 70, "Unexpected KeyError: 'option'"),
    ],
)
def test_what_fails_before_a_command_starts_shows_no_stack_trace(
    error: Exception, code: int, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == code
    shown = capsys.readouterr().err
    assert said in shown
    assert "Traceback" not in shown


@pytest.mark.parametrize("unbuffered", ["", "1"], ids=["buffered", "unbuffered"])
def test_exit_codes_hold_where_messages_cannot_be_written(unbuffered: str, tmp_path: Path) -> None:
    arguments = ["prune", "--model", str(tmp_path / "missing"), "--ratio", "0.2", "--output", str(tmp_path / "out")]
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "amp_export", *arguments]
        result = subprocess.run(command, stderr=full, env=environment, check=False)
    assert result.returncode == 2


@pytest.mark.parametrize(
    ("arguments", "code"), [(["--version"], 0), (["prune", "--model", "./missing", "--ratio", "0.2"], 2)]
)
def test_exit_codes_hold_where_stderr_is_closed(arguments: list[str], code: int, tmp_path: Path) -> None:
    command = ["sh", "-c", 'exec "$0" "$@" 2>&-', sys.executable, "-m", "amp_export", *arguments]
    result = subprocess.run(command, stdout=subprocess.DEVNULL, cwd=tmp_path, check=False)
    assert result.returncode == code


def test_a_place_that_may_not_be_looked_at_is_exit_code_2(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbid(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", "out")

    monkeypatch.setattr("amp_export.exporters.onnx.export", forbid)
    result = run("export", "--model", tiny_llama, "--output", tmp_path / "out")
    assert result.exit_code == 2
    assert "Permission denied" in result.stderr


@pytest.mark.parametrize("debug", [None, "0", "1"])
def test_an_error_of_ours_says_what_was_being_done_and_shows_its_trace_when_asked(
    debug: str | None, tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("by [b]nothing[/b]")

    monkeypatch.setattr("amp_export.exporters.onnx.export", fail)
    if debug is not None:
        monkeypatch.setenv("AMP_EXPORT_DEBUG", debug)
    result = run("export", "--model", tiny_llama, "--output", tmp_path / "out")
    assert result.exit_code == 70, "1 means that parity fails"
    said = "Error: Unexpected ZeroDivisionError while exporting to onnx in float32: by [b]nothing[/b]\n"
    assert said in result.stderr
    assert ("Traceback" in result.stderr) == (debug == "1")
    assert "AMP_EXPORT_DEBUG=1" in result.stderr
    assert list(tmp_path.iterdir()) == [], "nothing is left"


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."),
        ImportError("libx.so: failed to map segment from shared object"),
    ],
)
def test_too_little_memory_is_told_as_such(
    error: Exception, tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("amp_export.exporters.onnx.export", fail)
    result = run("export", "--model", tiny_llama, "--output", tmp_path / "out")
    assert result.exit_code == 2
    assert "Error: Memory ran out while exporting to onnx in float32: " in result.stderr
    assert "smaller model" in result.stderr


def test_a_mistake_shows_the_trace_of_its_cause_when_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "Traceback" not in run("report", tmp_path / "absent").stderr
    monkeypatch.setenv("AMP_EXPORT_DEBUG", "1")
    result = run("report", tmp_path / "absent")
    assert result.exit_code == 2
    assert "Traceback" in result.stderr
