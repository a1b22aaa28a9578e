"""GGUF files compute in llama.cpp what their checkpoints compute in PyTorch."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from amp_export.architectures import LayerWidths, find_architecture
from amp_export.checkpoints.reading import open_checkpoint
from amp_export.errors import ModelError, UnsupportedModelError
from amp_export.exporters.gguf import export, tensors
from amp_export.exporters.gguf.blocks import CHUNK
from amp_export.exporters.gguf.keys import model_keys, query_factor
from amp_export.exporters.gguf.routes import choose_route
from amp_export.options import Dtype, WeightFormat
from amp_export.parity.comparison import compare
from amp_export.progress import Silent
from tests.support.gguf_models import (
    FEWER_HEADS,
    LINEAR,
    LLAMA3,
    NEED_ALL_HEADS,
    ROUTED,
    WHOLE_BLOCKS,
    YARN,
    allowed,
    errors,
    load,
    save,
    save_uneven,
)
from tests.support.uneven_models import uneven

pytest.importorskip("gguf", reason="gguf is not installed")
pytest.importorskip("xllamacpp", reason="xllamacpp is not installed")

from amp_export.exporters.gguf import running
from amp_export.exporters.gguf.files import exported_file, read_facts

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("model_type", "fields"),
    [
        (model_type, fields)
        for model_type in ROUTED
        for fields in ({}, FEWER_HEADS)
        if not (fields and model_type in NEED_ALL_HEADS)
    ],
)
def test_every_family_computes_what_pytorch_does(model_type: str, fields: dict[str, Any], tmp_path: Path) -> None:
    checkpoint = save(tmp_path, model_type, **fields)
    made = export(open_checkpoint(checkpoint), tmp_path / "gguf")
    routes = find_architecture(model_type).gguf
    assert routes is not None
    assert made.architecture == routes.uniform
    assert errors(checkpoint, tmp_path / "gguf") < allowed(model_type)


@pytest.mark.parametrize(
    ("model_type", "fields", "architecture"),
    [
        ("llama", {}, "deci"),
        ("llama", {"tie_word_embeddings": True, "rope_parameters": LLAMA3}, "deci"),
        ("mistral", {}, "deci"),
        ("qwen2", {}, "deci"),
        ("phi3", {}, "deci"),
        ("qwen3", {"tie_word_embeddings": True}, "openelm"),
    ],
)
def test_layers_that_differ_are_written_as_an_architecture_that_lets_them(
    model_type: str, fields: dict[str, Any], architecture: str, tmp_path: Path
) -> None:
    checkpoint = save_uneven(tmp_path, model_type, **fields)
    made = export(open_checkpoint(checkpoint), tmp_path / "gguf")
    assert made.architecture == architecture
    assert errors(checkpoint, tmp_path / "gguf") < allowed(model_type)


@pytest.mark.parametrize("model_type", NEED_ALL_HEADS)
def test_a_family_that_needs_all_heads_is_refused_with_fewer(model_type: str, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(save(tmp_path, model_type, **FEWER_HEADS))
    with pytest.raises(UnsupportedModelError, match=r"fill the hidden size.*Give --heads none"):
        export(checkpoint, tmp_path / "gguf")


def test_a_short_convolution_has_no_bias_in_llama_cpp(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(save(tmp_path, "lfm2", conv_bias=True))
    with pytest.raises(UnsupportedModelError, match=r"computes with conv_bias False, and config.json says True"):
        export(checkpoint, tmp_path / "gguf")


@pytest.mark.parametrize(
    "fields",
    [
        {"mamba_n_heads": 4},
        {"mamba_n_groups": 1},
        {"mamba_d_conv": 3},
        {"mamba_conv_bias": False},
        {"position_embedding_type": None},
        {"attention_bias": True, "tie_word_embeddings": True, "rope_parameters": LLAMA3},
        {"layer_types": ["full_attention", "linear_attention", "linear_attention"]},
    ],
)
def test_state_space_mixers(fields: dict[str, Any], tmp_path: Path) -> None:
    checkpoint = save(tmp_path, "granitemoehybrid", **fields)
    assert export(open_checkpoint(checkpoint), tmp_path / "gguf").architecture == "granitehybrid"
    assert errors(checkpoint, tmp_path / "gguf") < allowed("granitemoehybrid")


@pytest.mark.parametrize(
    "fields",
    [
        {"mamba_rms_norm": False, "mamba_norm_before_gate": True},
        {"mlp_bias": False, "mamba_n_groups": 1},
        # a head that is wider than the hidden size over the number of heads, and a mixer that is narrower than it
        {"head_dim": 16, "mamba_d_ssm": 24},
        {"tie_word_embeddings": True},
        {"tie_word_embeddings": True, "embedding_multiplier": 0.6, "rope_parameters": YARN},
    ],
)
def test_multipliers_are_in_the_weights_of_a_mixer_beside_attention(fields: dict[str, Any], tmp_path: Path) -> None:
    checkpoint = save(tmp_path, "falcon_h1", **fields)
    export(open_checkpoint(checkpoint), tmp_path / "gguf")
    assert errors(checkpoint, tmp_path / "gguf") < allowed("falcon_h1")


@pytest.mark.parametrize("positions", ["rope", None])
def test_a_hybrid_without_mixers_is_written_as_one_that_has_none(positions: str | None, tmp_path: Path) -> None:
    # the widths of mixers that there are not do not matter
    fields = {"layer_types": ["full_attention"] * 3, "position_embedding_type": positions, "mamba_expand": 3}
    checkpoint = save(tmp_path, "granitemoehybrid", **fields, **FEWER_HEADS)
    assert export(open_checkpoint(checkpoint), tmp_path / "gguf").architecture == "granite"
    assert errors(checkpoint, tmp_path / "gguf") < allowed("granitemoehybrid")
    assert not read_facts(exported_file(tmp_path / "gguf")).counts_padding


@pytest.mark.parametrize(
    ("model_type", "fields"),
    [
        ("smollm3", {}),
        ("gemma2", {}),
        ("granite", {}),
        ("granitemoehybrid", {}),
        ("falcon_h1", {}),
        ("qwen3", {}),
        # the first layer keeps all heads
        ("lfm2", {"layer_types": ["full_attention", "conv", "conv"]}),
    ],
)
def test_what_has_no_route_has_one_if_it_is_padded(model_type: str, fields: dict[str, Any], tmp_path: Path) -> None:
    uneven = save_uneven(tmp_path / "uneven", model_type, **fields)
    with pytest.raises(UnsupportedModelError, match=r"(?s)differ.*Prune it with --one-width, or with --uniform pad"):
        export(open_checkpoint(uneven), tmp_path / "gguf")
    padded = save_uneven(tmp_path / "padded", model_type, pad=True, **fields)
    export(open_checkpoint(padded), tmp_path / "gguf")
    assert errors(padded, tmp_path / "gguf") < allowed(model_type)


@pytest.mark.parametrize(
    ("model_type", "fields"),
    [
        ("llama", {"rope_parameters": LLAMA3}),
        ("llama", {"rope_parameters": YARN}),
        ("qwen3", {"rope_parameters": LINEAR}),
        ("llama", {"attention_bias": True, "mlp_bias": True}),
        ("granite", {"attention_bias": True, "mlp_bias": True}),
    ],
)
def test_rotary_embeddings_and_biases(model_type: str, fields: dict[str, Any], tmp_path: Path) -> None:
    checkpoint = save(tmp_path, model_type, **fields)
    export(open_checkpoint(checkpoint), tmp_path / "gguf")
    assert errors(checkpoint, tmp_path / "gguf") < allowed(model_type)


def test_llama_cpp_scales_one_size_of_gemma_by_its_heads(tmp_path: Path) -> None:
    checkpoint = save(tmp_path, "gemma2", num_hidden_layers=46, query_pre_attn_scalar=5, **FEWER_HEADS)
    opened = open_checkpoint(checkpoint)
    route = choose_route(opened.config, opened.widths)
    assert query_factor(opened.config, opened.widths[0], route) == pytest.approx((16 / 5) ** 0.5)
    export(opened, tmp_path / "gguf")
    assert errors(checkpoint, tmp_path / "gguf") < 2e-2, "46 layers amplify the table's rounding"


def test_one_width_that_no_stock_class_has_is_written(tmp_path: Path) -> None:
    import torch

    alike = (LayerWidths(3, 1, 40),) * 3
    checkpoint, model = uneven(tmp_path, "gemma2", {"tie_word_embeddings": True}, alike)
    assert export(checkpoint, tmp_path / "gguf").architecture == "gemma2"
    ids = np.random.default_rng(0).integers(4, 100, (1, 24))
    found, _ = load(tmp_path / "gguf").forward(ids, np.ones_like(ids), np.arange(24)[None])
    with torch.inference_mode():
        logits = model(torch.from_numpy(ids)).logits.numpy()
    assert np.abs(found - logits).max() < allowed("gemma2") * np.abs(logits).max()


def test_memory_holds_two_tensors(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(save(tmp_path, "llama", vocab_size=60_000))
    largest = 60_000 * 32 * 4
    for dtype in Dtype:
        tracemalloc.start()
        export(checkpoint, tmp_path / dtype, dtype=dtype)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        # encoding takes a few pieces of fixed size
        assert peak < 2 * largest + 16 * CHUNK


def test_order_of_queries_and_keys_matters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = save(tmp_path, "llama")
    monkeypatch.setattr(tensors, "interleave", lambda rows, heads: rows)
    export(open_checkpoint(checkpoint), tmp_path / "gguf")
    assert errors(checkpoint, tmp_path / "gguf") > 1e-2
    report = compare(checkpoint, tmp_path / "gguf", threads=1, progress=Silent())
    assert not report.holds


def test_the_length_of_heads_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from amp_export.exporters.gguf import keys

    def without(*arguments: Any) -> Any:
        return ((name, value) for name, value in model_keys(*arguments) if name != "attention.key_length")

    checkpoint = save(tmp_path, "llama", **FEWER_HEADS)
    monkeypatch.setattr(keys, "model_keys", without)
    export(open_checkpoint(checkpoint), tmp_path / "gguf")
    with pytest.raises(ModelError, match=r"llama\.cpp cannot load .*: .*invalid n_rot: 8, expected 16"):
        running.run(tmp_path / "gguf")


@pytest.mark.parametrize("settings", [*Dtype, *(each for each in WeightFormat if each.startswith("q"))])
def test_parity_holds_for_every_kind_of_weights(settings: Dtype | WeightFormat, tmp_path: Path) -> None:
    checkpoint = save(tmp_path, "llama", **WHOLE_BLOCKS)
    given = {"dtype": settings} if isinstance(settings, Dtype) else {"weights": settings}
    export(open_checkpoint(checkpoint), tmp_path / "gguf", **given)
    report = compare(checkpoint, tmp_path / "gguf", threads=1, progress=Silent())
    assert report.holds
    assert report.runtime.startswith("llama.cpp of xllamacpp")
    assert report.dtype == (settings if isinstance(settings, Dtype) else "float32")
    assert len(report.cases) == 7
    assert report.defaults is not None
    assert report.defaults.kl < 0.01
    assert (report.tolerance > 0.1) == (settings is not Dtype.FLOAT32), "rounding counts as noise"


STATE_SPACE = {"ssm_conv1d.weight", "ssm_conv1d.bias", "ssm_dt.bias", "ssm_a", "ssm_d", "ssm_norm.weight"}


@pytest.mark.parametrize(
    ("model_type", "fields", "exact"),
    [
        ("falcon_h1", {"mamba_expand": 2}, STATE_SPACE),
        ("granitemoehybrid", {"mamba_expand": 2}, STATE_SPACE),
        ("lfm2", {}, {"shortconv.conv.weight"}),
    ],
)
@pytest.mark.parametrize("settings", [Dtype.FLOAT16, WeightFormat.Q8_0])
def test_what_mixers_do_not_multiply_as_matrices_stays_exact(
    settings: Dtype | WeightFormat, model_type: str, fields: dict[str, Any], exact: set[str], tmp_path: Path
) -> None:
    from gguf import GGUFReader

    checkpoint = save(tmp_path, model_type, **WHOLE_BLOCKS, **fields)
    given = {"dtype": settings} if isinstance(settings, Dtype) else {"weights": settings}
    export(open_checkpoint(checkpoint), tmp_path / "gguf", **given)
    kinds = {tensor.name: tensor.tensor_type.name for tensor in GGUFReader(exported_file(tmp_path / "gguf")).tensors}
    mixers = {name: kind for name, kind in kinds.items() if ".ssm_" in name or ".shortconv." in name}
    assert {name.split(".", 2)[2] for name, kind in mixers.items() if kind == "F32"} == exact
    assert compare(checkpoint, tmp_path / "gguf", threads=1, progress=Silent()).holds


def test_defaults_of_llama_cpp_round_more(tmp_path: Path) -> None:
    checkpoint = save(tmp_path, "llama")
    export(open_checkpoint(checkpoint), tmp_path / "gguf")
    report = compare(checkpoint, tmp_path / "gguf", threads=1, progress=Silent())
    assert report.defaults is not None
    assert report.defaults.max_error > 10 * report.tolerance
    assert report.greedy is not None
    assert report.greedy.common == report.greedy.steps


def test_parity_holds_where_windows_end(tmp_path: Path) -> None:
    checkpoint = save(tmp_path, "gemma2", num_hidden_layers=2)
    export(open_checkpoint(checkpoint), tmp_path / "gguf")
    report = compare(checkpoint, tmp_path / "gguf", threads=1, progress=Silent())
    assert report.holds
    assert any("sliding window" in case.name for case in report.cases)


@pytest.mark.parametrize("model_type", ["lfm2", "granitemoehybrid", "falcon_h1"])
def test_parity_holds_with_convolutions(model_type: str, tmp_path: Path) -> None:
    checkpoint = save(tmp_path, model_type, num_hidden_layers=4)
    export(open_checkpoint(checkpoint), tmp_path / "gguf")
    assert read_facts(exported_file(tmp_path / "gguf")).counts_padding
    report = compare(checkpoint, tmp_path / "gguf", threads=1, progress=Silent())
    assert report.holds
    assert any("batch" in case.name for case in report.cases)
    assert report.greedy is not None
    assert report.greedy.common == report.greedy.steps


def test_a_fault_in_a_weight_is_found(tmp_path: Path) -> None:
    checkpoint = save(tmp_path, "llama")
    export(open_checkpoint(checkpoint), tmp_path / "gguf")
    file = exported_file(tmp_path / "gguf")
    content = bytearray(file.read_bytes())
    content[-4096:] = np.frombuffer(content[-4096:], np.float32)[::-1].tobytes()
    file.write_bytes(content)
    assert not compare(checkpoint, tmp_path / "gguf", threads=1, progress=Silent()).holds
