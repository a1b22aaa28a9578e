"""Test memory estimates and bandwidth bounds against exported graphs and manual calculations."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amp_export.architectures import LayerWidths, ModelConfig, find_architecture, parameter_count
from amp_export.architectures._footprint import (
    activation_numbers,
    cached_numbers,
    parameters_read,
    seen_bytes,
    state_bytes,
)
from amp_export.benchmarking.roofline import weight_bytes_per_token
from amp_export.checkpoints.reading import open_checkpoint
from amp_export.doctor.memory import MemoryEstimate, ModelVariant, Room, VariantEstimate, can_estimate, estimate_memory
from amp_export.errors import RequestError
from amp_export.exporters.limits import Limits, choose_limits
from amp_export.exporters.models.caches import is_past
from amp_export.exporters.onnx import export
from amp_export.options import Dtype, TargetName
from tests.support.tiny_models import BUILDABLE, save_tiny_model

GPUS = [name for name in TargetName if name is not TargetName.CPU]

LLAMA_7B = {
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "vocab_size": 32000,
    "max_position_embeddings": 4096,
}


def read(model_type: str = "llama", **fields: Any) -> ModelConfig:
    return ModelConfig.read(find_architecture(model_type), {"model_type": model_type, **fields})


def fit(
    config: ModelConfig, target: TargetName, limits: Limits | None = None, widths: LayerWidths | None = None
) -> MemoryEstimate:
    subject = ModelVariant("dense", None, config.everywhere(widths or config.widths))
    return estimate_memory(config, [subject], target, limits or Limits())


def of(memory: MemoryEstimate, dtype: Dtype) -> VariantEstimate:
    return next(each for each in memory.fits if each.dtype is dtype)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("model_type", BUILDABLE)
def test_counts_are_those_of_the_exported_graph(model_type: str, tied: bool, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(
        save_tiny_model(tmp_path / "model", model_type, num_hidden_layers=1, tie_word_embeddings=tied)
    )
    config = checkpoint.config
    export(checkpoint, tmp_path / "onnx")
    graph = tmp_path / "onnx" / "model.onnx"
    widths = config.everywhere(config.widths)
    constants = weight_bytes_per_token(graph, config) - 4 * parameters_read(config, widths)
    assert 0 <= constants < 1024
    inputs = {value.name: value for value in onnx.load(graph, load_external_data=False).graph.input}
    shapes = [inputs[f"past_key_values.0.{part}"].type.tensor_type.shape.dim for part in ("key", "value")]
    assert cached_numbers(config, widths) == [sum(shape[1].dim_value * shape[3].dim_value for shape in shapes)]


def test_activations_of_a_convolution_are_counted() -> None:
    fields = {"hidden_size": 32, "intermediate_size": 48, "block_auto_adjust_ff_dim": False, "num_hidden_layers": 2}
    config = read(
        "lfm2", **fields, num_attention_heads=4, num_key_value_heads=2, layer_types=["conv", "full_attention"]
    )
    convolved = 10 * (4 * 32 + 3 * 48 + 2 * 3 * 32 + 32)
    attended = 10 * (4 * 32 + 3 * 48 + 2 * (4 + 2) * 8) + 2 * 4 * 10**2
    assert activation_numbers(config, config.everywhere(config.widths), 10) == convolved > attended


@pytest.mark.parametrize("dtype", Dtype)
@pytest.mark.parametrize("model_type", [name for name in BUILDABLE if find_architecture(name).keeps_states])
def test_states_take_the_bytes_that_they_take_in_a_graph(model_type: str, dtype: Dtype, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(save_tiny_model(tmp_path / "model", model_type))
    config = checkpoint.config
    file = export(checkpoint, tmp_path / "onnx", dtype=dtype).graph
    total = 0
    for value in onnx.load(file, load_external_data=False).graph.input:
        if is_past(value.name) and not value.name.startswith("past_key_values"):
            kind = value.type.tensor_type
            sizes = [axis.dim_value for axis in kind.shape.dim[1:]]
            total += math.prod(sizes) * onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type).itemsize
    widths = config.everywhere(config.widths)
    assert 0 < total == state_bytes(config, widths, dtype.bytes)
    growing = dtype.bytes * 10 * sum(cached_numbers(config, widths))
    assert seen_bytes(config, widths, 10, dtype.bytes) == growing + total


def test_latents_are_cached_instead_of_keys_and_values() -> None:
    config = ModelConfig.read(find_architecture("deepseek_v3"), {})
    # arXiv 2412.19437, section 4.2: 512 and 64 dimensions
    assert cached_numbers(config, config.everywhere(config.widths)) == [576] * 61


def test_a_7b_llama_by_hand() -> None:
    config = read(**LLAMA_7B)
    memory = fit(config, TargetName.ORIN_AGX, Limits(max_batch=2, max_context=1000))
    found = of(memory, Dtype.FLOAT16)
    assert found.weight_bytes == 2 * 6_738_415_616
    assert found.read_bytes == 2 * (6_738_415_616 - 32000 * 4096)
    # keys and values of 32 heads of 128, in 32 layers, for 1000 tokens of 2 texts
    assert found.cache_bytes == 2 * (2 * 32 * 128) * 32 * 1000 * 2
    assert found.bound.full_context == pytest.approx(2 * 204.8e9 / (found.read_bytes + found.cache_bytes))
    assert found.bound.half_context == pytest.approx(2 * 204.8e9 / (found.read_bytes + found.cache_bytes / 2))
    # past and present, and the logits of a whole prompt
    assert found.run.least == found.weight_bytes + 2 * found.cache_bytes + 2 * 2 * 1000 * 32000
    assert found.run.most > 2 * found.weight_bytes
    assert (found.build.least, found.build.most) == (2 * found.weight_bytes, round(6.5 * found.weight_bytes))


@pytest.mark.parametrize(
    ("target", "run", "build"),
    [
        (TargetName.ORIN_NANO, Room.DOES_NOT_FIT, Room.DOES_NOT_FIT),
        (TargetName.ORIN_AGX, Room.FITS, Room.MAY_NOT_FIT),
        (TargetName.THOR, Room.FITS, Room.FITS),
        (TargetName.RTX3090, Room.MAY_NOT_FIT, None),
        (TargetName.H200, Room.FITS, None),
    ],
)
def test_whether_a_7b_llama_in_float16_fits(target: TargetName, run: Room, build: Room | None) -> None:
    found = of(fit(read(**LLAMA_7B), target), Dtype.FLOAT16)
    assert (found.run.room, found.build.room) == (run, build)


@pytest.mark.parametrize("target", GPUS)
def test_every_device_has_a_word_on_every_precision(target: TargetName) -> None:
    memory = fit(read(**LLAMA_7B), target)
    assert [each.dtype for each in memory.fits] == list(Dtype)
    assert 0 < memory.available_bytes < (memory.facts.memory_bytes or 0)
    whole, half = (of(memory, dtype) for dtype in (Dtype.FLOAT32, Dtype.FLOAT16))
    assert half.bound.full_context == pytest.approx(2 * whole.bound.full_context)
    assert whole.run.least == 2 * half.run.least


def test_a_window_bounds_what_is_read_and_not_what_is_kept() -> None:
    fields = {**LLAMA_7B, "num_key_value_heads": 8}
    windowed, plain = read("mistral", **fields, sliding_window=256), read("mistral", **fields, sliding_window=None)
    widths = plain.everywhere(plain.widths)
    assert cached_numbers(windowed, widths) == cached_numbers(plain, widths)
    assert seen_bytes(windowed, widths, 1024, 2) == seen_bytes(plain, widths, 256, 2)
    assert seen_bytes(windowed, widths, 100, 2) == seen_bytes(plain, widths, 100, 2)


@given(
    groups=st.integers(1, 8),
    neurons=st.integers(1, 11008),
    batch=st.integers(1, 64),
    context=st.integers(2, 4096),
    target=st.sampled_from(GPUS),
)
def test_less_is_never_worse(groups: int, neurons: int, batch: int, context: int, target: TargetName) -> None:
    config = read(**{**LLAMA_7B, "num_key_value_heads": 8, "num_hidden_layers": 2})
    fewer = replace(config.widths, query_heads=4 * groups, key_value_heads=groups, neurons=neurons)
    limits = Limits(batch, context)
    dense, pruned = fit(config, target, limits), fit(config, target, limits, fewer)
    longer = fit(config, target, Limits(batch, context + 1))
    order = list(Room)
    for whole, part, more in zip(dense.fits, pruned.fits, longer.fits, strict=True):
        assert part.weight_bytes <= whole.weight_bytes
        assert part.weight_bytes == part.dtype.bytes * parameter_count(config, config.everywhere(fewer))
        assert part.bound.full_context >= whole.bound.full_context >= more.bound.full_context
        assert whole.bound.half_context >= whole.bound.full_context
        assert whole.run.least <= whole.run.most <= more.run.most
        assert part.run.room is not None
        assert whole.run.room is not None
        assert order.index(part.run.room) <= order.index(whole.run.room)


def test_nothing_is_said_where_nothing_is_known() -> None:
    config = read(**LLAMA_7B)
    assert not can_estimate(config, TargetName.CPU)
    assert can_estimate(config, TargetName.L4)
    assert not can_estimate(read("bert"), TargetName.L4)
    assert not can_estimate(read("deepseek_v3"), TargetName.L4)


def test_limits_are_those_of_the_model_where_none_are_asked_for() -> None:
    assert choose_limits(128) == Limits(1, 128)
    assert choose_limits(4096) == Limits(1, 2048)
    assert choose_limits(4096, max_batch=8, max_context=4096) == Limits(8, 4096)
    for wrong in ({"max_context": 0}, {"max_context": 4097}, {"max_batch": 0}):
        with pytest.raises(RequestError):
            choose_limits(4096, **wrong)
