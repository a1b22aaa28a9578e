"""What `ci/bench/real_models.py` prepares and measures itself: a conversion without loss, word errors, reactions."""

from __future__ import annotations

import re
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support import PROJECT
from tests.support.tiny_models import save_tiny_model


@pytest.fixture(scope="module", autouse=True)
def scripts() -> Any:
    sys.path.insert(0, str(PROJECT / "ci"))
    yield
    sys.path.remove(str(PROJECT / "ci"))


JOINED = {
    "self_attn.q_proj": None,
    "self_attn.k_proj": None,
    "self_attn.v_proj": ("self_attention/linear_0", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")),
    "self_attn.out_proj": ("self_attention/linear_1", ("self_attn.out_proj",)),
    "encoder_attn.q_proj": ("attention/linear_0", ("encoder_attn.q_proj",)),
    "encoder_attn.k_proj": None,
    "encoder_attn.v_proj": ("attention/linear_1", ("encoder_attn.k_proj", "encoder_attn.v_proj")),
    "encoder_attn.out_proj": ("attention/linear_2", ("encoder_attn.out_proj",)),
    "fc1": ("ffn/linear_0", ("fc1",)),
    "fc2": ("ffn/linear_1", ("fc2",)),
}

OTHERS = {
    "self_attn_layer_norm": "self_attention/layer_norm",
    "encoder_attn_layer_norm": "attention/layer_norm",
    "final_layer_norm": "ffn/layer_norm",
    "layer_norm": "layer_norm",
}

PLAIN = {"embed_tokens.weight": "embeddings/weight", "embed_positions.weight": "position_encodings/encodings"}


def as_ctranslate2(weights: dict[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
    """Return the weights of a Whisper as CTranslate2 names and joins them."""
    found = {}
    for name, weight in weights.items():
        side, rest = name.removeprefix("model.").split(".", 1)
        layer = re.match(r"layers\.(\d+)\.", rest)
        prefix = f"{side}/layer_{layer.group(1)}/" if layer else f"{side}/"
        module, part = re.sub(r"^layers\.\d+\.", "", rest).rsplit(".", 1)
        if module in OTHERS:
            found[f"{prefix}{OTHERS[module]}/{'gamma' if part == 'weight' else 'beta'}"] = weight
        elif module in JOINED:
            if (joined := JOINED[module]) is not None:
                target, parts = joined
                names = [f"{name.removesuffix(f'{module}.{part}')}{each}.{part}" for each in parts]
                shape = weight.shape
                found[f"{prefix}{target}/{part}"] = np.concatenate(
                    [weights.get(each, np.zeros(shape)) for each in names]
                )
        else:
            found[f"{side}/{PLAIN.get(rest, rest.replace('.', '/'))}"] = weight
    return found


FLOAT16 = 4


def write_ctranslate2(file: Path, tensors: dict[str, np.ndarray[Any, Any]], *, version: int = 6) -> None:
    def text(name: str) -> bytes:
        return struct.pack("<H", len(name) + 1) + name.encode() + b"\0"

    content = struct.pack("<I", version) + text("WhisperSpec") + struct.pack("<II", 3, len(tensors) + 1)
    content += text("decoder/num_heads") + struct.pack("<BBIh", 0, 2, 2, 4)
    for name, tensor in tensors.items():
        data = tensor.astype(np.float16)
        kind = {2: 4}.get(data.itemsize)
        content += (
            text(name) + struct.pack(f"<B{data.ndim}IBI", data.ndim, *data.shape, kind, data.nbytes) + data.tobytes()
        )
    file.write_bytes(content + struct.pack("<I", 0))


def test_a_whisper_comes_back_from_ctranslate2_without_loss(tmp_path: Path) -> None:
    from bench.trained.ctranslate2 import convert, read_tensors
    from safetensors.numpy import load_file

    folder = save_tiny_model(tmp_path / "whisper", "whisper")
    weights = {
        name: weight.astype(np.float16).astype(np.float32)
        for name, weight in load_file(folder / "model.safetensors").items()
        if name != "proj_out.weight"
    }
    write_ctranslate2(tmp_path / "model.bin", as_ctranslate2(weights))
    found = dict(convert(read_tensors(tmp_path / "model.bin")))
    assert found.keys() == weights.keys()
    assert all(np.array_equal(found[name], weight) for name, weight in weights.items())
    write_ctranslate2(tmp_path / "model.bin", {}, version=5)
    with pytest.raises(ValueError, match="binary version 5, expected 6"):
        read_tensors(tmp_path / "model.bin")


words = st.lists(st.sampled_from("abc"), max_size=6)


@given(said=words, read=words, other=words)
def test_word_errors_are_a_distance(said: list[str], read: list[str], other: list[str]) -> None:
    from bench.trained.quality import _distance

    assert (_distance(said, read) == 0) == (said == read)
    assert _distance(said, read) == _distance(read, said)
    assert abs(len(said) - len(read)) <= _distance(said, read) <= max(len(said), len(read))
    assert _distance(said, other) <= _distance(said, read) + _distance(read, other)


def test_reactions_are_of_tokens_of_the_pattern(tmp_path: Path) -> None:
    from bench.trained.models import SMILES
    from bench.trained.texts import REACTIONS, write_reactions

    write_reactions(tmp_path / "reactions.txt")
    lines = (tmp_path / "reactions.txt").read_text().splitlines()
    assert len(set(lines)) == REACTIONS
    assert all("".join(re.findall(SMILES, line)) == line and line.count(">>") == 1 for line in lines)
