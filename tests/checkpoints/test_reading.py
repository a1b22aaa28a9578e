from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import hypothesis.extra.numpy as npst
import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from amp_export.checkpoints import reading
from amp_export.checkpoints.hashing import hash_finite_weights, hash_weights
from amp_export.checkpoints.loading import load_model
from amp_export.checkpoints.reading import open_checkpoint, read_config
from amp_export.checkpoints.weight_files import INDEX
from amp_export.checkpoints.writing import save_tensors, write_checkpoint
from amp_export.errors import ModelError, UnsupportedModelError
from tests.support.tiny_models import save_tiny_model


def change_weights(folder: Path, change: Callable[[dict[str, np.ndarray]], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def change_config(folder: Path, **fields: object) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


@pytest.mark.parametrize("shard_bytes", [1, 9_000, 1 << 30])
def test_what_is_written_is_what_transformers_reads(folder: Path, tmp_path: Path, shard_bytes: int) -> None:
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    checkpoint = open_checkpoint(folder)
    tensors = ((name, checkpoint.read(name)) for name in checkpoint.tensors)
    target = tmp_path / "written"
    write_checkpoint(
        target, checkpoint.raw_config, tensors, companions=checkpoint.companions(), shard_bytes=shard_bytes
    )
    assert (len(list(target.glob("*.safetensors"))) > 1) == (shard_bytes < 1 << 30)
    companions = {"tokenizer.json", "tokenizer_config.json", "generation_config.json", "chat_template.jinja"}
    assert companions <= {file.name for file in target.iterdir()}
    tokens = torch.arange(12).reshape(2, 6)
    with torch.inference_mode():
        assert torch.equal(load_model(target)(tokens).logits, load_model(folder)(tokens).logits)
    again = open_checkpoint(target)
    for name in checkpoint.tensors:
        np.testing.assert_array_equal(again.read(name), checkpoint.read(name))


def test_weights_are_readable_by_others_as_other_files_are(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    save_tensors(tmp_path / "tensors", {"a": np.zeros(2)}, metadata={})
    assert (tmp_path / "tensors").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_writing_holds_one_shard_in_memory_at_most(tmp_path: Path) -> None:
    alive: list[int] = []

    class Counted(np.ndarray):
        def __del__(self) -> None:
            alive.remove(id(self))

    def tensors() -> Iterator[tuple[str, Any]]:
        for number in range(6):
            array = np.zeros(1000, np.float32).view(Counted)
            alive.append(id(array))
            assert len(alive) <= 3, "earlier shards are still held"
            yield f"t{number}", array
            del array

    write_checkpoint(tmp_path / "written", {}, tensors(), shard_bytes=8000)


def test_the_hash_depends_on_weights_and_config(folder: Path) -> None:
    first = hash_weights(open_checkpoint(folder))
    change_config(folder, rms_norm_eps=1e-5)
    second = hash_weights(open_checkpoint(folder))
    change_weights(folder, lambda tensors: tensors["model.norm.weight"].__setitem__(0, 7.0))
    assert len({first, second, hash_weights(open_checkpoint(folder))}) == 3


def truncate(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def index_of_absent_shard(folder: Path) -> None:
    names = [f"model-{number:05d}-of-00002.safetensors" for number in (1, 2)]
    (folder / "model.safetensors").rename(folder / names[0])
    index = {"metadata": {}, "weight_map": dict(zip("ab", names, strict=True))}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def only_pickles(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


NORM = "model.layers.1.input_layernorm.weight"

DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config": (lambda folder: (folder / "config.json").unlink(), "no config.json"),
    "config no JSON": (lambda folder: (folder / "config.json").write_text("{"), "not valid JSON"),
    "config no object": (lambda folder: (folder / "config.json").write_text("[]"), "has no model_type"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "no weights"),
    "only pickles": (only_pickles, "torch pickles only"),
    "shard missing": (index_of_absent_shard, "1 of 2 weight files are missing, 'model-00002"),
    "truncated": (truncate, "may be truncated"),
    "empty": (lambda folder: (folder / "model.safetensors").write_bytes(b""), "is damaged"),
    "tensor missing": (lambda folder: change_weights(folder, lambda t: t.pop(NORM)), f"1 tensors .* {NORM}"),
    "tensor too many": (
        lambda folder: change_weights(folder, lambda t: t.update(lora_A=np.ones(3))),
        "do not belong .*lora_A.*\n.*merge",
    ),
    "shape differs": (lambda folder: change_config(folder, intermediate_size=50), r"shape \[48, 32\].*requires \[50"),
    "layers differ": (lambda folder: change_config(folder, num_hidden_layers=4), "tensors that config.json requires"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_says_what_is_wrong(folder: Path, damage: str) -> None:
    do, message = DAMAGES[damage]
    do(folder)
    with pytest.raises(ModelError, match=message):
        open_checkpoint(folder)


def test_no_directory_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="No such checkpoint directory"):
        read_config(tmp_path / "absent")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_weights_that_are_not_finite_are_named(tmp_path: Path, value: float, dtype: torch.dtype) -> None:
    model = load_model(save_tiny_model(tmp_path / "plain", "llama")).to(dtype)
    with torch.no_grad():
        model.model.layers[2].mlp.up_proj.weight[3, 1] = value
    model.save_pretrained(tmp_path / "damaged")
    with pytest.raises(ModelError, match=r"layers\.2\.mlp\.up_proj\.weight holds 1 values"):
        hash_finite_weights(open_checkpoint(tmp_path / "damaged"))


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "mixtral", "gpt_oss", "granitemoe", "bert", "t5"])
def test_checked_weights_have_the_same_hash(model_type: str, tmp_path: Path) -> None:
    load_model(save_tiny_model(tmp_path / "plain", model_type)).save_pretrained(
        tmp_path / "shards", max_shard_size="20KB"
    )
    shards = sorted((tmp_path / "shards").glob("*.safetensors"))
    # beside the weights: a tensor that is never read, amid the others
    others = load_file(shards[0])
    middle = sorted(others)[len(others) // 2]
    save_file({**others, f"{middle}.position_ids": np.arange(7)}, shards[0], metadata={"format": "pt"})
    index = json.loads((tmp_path / "shards" / INDEX).read_text())
    index["weight_map"][f"{middle}.position_ids"] = shards[0].name
    (tmp_path / "shards" / INDEX).write_text(json.dumps(index))
    done: list[tuple[int, int]] = []
    for folder in ("plain", "shards"):
        checkpoint = open_checkpoint(tmp_path / folder)
        checked = hash_finite_weights(checkpoint, on_progress=lambda *progress: done.append(progress))
        assert checked == hash_weights(checkpoint)
    assert len(shards) > 2
    assert done[-1] == (len(shards) + 1, len(shards) + 1)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
@given(shape=npst.array_shapes(min_dims=0, max_dims=3, max_side=5), piece=st.integers(1, 9), data=st.data())
def test_all_values_that_are_not_finite_are_counted(
    dtype: type, shape: tuple[int, ...], piece: int, data: st.DataObject
) -> None:
    values = st.sampled_from([0.0, -1.5, float("nan"), float("inf"), float("-inf")])
    array: np.ndarray = data.draw(npst.arrays(np.float32, shape, elements=values)).astype(dtype)
    with patch.object(reading, "_PIECE", piece):
        counts = [reading._count_not_finite(each) for each in reading._pieces(array)]
    assert sum(counts) == np.sum(~np.isfinite(array.astype(np.float32)))


def test_integer_weights_are_refused(folder: Path) -> None:
    change_weights(folder, lambda tensors: tensors.update({NORM: np.ones(32, np.int8)}))
    with pytest.raises(UnsupportedModelError, match="I8"):
        open_checkpoint(folder)


def test_an_error_of_the_system_keeps_its_number(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="directory") as caught:
        save_tensors(tmp_path, {"a": np.zeros(2)}, metadata={})
    assert caught.value.errno is not None
