from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.main import get_command

import amp_export
from amp_export.api import convert as converting
from amp_export.cli import app
from amp_export.errors import RequestError
from amp_export.options import TargetName
from amp_export.verb_options import ConvertOptions
from tests.support.command_line import run
from tests.support.shared import Converted


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("prompts") / "prompts.txt"
    file.write_text("\n".join(f"Prompt number {number}" for number in range(10)))
    return file


COMMANDS = (
    *("doctor", "prune", "recover", "export", "validate", "benchmark", "evaluate", "generate", "bundle", "report"),
    *("compare", "sweep", "inspect", "draft"),
)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_shows_an_example(command: str) -> None:
    result = run(command, "--help")
    assert result.exit_code == 0
    assert f"  amp-export {command} " in result.output


def test_the_readme_lists_every_option_of_the_end_to_end_command() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    table = readme.partition("\n## Options\n")[2].partition("\n## ")[0]
    listed = set(re.findall(r"`(--[a-z-]+)`", "".join(re.findall(r"^\|([^|]*)\|", table, re.MULTILINE))))
    known = {name for parameter in get_command(app).params for name in (*parameter.opts, *parameter.secondary_opts)}
    ours = {name for name in known if name.startswith("--")} - {"--install-completion", "--show-completion"}
    assert listed | {"--to", "--help", "--version"} == ours | {"--to", "--help", "--version"}


def test_help_version_and_module_entry() -> None:
    assert run("--version").output == f"amp-export {amp_export.__version__}\n"
    result = run("--help")
    assert "--to onnx --model demo --ratio 0.1" in result.output
    module = subprocess.run([sys.executable, "-m", "amp_export", "--version"], capture_output=True, check=True)
    assert module.stdout.decode() == f"amp-export {amp_export.__version__}\n"


def test_without_arguments_there_is_help_and_options_alone_are_an_error() -> None:
    assert run().exit_code == 0
    assert run().output == run("--help").output
    result = run("--model", "demo")
    assert result.exit_code == 2
    assert "Missing option '--to'" in result.stderr


@pytest.mark.parametrize("arguments", [["--help"], *([command, "--help"] for command in COMMANDS)])
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys; from amp_export.cli import app; app(sys.argv[1:], standalone_mode=False);"
        "heavy = {'torch', 'transformers', 'onnx', 'onnxruntime', 'numpy', 'rich.table'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code, *arguments], check=True, stdout=subprocess.DEVNULL)


def test_doctor_says_that_a_config_alone_leaves_things_unchecked(tiny_llama: Path, tmp_path: Path) -> None:
    shutil.copy(tiny_llama / "config.json", tmp_path)
    shown = run("doctor", "--model", str(tmp_path), "--ratio", "0.2", "--snap", "1")
    assert (shown.exit_code, shown.stdout) == (0, "")
    assert "Ways to remove 20.0%" in shown.stderr
    assert "neither weights nor tokenizer were checked" in shown.stderr
    shown = run("doctor", "--model", str(tiny_llama), "--ratio", "0.2", "--snap", "1")
    assert "neither weights nor tokenizer" not in shown.stderr
    assert "LlamaForCausalLM" in shown.stderr


def test_doctor_names_the_nearest_legal_ratio(tiny_llama: Path) -> None:
    result = run("doctor", "--model", tiny_llama, "--ratio", "0.95")
    assert result.exit_code == 2
    assert "Error: Ratio 0.95 would leave a layer without heads or neurons." in result.stderr
    nearest = result.stderr.split("nearest legal ratio is ")[1].split()[0].rstrip(".")
    assert run("doctor", "--model", tiny_llama, "--ratio", nearest).exit_code == 0


@pytest.mark.slow
def test_the_steps_make_what_the_whole_way_makes(converted: Callable[[str], Converted], tmp_path: Path) -> None:
    whole, out = converted("llama"), tmp_path / "out"
    pruning = ["--ratio", "0.1", "--snap", "1", "--calibration", whole.checkpoint.parent / "prompts.txt"]
    assert run("prune", "--model", whole.checkpoint, *pruning, "--output", out).exit_code == 0
    assert run("export", "--model", out / "pruned", "--output", out).exit_code == 0
    assert (out / "scores.safetensors").is_file(), "an export into the same output keeps what is there"
    assert run("validate", out).exit_code == 0
    benchmarked = run("benchmark", out, "--rounds", "2", "--json")
    assert benchmarked.exit_code == 0, benchmarked.stderr
    stepwise = json.loads(benchmarked.stdout)

    report = whole.report
    assert report.keys() == stepwise.keys()
    assert report["pruning"]["widths"] == stepwise["pruning"]["widths"]
    assert report["quality"] == stepwise["quality"]
    assert report["parity"]["holds"]
    assert report["benchmarks"]["onnxruntime"]["rounds"] == 2
    for name in ("model.onnx", "model.onnx_data"):
        assert (whole.output / "onnx" / name).read_bytes() == (out / "onnx" / name).read_bytes()
    assert {entry.name for entry in whole.output.iterdir()} == {entry.name for entry in out.iterdir()}

    shown = run("report", out)
    assert shown.exit_code == 0
    assert "Parity holds in" in shown.stderr
    assert run("export", "--model", out / "pruned", "--output", out).exit_code == 2, "needs --overwrite"


def test_nothing_but_the_report_goes_to_stdout(tiny_llama: Path, tmp_path: Path) -> None:
    run("export", "--model", tiny_llama, "--output", tmp_path / "out")
    result = run("validate", tmp_path / "out", "--json")
    assert json.loads(result.stdout)["parity"]["holds"] is True


def test_without_a_terminal_there_are_no_colours_and_no_bars(tiny_llama: Path, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "amp_export",
        "export",
        "--model",
        str(tiny_llama),
        "--output",
        str(tmp_path / "o"),
    ]
    shown = subprocess.run(command, capture_output=True, check=True)
    assert b"\x1b" not in shown.stderr
    assert shown.stdout == b""


def test_a_missing_extra_prints_the_install_line(tiny_llama: Path, tmp_path: Path) -> None:
    (tmp_path / "blocker").mkdir()
    (tmp_path / "blocker" / "onnxruntime.py").write_text("raise ImportError('not installed')")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "blocker")}
    command = [sys.executable, "-m", "amp_export", "--to", "onnx", "--model", str(tiny_llama), "--output"]
    shown = subprocess.run(
        [*command, str(tmp_path / "o")], capture_output=True, text=True, check=False, env=environment
    )
    assert shown.returncode == 2
    assert 'pip install "amp-export[onnxruntime]"' in shown.stderr
    assert "Traceback" not in shown.stderr
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(("to", "taken"), [("tensorrt", TargetName.CPU), ("onnx", TargetName.ORIN_NANO)])
def test_a_target_beside_a_plan_is_the_engines(to: str, taken: TargetName, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[ConvertOptions] = []

    def convert(_model: str, _output: Path, options: ConvertOptions, **_: object) -> None:
        seen.append(options)
        raise RequestError("seen")

    monkeypatch.setattr(converting, "convert", convert)
    assert run("--to", to, "--model", "m", "--plan", "plan.json", "--target", "orin-nano").exit_code == 2
    assert seen[0].prune.target is taken
    assert seen[0].export.target is (TargetName.ORIN_NANO if to == "tensorrt" else None)
