from __future__ import annotations

import os
import subprocess
import sys
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

import pytest

from amp_export.api import convert as converting
from amp_export.errors import RequestError
from amp_export.options import Format
from amp_export.verb_options import ConvertOptions

PROGRAM = Path(sys.executable).with_name("optimum-cli")
pytestmark = pytest.mark.skipif(not PROGRAM.exists(), reason="optimum is not installed")


def optimum_cli(*words: str | Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Runs the real command of optimum."""
    command = [str(PROGRAM), *map(str, words)]
    done = subprocess.run(command, env={**os.environ, "NO_COLOR": "1"}, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    return done


def test_optimum_lists_the_command_and_loads_nothing_for_it() -> None:
    assert "Prune a transformer with AMP" in optimum_cli("export", "--help").stdout
    code = (
        "import sys; sys.argv[1:] = ['export', '--help']; from optimum.commands.optimum_cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'typer', 'onnx'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_its_help_is_that_of_this_project() -> None:
    shown = optimum_cli("export", "amp", "--help").stdout
    assert shown.startswith("Usage: optimum-cli export amp [OPTIONS]")
    assert "--neurons-per-layer" in shown


@pytest.mark.slow
def test_it_runs_the_command_line_with_its_exit_codes(tiny_llama: Path, tmp_path: Path) -> None:
    # exports a real model in a process of optimum's
    optimum_cli("export", "amp", "export", "--model", tiny_llama, "-o", tmp_path / "out")
    assert (tmp_path / "out/onnx/model.onnx").is_file()
    refused = optimum_cli("export", "amp", "--model", tmp_path / "absent", "--ratio=0.1", "-o", tmp_path / "o", code=2)
    assert refused.stderr.startswith("Error:")
    assert "Traceback" not in refused.stderr


@pytest.mark.parametrize(("words", "to"), [([], Format.ONNX), (["--to=tensorrt"], Format.TENSORRT)])
def test_every_word_arrives_and_onnx_is_what_it_exports_to(
    monkeypatch: pytest.MonkeyPatch, words: list[str], to: Format
) -> None:
    from amp_export.integrations.optimum import AmpExportCommand

    found: dict[str, Any] = {}

    def convert(model: str, output: Path, options: ConvertOptions, **arguments: Any) -> None:
        found.update(arguments, model=model, output=output, options=options)
        raise RequestError("Nothing is to be done.")

    monkeypatch.setattr(converting, "convert", convert)
    parser = ArgumentParser()
    command = AmpExportCommand(parser.add_subparsers())
    parsed = parser.parse_args(["amp", "-m", "mine", "--ratio", "0.2", "-o", "there", "--overwrite", *words])
    command.args = parsed
    with pytest.raises(SystemExit) as left:
        command.run()
    assert left.value.code == 2
    options: ConvertOptions = found["options"]
    assert (found["model"], options.prune.ratio, found["output"], options.export.to) == ("mine", 0.2, Path("there"), to)
    assert found["overwrite"]
