"""The weight files that are read are those that transformers reads, in whatever layout they lie in a directory."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from safetensors.numpy import load_file, save_file

from amp_export.checkpoints.building import rehearse_loading
from amp_export.checkpoints.hashing import hash_weights
from amp_export.checkpoints.loading import load_model
from amp_export.checkpoints.quiet import quiet_transformers
from amp_export.checkpoints.reading import open_checkpoint
from amp_export.checkpoints.weight_files import (
    INDEX,
    PICKLE,
    PICKLE_INDEX,
    SINGLE,
    find_pickles,
    read_header,
    read_tensor,
)
from amp_export.errors import ModelError, UnsupportedModelError
from tests.support.tiny_models import save_tiny_model

Arrays = dict[str, np.ndarray[Any, Any]]

FIELDS = {"num_hidden_layers": 1, "hidden_size": 8, "intermediate_size": 6, "head_dim": 2, "vocab_size": 11}

TENSORS = 12
"""Number of tensors of a model with these fields."""

SHARDS = [f"model-{number:05d}-of-00003.safetensors" for number in (1, 2, 3)]


@dataclass(frozen=True)
class Layout:
    """How the weights lie in a directory.

    Attributes:
        single: Whether there is a single file.
        holders: The shards that hold each tensor; a tensor in several has another value in each.
        mapped: The shard that the index names for each tensor, or None for a tensor that it does not list. No index
            if empty.
        lost: Shards that are not there.
    """

    single: bool
    holders: tuple[frozenset[int], ...]
    mapped: tuple[int | None, ...]
    lost: frozenset[int] = frozenset()


ONE_EACH = tuple(frozenset({number % 3}) for number in range(TENSORS))
MAP = tuple(number % 3 for number in range(TENSORS))

layouts = st.builds(
    Layout,
    single=st.booleans(),
    holders=st.tuples(*[st.frozensets(st.integers(0, 2), min_size=1)] * TENSORS),
    mapped=st.just(()) | st.just(MAP) | st.tuples(*[st.integers(0, 2) | st.none()] * TENSORS),
    lost=st.just(frozenset()) | st.frozensets(st.integers(0, 2), max_size=1),
)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("source") / "checkpoint", "llama", **FIELDS)


def lay_out(folder: Path, source: Path, layout: Layout) -> None:
    folder.mkdir()
    shutil.copy(source / "config.json", folder)
    tensors = load_file(source / SINGLE)
    if layout.single:
        save_file(tensors, folder / SINGLE, metadata={"format": "pt"})
    for shard, name in enumerate(SHARDS):
        held = {
            tensor: array + 1 + shard
            for (tensor, array), holders in zip(tensors.items(), layout.holders, strict=True)
            if shard in holders
        }
        if shard not in layout.lost:
            save_file(held, folder / name, metadata={"format": "pt"})
    if layout.mapped:
        mapped = zip(tensors, layout.mapped, strict=True)
        weight_map = {tensor: SHARDS[shard] for tensor, shard in mapped if shard is not None}
        (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def read_with_transformers(folder: Path) -> Mapping[str, torch.Tensor] | None:
    """Returns the weights as plain transformers loads them, or None if it lacks some."""
    from transformers import AutoModelForCausalLM

    try:
        with quiet_transformers():
            loaded: tuple[Any, Any] = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    except (OSError, IndexError):  # of no file, a missing one, and an index without shards
        return None
    model, found = loaded
    state: Mapping[str, torch.Tensor] = model.state_dict()
    return None if found["missing_keys"] else state


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(layout=layouts)
@example(layout=Layout(single=True, holders=ONE_EACH, mapped=()))
@example(layout=Layout(single=False, holders=ONE_EACH, mapped=MAP))
@example(layout=Layout(single=True, holders=ONE_EACH, mapped=MAP))
@example(layout=Layout(single=True, holders=ONE_EACH, mapped=MAP, lost=frozenset({1})))
@example(layout=Layout(single=False, holders=ONE_EACH, mapped=MAP, lost=frozenset({1})))
@example(layout=Layout(single=False, holders=ONE_EACH, mapped=()))
def test_headers_and_tensors_are_those_of_transformers(
    layout: Layout, source: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("layout") / "checkpoint"
    lay_out(folder, source, layout)
    expected = read_with_transformers(folder)
    if expected is None:
        with pytest.raises(ModelError):
            open_checkpoint(folder)
        return
    checkpoint = open_checkpoint(folder)
    assert checkpoint.tensors.keys() == expected.keys()
    for name, tensor in expected.items():
        assert checkpoint.tensors[name].shape == tuple(tensor.shape)
        np.testing.assert_array_equal(checkpoint.read(name), tensor.numpy(), err_msg=name)


def test_the_hash_is_of_the_file_that_is_read(source: Path, tmp_path: Path) -> None:
    lay_out(tmp_path / "both", source, Layout(single=True, holders=ONE_EACH, mapped=MAP))
    assert hash_weights(open_checkpoint(tmp_path / "both")) == hash_weights(open_checkpoint(source))


def test_a_single_pickle_precedes_an_index_of_pickles(tmp_path: Path) -> None:
    (tmp_path / PICKLE).touch()
    (tmp_path / "pytorch_model-1.bin").touch()
    (tmp_path / PICKLE_INDEX).write_text(json.dumps({"weight_map": {"a": "pytorch_model-1.bin"}}))
    assert [file.name for file in find_pickles(tmp_path)] == [PICKLE]


OUTSIDE = ["../x.safetensors", "/etc/passwd", "a/b.safetensors", "..", ".", "", "a\\b", "C:x", "a\0b", "a/"]


@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize("index", [INDEX, PICKLE_INDEX])
def test_an_index_may_only_name_files_beside_it(name: str, index: str, source: Path, tmp_path: Path) -> None:
    shutil.copy(source / "config.json", tmp_path)
    (tmp_path / index).write_text(json.dumps({"metadata": {}, "weight_map": {"a": name}}))
    with pytest.raises(ModelError, match="the name of a file beside it"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"metadata": {}, "weight_map": {"a": 5}}, "weight_map.*expected str.*found 5"),
        ({"metadata": {}, "weight_map": ["a"]}, "weight_map: expected object"),
        ({"metadata": {}}, "weight_map is missing"),
        ({"weight_map": {"a": SHARDS[0]}}, "metadata is missing"),
        ({"metadata": {}, "weight_map": {}}, "lists no weight files"),
        ([], "expected .*object"),
    ],
)
def test_an_index_of_another_form_is_refused(content: Any, message: str, source: Path, tmp_path: Path) -> None:
    shutil.copy(source / "config.json", tmp_path)
    (tmp_path / INDEX).write_text(json.dumps(content))
    with pytest.raises(ModelError, match=message):
        open_checkpoint(tmp_path)


def test_a_config_that_names_a_file_of_weights_is_refused(source: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(source, tmp_path / "checkpoint"))
    shutil.copy(folder / SINGLE, folder / "other.safetensors")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "transformers_weights": "other.safetensors"}))
    assert load_model(folder) is not None
    with pytest.raises(UnsupportedModelError, match=r"transformers_weights is 'other\.safetensors'"):
        open_checkpoint(folder)


MASKS = {"gpt2": ".attn.bias", "gpt_bigcode": ".attn.bias", "gptj": ".attn.bias", "gpt_neox": ".attention.bias"}
"""Causal masks that old versions of transformers stored with the weights, by families that did."""


@pytest.mark.parametrize("model_type", MASKS)
def test_masks_of_old_versions_are_skipped_whatever_their_dtype(model_type: str, tmp_path: Path) -> None:
    dtypes = (np.uint8, np.bool_, np.int64, np.float16)
    folder = save_tiny_model(tmp_path / "checkpoint", model_type, num_hidden_layers=len(dtypes))
    tensors = load_file(folder / SINGLE)
    part = MASKS[model_type].split(".")[1]
    layer = next(name for name in tensors if f".0.{part}." in name).partition(f".0.{part}.")[0]
    mask = np.tril(np.ones((1, 1, 8, 8)))
    masks: Arrays = {f"{layer}.{number}{MASKS[model_type]}": mask.astype(dtype) for number, dtype in enumerate(dtypes)}
    save_file({**tensors, **masks}, folder / SINGLE, metadata={"format": "pt"})
    assert set(open_checkpoint(folder).tensors) == set(tensors)
    rehearse_loading(folder)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    arrays=st.dictionaries(
        st.text(min_size=1, max_size=40).filter(lambda name: name != "__metadata__"),
        npst.arrays(
            st.sampled_from(["float64", "float32", "float16", "int64", "uint8", "bool"]),
            npst.array_shapes(min_dims=0, min_side=0, max_side=5),
        ),
        min_size=1,
        max_size=6,
    ),
    metadata=st.none() | st.dictionaries(st.text(max_size=5), st.text(max_size=30), max_size=3),
)
def test_a_mapped_tensor_is_the_one_that_the_library_reads(
    tmp_path: Path, arrays: Arrays, metadata: dict[str, str] | None
) -> None:
    file = tmp_path / "some.safetensors"
    save_file(arrays, file, metadata=metadata)
    found = {info.stored_name: read_tensor(info) for info in read_header(file)}
    assert found.keys() == arrays.keys()
    for name, array in load_file(file).items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array, strict=True)


def test_values_that_begin_at_an_odd_byte_are_read(tmp_path: Path) -> None:
    file = tmp_path / "odd.safetensors"
    header = {"first": {"dtype": "F32", "shape": [3], "data_offsets": [0, 12]}}
    text = json.dumps(header).encode()
    text += b" " * (1 - len(text) % 2)
    wanted = np.array([1.5, -2.0, 3.25], np.float32)
    file.write_bytes(len(text).to_bytes(8, "little") + text + wanted.tobytes())
    [info] = read_header(file)
    assert info.start % 2
    np.testing.assert_array_equal(read_tensor(info), wanted)
