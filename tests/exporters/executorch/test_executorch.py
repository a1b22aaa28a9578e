"""ExecuTorch programs compute what PyTorch computes, within the limits that they were made for."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from amp_export.api.benchmark import benchmark
from amp_export.api.validate import validate
from amp_export.architectures import LayerWidths
from amp_export.benchmarking import subjects as benchmark_subjects
from amp_export.benchmarking.runners import require
from amp_export.benchmarking.setup import Setup
from amp_export.checkpoints.hashing import hash_weights
from amp_export.checkpoints.loading import load_model
from amp_export.checkpoints.reading import open_checkpoint
from amp_export.errors import MissingExtraError, ModelError, OutputError, RequestError, UnsupportedModelError
from amp_export.exporters.dispatch import exported_bytes, run
from amp_export.exporters.executorch import ProgramFacts, export, read_facts
from amp_export.exporters.limits import Limits
from amp_export.exporters.models.decoder import GraphDecoder
from amp_export.exporting.settings import ExportSettings, choose_settings
from amp_export.options import Dtype, EngineRuntime, Format, Opset, Provider, Runtime, TargetName, Via
from amp_export.outputs.manifest import Manifest, PlanSummary, SourceRecord
from amp_export.parity.comparison import compare
from amp_export.progress import Silent
from amp_export.verb_options import BenchmarkOptions, ExportOptions, ValidateOptions
from tests.support.tiny_models import save_tiny_model, save_tiny_tokenizer

pytest.importorskip("executorch", reason="ExecuTorch is not installed")

LIMITS = Limits(max_batch=5, max_context=96)
SETUP = Setup(Runtime.EXECUTORCH, threads=1)


@dataclass(frozen=True)
class Exported:
    """A Llama that was pruned and exported through the command line.

    Attributes:
        output: The output directory.
        stdout: What was printed there.
        stderr: What was printed there.
    """

    output: Path
    stdout: str
    stderr: str

    @property
    def folder(self) -> Path:
        """Where the program lies."""
        return self.output / Format.EXECUTORCH


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """One for all tests, since it takes half a minute; nothing may change it."""
    folder = tmp_path_factory.mktemp("executorch")
    dense = open_checkpoint(save_tiny_model(folder / "dense", "llama", num_hidden_layers=1))
    pruned = save_tiny_model(folder / "out/pruned", "llama", num_hidden_layers=1, intermediate_size=29)
    save_tiny_tokenizer(pruned)
    source = SourceRecord("tiny", str(dense.path), hash_weights(dense))
    Manifest(source=source, config_before=dict(dense.raw_config)).save(folder / "out")
    command = [sys.executable, "-m", "amp_export", "export", "--to", "executorch", "--model", str(pruned)]
    command += ["--output", str(folder / "out"), "--max-batch", "5", "--max-context", "96"]
    told = subprocess.run(command, capture_output=True, text=True, check=True)
    return Exported(folder / "out", told.stdout, told.stderr)


@pytest.fixture
def decoder(exported: Exported) -> Iterator[GraphDecoder]:
    found = run(exported.folder, threads=1)
    assert isinstance(found, GraphDecoder)
    yield found
    found.close()


@pytest.fixture
def copied(exported: Exported, tmp_path: Path) -> Path:
    """The exported folder, to be changed."""
    return Path(shutil.copytree(exported.folder, tmp_path / "copied"))


def call(decoder: GraphDecoder, batch_size: int, new: int, past: Any = None) -> tuple[np.ndarray, Any]:
    length = past.length if past is not None else 0
    tokens = np.arange(batch_size * new, dtype=np.int64).reshape(batch_size, new) % 97 + 4
    positions = np.tile(np.arange(length, length + new), (batch_size, 1))
    return decoder.forward(tokens, np.ones((batch_size, length + new), np.int64), positions, past)


def test_the_command_line_writes_a_program_and_says_little(exported: Exported) -> None:
    assert exported.stdout == ""
    lines = exported.stderr.splitlines()
    assert lines[0] == "Exporting to executorch in float32, up to half a minute per layer"
    assert lines[1].startswith("Written: ")
    assert len(lines) == 2
    names = {file.name for file in exported.folder.iterdir()}
    assert names >= {"model.pte", "model.json", "config.json", "tokenizer.json"}
    assert exported_bytes(exported.folder) == (exported.folder / "model.pte").stat().st_size
    manifest = Manifest.load(exported.output)
    assert (manifest.exports, manifest.exporters) == ({"executorch": "float32"}, {"executorch": "trace"})


def test_parity_holds_in_every_case_within_the_limits(
    exported: Exported, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    output = Path(shutil.copytree(exported.output, tmp_path / "out"))
    capfd.readouterr()
    report = validate(output, ValidateOptions(to=Format.EXECUTORCH, threads=1))
    assert capfd.readouterr() == ("", ""), "loading and running are quiet"
    assert report.holds
    assert len(report.cases) == 7, "all but the one of 256 tokens"
    assert report.greedy is not None
    assert report.greedy.common == report.greedy.steps
    with pytest.raises(UnsupportedModelError, match="--explain works on ONNX graphs only"):
        validate(output, ValidateOptions(to=Format.EXECUTORCH, explain=True))


def test_later_calls_do_not_write_into_what_earlier_ones_returned(decoder: GraphDecoder) -> None:
    logits, past = call(decoder, 2, 7)
    kept_logits, kept = logits.copy(), {name: value.clone() for name, value in past.values.items()}
    first, _ = call(decoder, 2, 1, past)
    call(decoder, 2, 9)
    call(decoder, 5, 30)
    assert np.array_equal(logits, kept_logits)
    assert all(torch.equal(past.values[name], value) for name, value in kept.items())
    again, _ = call(decoder, 2, 1, past)
    assert np.array_equal(first, again)
    with pytest.raises(RequestError, match=r"could not compute .*\n.*a token that is not in the vocabulary"):
        decoder.forward(np.full((1, 1), 101), np.ones((1, 1), np.int64), np.zeros((1, 1), np.int64))


def test_the_limits_are_the_programs(decoder: GraphDecoder) -> None:
    assert (decoder.max_batch, decoder.max_context, decoder.threads) == (5, 96, 1)
    assert (decoder.num_layers, decoder.dtype) == (1, Dtype.FLOAT32)
    assert decoder.description.startswith("ExecuTorch 1.")
    _, past = call(decoder, 5, 96)
    with pytest.raises(RequestError, match=r"batch_size of up to 5, but got 6.\n.* larger --max-batch"):
        call(decoder, 6, 1)
    with pytest.raises(RequestError, match=r"sequence_length of up to 96, but got 97.\n.* larger --max-context"):
        call(decoder, 1, 97)
    with pytest.raises(RequestError, match="total_sequence_length of up to 96, but got 97"):
        call(decoder, 5, 1, past)
    _, past = call(decoder, 2, 6)
    # as many elements as fit, which is all that the runtime looks at
    with pytest.raises(
        RequestError, match=r"takes past_key_values.0.key of shape \[batch_size = 3, 2, .*got \[2, 2, 6, 8\]"
    ):
        call(decoder, 3, 1, past)


def test_a_closed_decoder_says_so(exported: Exported) -> None:
    decoder = run(exported.folder, threads=1)
    decoder.close()
    assert isinstance(decoder, GraphDecoder)
    with pytest.raises(ValueError, match="This decoder is closed"):
        call(decoder, 1, 1)


def test_threads_are_not_taken_from_a_program_that_is_loaded(exported: Exported) -> None:
    decoder = run(exported.folder, threads=1)
    with pytest.raises(RequestError, match=r"2 threads were requested, but a program .* has 1"):
        run(exported.folder, threads=2)
    decoder.close()
    other = run(exported.folder, threads=2)
    assert other.threads == 2
    other.close()


def test_facts_are_read_as_they_were_written(exported: Exported, tmp_path: Path) -> None:
    facts = read_facts(exported.folder)
    assert facts.limits == LIMITS
    assert facts.dtype is Dtype.FLOAT32
    assert facts.sizes == {
        "batch_size": 5,
        "sequence_length": 96,
        "total_sequence_length": 96,
        "past_sequence_length": 96,
    }
    assert facts.inputs["past_key_values.0.key"].axes == ("batch_size", 2, "past_sequence_length", 8)
    assert list(facts.outputs) == ["logits", "present.0.key", "present.0.value"]
    assert facts.outputs["logits"].axes == ("batch_size", "sequence_length", 101)
    facts.save(tmp_path / "model.pte")
    assert ProgramFacts.load(tmp_path / "model.pte") == facts


def test_a_damaged_program_is_refused_quietly(copied: Path, capfd: pytest.CaptureFixture[str]) -> None:
    program = copied / "model.pte"
    content = program.read_bytes()
    for damaged in (content[: len(content) // 2], b"", b"not a program" * 100):
        program.write_bytes(damaged)
        with pytest.raises(ModelError, match=r"ExecuTorch cannot load .*model.pte.*\nExport it again"):
            run(copied, threads=1)
    assert capfd.readouterr() == ("", "")


def test_missing_or_wrong_facts_are_refused(copied: Path) -> None:
    facts = copied / "model.json"
    content = json.loads(facts.read_text())
    del content["inputs"]["input_ids"]
    facts.write_text(json.dumps(content))
    with pytest.raises(ModelError, match="has 5 inputs and 3 outputs, but its JSON file describes 4 and 3"):
        run(copied, threads=1)
    facts.write_text("{}")
    with pytest.raises(ModelError, match=r"model.json: executorch is missing"):
        run(copied, threads=1)
    facts.unlink()
    with pytest.raises(ModelError, match=r"model.pte needs model.json next to it"):
        run(copied, threads=1)
    (copied / "model.pte").rename(copied / "decoder_model.pte")
    with pytest.raises(ModelError, match=r"holds no model.pte"):
        run(copied, threads=1)


def test_a_provider_is_not_for_programs(exported: Exported) -> None:
    with pytest.raises(RequestError, match="--provider applies to ONNX Runtime only"):
        run(exported.folder, provider=Provider.CUDA)


def test_settings_are_chosen_for_the_model(exported: Exported) -> None:
    checkpoint = open_checkpoint(exported.output / "pruned")

    def choose(options: ExportOptions | None = None) -> ExportSettings:
        return choose_settings(checkpoint, replace(options or ExportOptions(), to=Format.EXECUTORCH))

    chosen = choose()
    assert (chosen.dtype, chosen.via, chosen.limits) == (Dtype.FLOAT32, Via.TRACE, Limits(1, 128))
    assert choose(ExportOptions(max_batch=3, max_context=7)).limits == Limits(3, 7)
    for engine in (ExportOptions(target=TargetName.L4), ExportOptions(runtime=EngineRuntime.TENSORRT)):
        with pytest.raises(RequestError, match="--target and --runtime apply to TensorRT only"):
            choose(engine)
    with pytest.raises(RequestError, match="model's context is 128 tokens long"):
        choose(ExportOptions(max_context=129))
    with pytest.raises(RequestError, match="always traced and have no ONNX operators"):
        choose(ExportOptions(via=Via.DIRECT))
    with pytest.raises(RequestError, match="always traced and have no ONNX operators"):
        choose(ExportOptions(opset=Opset.OPSET_20))


def test_its_absence_is_said_before_any_work(exported: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "executorch", None)
    with pytest.raises(MissingExtraError, match=r"amp-export\[executorch\]"):
        require(SETUP)
    with pytest.raises(MissingExtraError, match=r"amp-export\[executorch\]"):
        run(exported.folder)


def test_the_dense_model_gets_the_same_limits(
    exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[ExportSettings] = []

    def export_as(folder: Path, checkpoint: Any, settings: ExportSettings, **_: Any) -> Any:
        asked.append(settings)
        raise OutputError("stopped")

    output = Path(shutil.copytree(exported.output, tmp_path / "out"))
    widths = LayerWidths(4, 2, 48)
    plan = PlanSummary(0.2, 0.2, parameters_before=2, parameters_after=1, widths_before=widths, widths=(widths,))
    replace(Manifest.load(output), plan=plan).save(output)
    monkeypatch.setattr(benchmark_subjects, "export_as", export_as)
    with pytest.raises(OutputError, match="stopped"):
        benchmark(output, BenchmarkOptions(runtime=Runtime.EXECUTORCH, threads=1))
    assert asked[0].format is Format.EXECUTORCH
    assert asked[0].limits == LIMITS
    for workloads, said in (
        ({"batch": (1, 6)}, r"batch of 6 does not fit an export made for batches of up to 5"),
        ({"context": (90,)}, r"prompt of 90 tokens and 16 after it does not fit into a context of 96"),
    ):
        with pytest.raises(RequestError, match=said):
            benchmark(output, BenchmarkOptions(runtime=Runtime.EXECUTORCH, threads=1, **workloads))
    assert len(asked) == 1


def test_an_encoder_keeps_parity(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    checkpoint = save_tiny_model(tmp_path / "checkpoint", "vit", num_hidden_layers=1)
    model = load_model(checkpoint, dtype=torch.float32)
    settings = logging.root.manager.disable, sys.stdout, list(logging.root.handlers)
    steps: list[tuple[int, int]] = []
    capfd.readouterr()
    made = export(
        model,
        tmp_path / "made",
        dtype=Dtype.FLOAT32,
        limits=Limits(max_batch=3, max_context=64),
        on_progress=lambda *step: steps.append(step),
    )
    assert capfd.readouterr() == ("", "")
    assert settings == (logging.root.manager.disable, sys.stdout, list(logging.root.handlers))
    assert steps == [(0, 1), (1, 1)]
    report = compare(checkpoint, made.folder, threads=1, progress=Silent())
    assert report.holds
    assert [case.name for case in report.cases] == ["1 image", "batch of 3 images"]
    with pytest.raises(OutputError, match="not an empty folder"):
        export(model, made.folder, dtype=Dtype.FLOAT32, limits=LIMITS)
