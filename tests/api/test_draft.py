"""Dense and pruned model as target and draft of speculative decoding."""

from __future__ import annotations

import importlib.util
import json
import shutil
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from amp_export import DraftOptions, draft, export
from amp_export.benchmarking.drafting.llama_cpp import LlamaPair
from amp_export.benchmarking.drafting.measuring import measure_draft
from amp_export.benchmarking.drafting.results import DraftedText, DraftMeasurement
from amp_export.checkpoints.reading import open_checkpoint
from amp_export.cli import app
from amp_export.errors import ModelError, OutputError, RequestError
from amp_export.exporters.models.generation import generate_greedily
from amp_export.exporting.drafting import check_tokenizers, prepare_pair, write_pair
from amp_export.options import Format, WeightFormat
from amp_export.outputs.manifest import Manifest
from amp_export.progress import Silent
from tests.support.tiny_models import save_tiny_model, save_tiny_output, save_tiny_tokenizer
from tests.support.tiny_tokenizers import byte_level, save_tokenizer
from tests.support.transformers_js import generated_here

NOT_MEASURED = DraftOptions(measure=False)
PROMPTS = [[17, 4, 99, 31, 8, 54, 23], [60, 61, 5], [9, 8]]

needs_genai = pytest.mark.skipif(
    importlib.util.find_spec("onnxruntime_genai") is None, reason="onnxruntime-genai is not installed"
)

needs_llama_cpp = pytest.mark.skipif(
    None in map(importlib.util.find_spec, ("gguf", "xllamacpp")), reason="gguf or xllamacpp is not installed"
)


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """An output with a pruned Llama, without exports."""
    return save_tiny_output(tmp_path)


def test_both_models_are_in_one_folder(output: Path) -> None:
    made = draft(output, DraftOptions(measure=False, draft_tokens=3))
    content = json.loads((made.folder / "genai_config.json").read_text())
    assert content["speculative"] == {"max_draft_tokens": 3}
    assert content["model"]["decoder"]["filename"] == "dense/model.onnx"
    assert content["model"]["draft"]["filename"] == "pruned/model.onnx"
    assert (made.folder / "tokenizer.json").read_bytes() == (output / "pruned/tokenizer.json").read_bytes()
    Manifest.load(output).verify(output)
    assert "draft/genai_config.json" in Manifest.load(output).files
    assert made.measurement is None


@needs_genai
def test_texts_are_those_of_the_dense_model(output: Path) -> None:
    folder = draft(output, NOT_MEASURED).folder
    found = measure_draft(folder, PROMPTS, new_tokens=20, draft_tokens=4, threads=1)
    assert found.same
    assert [text.first_difference for text in found.texts] == [None] * 3
    assert all(0 <= text.accepted <= text.drafted for text in found.texts)
    # a pass gives what was accepted, and one token more
    assert all(text.accepted + text.rounds >= 20 for text in found.texts)


@needs_genai
def test_a_draft_that_is_the_dense_model_is_always_accepted(output: Path) -> None:
    folder = draft(output, NOT_MEASURED).folder
    for name in ("model.onnx", "model.onnx_data"):
        shutil.copy(folder / "dense" / name, folder / "pruned" / name)
    found = measure_draft(folder, PROMPTS, new_tokens=20, draft_tokens=4, threads=1)
    assert found.acceptance == 1
    assert found.tokens_per_pass > 3


@needs_genai
def test_texts_are_those_of_our_own_runner(output: Path) -> None:
    import onnxruntime_genai as genai

    folder = draft(output, NOT_MEASURED).folder
    parameters = genai.GeneratorParams(model := genai.Model(str(folder)))
    parameters.set_search_options(min_length=27, max_length=27, do_sample=False)
    generator = genai.Generator(model, parameters)
    generator.append_tokens(np.array(PROMPTS[:1], np.int32))
    while not generator.is_done():
        generator.generate_next_token()
    here = generated_here(folder / "dense", PROMPTS[:1], new_tokens=20, ends=set())[0]
    assert generator.get_sequence(0)[7:].tolist() == here


@needs_genai
def test_the_command_measures_and_says_so(output: Path) -> None:
    command = ["draft", output, "--texts", 2, "--new-tokens", 8, "--threads", 1]
    result = CliRunner().invoke(app, [str(each) for each in command])
    assert result.exit_code == 0, result.stderr
    assert "All texts are those of the dense model alone." in result.stderr
    kept = json.loads((output / "draft/measurement.json").read_text())
    assert [text["tokens"] for text in kept["texts"]] == [8, 8]
    again = CliRunner().invoke(app, [str(each) for each in command])
    assert again.exit_code == 2
    assert "exists already" in again.stderr


def two_files(tmp_path: Path, options: DraftOptions) -> Path:
    """Write a dense and a narrower Llama for llama.cpp."""
    models = {}
    for name, neurons in (("dense", 64), ("pruned", 32)):
        folder = save_tiny_model(tmp_path / name, "llama", vocab_size=512, intermediate_size=neurons)
        save_tokenizer(byte_level(), folder)
        models[name] = open_checkpoint(folder)
    folder = tmp_path / "draft"
    write_pair(folder, prepare_pair(models["dense"], models["pruned"], options), options, progress=Silent())
    return folder


