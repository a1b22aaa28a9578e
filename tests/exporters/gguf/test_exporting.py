"""What a GGUF file cannot express is refused, and the steps go through the command line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from amp_export.architectures import supported_model_types
from amp_export.checkpoints.reading import open_checkpoint
from amp_export.cli import app
from amp_export.errors import ModelError, RequestError, UnsupportedModelError
from amp_export.exporters.gguf import export
from amp_export.exporters.gguf.blocks import F32, check_rows
from amp_export.exporting.gguf import check_plan
from amp_export.exporting.quantized import fit_blocks
from amp_export.options import Dtype, Format, WeightFormat
from amp_export.outputs.manifest import Manifest
from amp_export.outputs.names import PRUNED
from amp_export.verb_options import ExportOptions, PruneOptions
from tests.support.gguf_models import LLAMA3, ROUTED, WHOLE_BLOCKS, YARN, load, save
from tests.support.tiny_models import save_tiny_output, save_tiny_samples
from tests.support.tiny_tokenizers import byte_level, save_tokenizer

pytest.importorskip("gguf", reason="gguf is not installed")
pytest.importorskip("xllamacpp", reason="xllamacpp is not installed")


pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("model_type", "fields", "message"),
    [
        (
            "opt",
            {},
            r"no architecture that is known to compute a opt .*\nFamilies that have one: .*gemma, .*onnx",
        ),
        ("llama", {"hidden_act": "gelu"}, "its activation function is silu, and config.json says gelu"),
        ("qwen3", {"attention_bias": True}, "it reads no biases of the attention's output"),
        ("qwen3_moe", {"norm_topk_prob": False}, "norm_topk_prob True, and config.json says False"),
        (
            "gemma2",
            {"tie_word_embeddings": False},
            "its LM head is the embedding, and this model has a head of its own",
        ),
        ("smollm3", {"no_rope_layers": [1, 0, 1, 1, 1]}, "it rotates queries and keys in all layers but each 4th"),
        ("qwen3", {"rope_parameters": LLAMA3}, "of the types default, linear, yarn, and config.json says llama3"),
        (
            "granitemoehybrid",
            {"mamba_expand": 3},
            "2 times as wide as the hidden size of 32, and here it has 2 heads of 48",
        ),
        ("granitemoehybrid", {"mamba_proj_bias": True}, "computes with mamba_proj_bias False"),
        ("falcon_h1", {"projectors_bias": True}, "computes with projectors_bias False"),
        ("falcon_h1", {"attention_bias": True}, "it reads no biases of the attention's output"),
        ("falcon_h1", {"mamba_norm_before_gate": True}, "precedes the norm, and .* says mamba_norm_before_gate True"),
        (
            "granitemoehybrid",
            {"time_step_limit": [0.0, 0.5]},
            r"limits no steps, and time_step_limit in .* is \[0.0, 0.5\]",
        ),
        ("llama", {"rope_parameters": {**YARN, "attention_factor": 2.0}}, "config.json sets attention_factor"),
    ],
)
def test_what_llama_cpp_computes_otherwise_is_refused(
    model_type: str, fields: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UnsupportedModelError, match=message):
        export(open_checkpoint(save(tmp_path, model_type, **fields)), tmp_path / "gguf")
    assert not (tmp_path / "gguf").exists()


def test_every_routed_family_is_known(tmp_path: Path) -> None:
    assert set(ROUTED) <= set(supported_model_types())
    assert len(ROUTED) == 15


def test_a_plan_that_may_remove_heads_is_refused_before_pruning(tmp_path: Path) -> None:
    config = open_checkpoint(save(tmp_path, "lfm2")).config
    check_plan(config, Format.GGUF, differ=False, fewer_heads=False)
    check_plan(config, Format.ONNX, differ=True, fewer_heads=True)
    with pytest.raises(UnsupportedModelError, match=r"only with all its query heads\.\nGive --heads none"):
        check_plan(config, Format.GGUF, differ=False, fewer_heads=True)


def test_texts_end_at_a_window_that_llama_cpp_does_not_know(tmp_path: Path) -> None:
    made = export(open_checkpoint(save(tmp_path, "mistral", sliding_window=100)), tmp_path / "gguf")
    assert "up to 100 tokens: the model's sliding window" in made.notes[0]
    decoder, ids = load(tmp_path / "gguf"), np.zeros((1, 101), np.int64)
    with pytest.raises(RequestError, match="has a context of 100"):
        decoder.forward(ids, np.ones_like(ids), np.arange(101)[None])


def test_rows_that_no_block_divides_are_refused(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(save(tmp_path, "llama"))
    with pytest.raises(RequestError, match=r"the rows of blk\.0\.ffn_down\.weight have 48.\nPrune with --snap 32"):
        export(checkpoint, tmp_path / "gguf", weights=WeightFormat.Q8_0)
    check_rows("a norm", (48,), F32)


def test_weights_too_large_for_float16_are_refused(tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    checkpoint = save(tmp_path, "llama")
    arrays = load_file(checkpoint / "model.safetensors")
    arrays["lm_head.weight"][0, 0] = 1e6
    save_file(arrays, checkpoint / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"1e\+06 does not fit float16"):
        export(open_checkpoint(checkpoint), tmp_path / "gguf", dtype=Dtype.FLOAT16)


def test_pruning_keeps_whole_blocks() -> None:
    fitted = fit_blocks(PruneOptions(), ExportOptions(to=Format.GGUF, weights=WeightFormat.Q8_0))
    assert fitted.snap == 32
    with pytest.raises(RequestError, match="blocks of 32 weights do not divide"):
        fit_blocks(PruneOptions(snap=16), ExportOptions(to=Format.GGUF, weights=WeightFormat.Q4_0))


def test_a_plan_without_a_route_is_refused_before_pruning(tmp_path: Path) -> None:
    checkpoint = save(tmp_path, "smollm3")
    command = ["--to", "gguf", "--model", checkpoint, "--ratio", "0.1", "--snap", "1", "--neurons-per-layer", "global"]
    refused = call(*command, "--output", tmp_path / "out", "--calibration", save_tiny_samples(checkpoint))
    assert refused.exit_code == 2
    assert "llama.cpp's smollm3 has one width for all layers.\nPrune it with --one-width" in refused.stderr
    assert not (tmp_path / "out").exists()


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_options_of_other_formats_are_refused(tmp_path: Path) -> None:
    checkpoint = save(tmp_path, "llama", **WHOLE_BLOCKS)
    base = ("export", "--to", "gguf", "--model", checkpoint, "--output", tmp_path / "out")
    for options, message in (
        (("--opset", "20"), "--opset would have no effect with --to gguf"),
        (("--weights", "int4"), "GGUF files have blocks of their own.\nGive one of q8_0, q4_0, q4_1."),
        (("--weights", "q8_0", "--dtype", "float16"), "both say how a GGUF file stores weights"),
    ):
        refused = call(*base, *options)
        assert refused.exit_code == 2
        assert message in refused.stderr
    other = call("export", "--to", "onnx", "--weights", "q8_0", "--model", checkpoint, "--output", tmp_path / "out")
    assert other.exit_code == 2
    assert "are blocks of GGUF files, not of --to onnx" in other.stderr


def test_the_steps_go_through_the_command_line(tmp_path: Path) -> None:
    output = save_tiny_output(tmp_path)
    # its tokenizer has no counterpart in llama.cpp
    refused = call("export", "--to", "gguf", "--model", output / PRUNED, "--output", output)
    assert refused.exit_code == 2
    assert "of the type WordLevel, and only BPE is written to GGUF files" in refused.stderr

    copy = Path(shutil.copytree(output / PRUNED, tmp_path / "bare"))
    for file in copy.glob("*token*"):
        file.unlink()
    made = tmp_path / "made"
    exported = call("export", "--to", "gguf", "--model", copy, "--output", made)
    assert exported.exit_code == 0, exported.stderr
    assert "llama.cpp's architecture llama" in exported.stderr
    validated = call("validate", made, "--to", "gguf", "--threads", "1", "--json")
    assert validated.exit_code == 0, validated.stderr
    assert json.loads(validated.stdout)["parity"]["defaults"]["positions"] > 100
    explained = call("validate", made, "--to", "gguf", "--explain")
    assert explained.exit_code == 2

    dense = tmp_path / "dense"
    call("export", "--to", "gguf", "--model", copy, "--output", dense)
    measured = call(
        *("benchmark", made, "--runtime", "llama.cpp", "--against", dense, "--rounds", "4", "--threads", "1", "--json")
    )
    assert measured.exit_code == 0, measured.stderr
    [benchmark] = json.loads(measured.stdout)["benchmarks"].values()
    assert benchmark["name"] == "llama.cpp"
    assert benchmark["runtime"].startswith("llama.cpp of xllamacpp")
    assert benchmark["roofline"]["allowed_gain"] == pytest.approx(1.0)
    assert Manifest.load(made).exports == {Format.GGUF: Dtype.FLOAT32}


def test_texts_are_generated_as_in_pytorch(tmp_path: Path) -> None:
    tokenizer = byte_level()
    checkpoint = save(tmp_path, "llama", vocab_size=tokenizer.get_vocab_size(), bos_token_id=1, eos_token_id=2)
    save_tokenizer(tokenizer, checkpoint)
    made = tmp_path / "made"
    assert call("export", "--to", "gguf", "--model", checkpoint, "--output", made).exit_code == 0
    prompts = ("-p", "The capital of France is", "-p", "It's", "--new-tokens", "12", "--json")
    texts = []
    for options in (("--to", "gguf", "--threads", "1"), ()):
        result = call("generate", made, *options, *prompts)
        assert result.exit_code == 0, result.stderr
        texts.append([each["text"] for each in json.loads(result.stdout)["model"]["texts"]])
    assert texts[0] == texts[1]
    measured = call(
        *("benchmark", made, "--runtime", "llama.cpp", "--against", made, "--rounds", "4", "--threads", "1", "--json"),
        *("--batch", "2", "--context", "20", "--generate", "3"),
    )
    assert measured.exit_code == 0, measured.stderr
    [benchmark] = json.loads(measured.stdout)["benchmarks"].values()
    assert (benchmark["batch_size"], benchmark["prompt_tokens"]) == (2, 20)
