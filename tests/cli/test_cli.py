from __future__ import annotations

import enum
import json
import os
import re
import shutil
import subprocess
import sys
import typing
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner, Result

import amp_export
from amp_export import cli, verb_options
from amp_export.api import convert as converting
from amp_export.cli import app
from amp_export.errors import RequestError
from amp_export.options import TargetName
from amp_export.verb_options import ConvertOptions
from tests.support.shared import Converted

runner = CliRunner()


def run(*arguments: str | Path) -> Result:
    return runner.invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("prompts") / "prompts.txt"
    file.write_text("\n".join(f"Prompt number {number}" for number in range(10)))
    return file


COMMANDS = (
    *("doctor", "prune", "recover", "export", "validate", "benchmark", "evaluate", "generate", "bundle", "report"),
    *("compare", "sweep", "inspect", "draft"),
)


def test_the_public_names_are_these() -> None:
    assert sorted(amp_export.__all__) == [
        "Allocation",
        "AmpExportError",
        "BenchmarkDevice",
        "BenchmarkOptions",
        "BenchmarkReport",
        "BundleOptions",
        "BundleResult",
        "CompareOptions",
        "ConvertOptions",
        "CriterionName",
        "DeviceOptions",
        "DeviceRuntime",
        "Diagnosis",
        "DoctorOptions",
        "DraftMeasurement",
        "DraftOptions",
        "Drafted",
        "Dtype",
        "EngineRuntime",
        "EvaluateOptions",
        "Evaluation",
        "ExportOptions",
        "ExportResult",
        "Format",
        "GenerateOptions",
        "Generation",
        "HeadPolicy",
        "InspectOptions",
        "Inspection",
        "LayerPlan",
        "Layout",
        "Logits",
        "Operators",
        "Opset",
        "ParityReport",
        "PerLayer",
        "Plan",
        "PlanChoices",
        "Point",
        "PointResult",
        "PointTable",
        "Provider",
        "PruneOptions",
        "PruneResult",
        "RecoverOptions",
        "Recovered",
        "RecoveryMethod",
        "Report",
        "RoundingMethod",
        "Runtime",
        "Setup",
        "Sweep",
        "SweepOptions",
        "TargetName",
        "Uniform",
        "ValidateOptions",
        "Via",
        "WeightFormat",
        "__version__",
        "benchmark",
        "benchmark_on_device",
        "bundle",
        "compare",
        "convert",
        "diagnose",
        "draft",
        "evaluate",
        "export",
        "generate",
        "inspect",
        "prune",
        "recover",
        "register",
        "sweep",
        "validate",
    ]
    for name in amp_export.__all__:
        assert getattr(amp_export, name) is not None
    with pytest.raises(AttributeError, match="attribute absent"):
        _ = amp_export.absent


def test_the_choices_of_every_option_are_public() -> None:
    kinds = [typing.get_type_hints(getattr(verb_options, name)) for name in verb_options.__all__]
    of_options = [kind for hints in kinds for hint in hints.values() for kind in (hint, *typing.get_args(hint))]
    chosen = {kind.__name__ for kind in of_options if isinstance(kind, enum.EnumType)}
    assert {"Format", "TargetName", "CriterionName"} < chosen <= set(amp_export.__all__)


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