@pytest.mark.skipif(importlib.util.find_spec("gguf") is None, reason="gguf is not installed")
def test_two_files_for_llama_cpp(tmp_path: Path) -> None:
    folder = two_files(tmp_path, DraftOptions(to=Format.GGUF, weights=WeightFormat.Q8_0))
    assert sorted(file.name for file in folder.iterdir()) == ["dense.gguf", "pruned.gguf"]
    assert (folder / "pruned.gguf").stat().st_size < (folder / "dense.gguf").stat().st_size


@needs_llama_cpp
def test_texts_of_llama_cpp_are_those_of_its_dense_model(tmp_path: Path) -> None:
    from amp_export.exporters.gguf import run

    folder = two_files(tmp_path, DraftOptions(to=Format.GGUF))
    found = measure_draft(folder, PROMPTS, new_tokens=20, draft_tokens=3, threads=1)
    assert found.same
    assert "xllamacpp" in found.runtime
    assert all(0 <= text.accepted <= text.drafted for text in found.texts)
    assert all(text.accepted + text.rounds == text.tokens == 20 for text in found.texts)
    decoder = run(folder / "dense.gguf", threads=1)
    # the server takes llama.cpp's log, by which it is known what a context has
    pair = LlamaPair(folder, threads=1, draft_tokens=3, context=64)
    for prompt in PROMPTS:
        here = list(islice(generate_greedily(decoder.forward, np.array([prompt])), 20))
        assert list(pair.generate_drafted(prompt, 20).tokens) == here


@needs_llama_cpp
def test_a_draft_that_is_the_dense_file_is_always_accepted(tmp_path: Path) -> None:
    folder = two_files(tmp_path, DraftOptions(to=Format.GGUF))
    shutil.copy(folder / "dense.gguf", folder / "pruned.gguf")
    found = measure_draft(folder, PROMPTS, new_tokens=20, draft_tokens=4, threads=1)
    assert found.acceptance == 1
    assert found.tokens_per_pass > 3


@needs_llama_cpp
def test_a_file_that_llama_cpp_cannot_open_is_refused(tmp_path: Path) -> None:
    folder = two_files(tmp_path, DraftOptions(to=Format.GGUF))
    (folder / "pruned.gguf").write_bytes(b"GGUF")
    with pytest.raises(ModelError, match="Leave the measurement out with --no-measure"):
        LlamaPair(folder, threads=1, draft_tokens=3, context=64)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (DraftOptions(to=Format.TENSORRT), "No runtime of --to tensorrt decodes with a draft"),
        (DraftOptions(draft_tokens=17), "--draft-tokens 17 is out of range"),
        (DraftOptions(texts=0), "at least 1 of each"),
        (DraftOptions(weights=WeightFormat.Q8_0), "are blocks of GGUF files"),
    ],
)
def test_options_out_of_range_are_refused(output: Path, options: DraftOptions, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        draft(output, options)
    assert not (output / "draft").exists()


def test_what_is_not_pruned_has_no_draft(output: Path, tmp_path: Path) -> None:
    export(output / "pruned", tmp_path / "other")
    with pytest.raises(OutputError, match="holds no pruned checkpoint to draft with"):
        draft(tmp_path / "other", NOT_MEASURED)


def test_the_dense_model_must_be_there(output: Path, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "checkpoint")
    with pytest.raises(OutputError, match="no longer exists"):
        draft(output, NOT_MEASURED)


def test_another_tokenizer_is_refused(output: Path, tmp_path: Path) -> None:
    file = output / "pruned/tokenizer.json"
    content = json.loads(file.read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    file.write_text(json.dumps(content))
    with pytest.raises(ModelError, match="other tokens, other ids for the same text"):
        check_tokenizers(open_checkpoint(tmp_path / "checkpoint"), open_checkpoint(output / "pruned"))
    save_tiny_tokenizer(output / "pruned")
    check_tokenizers(open_checkpoint(tmp_path / "checkpoint"), open_checkpoint(output / "pruned"))


def test_statistics_are_over_texts() -> None:
    texts = [DraftedText(5, 60, 60, 45, 20, 2.0, 1.0), DraftedText(5, 60, 60, 15, 40, 1.0, 2.0)]
    found = DraftMeasurement.of("a runtime", texts)
    assert found.acceptance == pytest.approx(0.5)
    assert found.tokens_per_pass == pytest.approx(2.0)
    assert found.speedup == pytest.approx(1.0)
    assert found.interval[0] < 1 < found.interval[1]
    assert found.same


@pytest.mark.parametrize(("tie", "same"), [(0.001, True), (0.5, False)])
def test_only_near_ties_may_differ(tie: float, same: bool) -> None:
    text = DraftedText(5, 60, 60, 45, 20, 2.0, 1.0, first_difference=3, tie=tie)
    assert DraftMeasurement.of("a runtime", [text]).same is same
