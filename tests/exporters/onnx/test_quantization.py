"""Quantized weights: rounding and layouts, the same logits as PyTorch with them, and what cannot be quantized."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from amp_export import ExportOptions, PruneOptions, ValidateOptions, export, prune, validate
from amp_export.benchmarking.roofline import weight_bytes_per_token
from amp_export.benchmarking.subjects import export_dense
from amp_export.checkpoints.loading import load_model
from amp_export.checkpoints.reading import open_checkpoint
from amp_export.errors import RequestError
from amp_export.exporters.files import PAGE_BYTES
from amp_export.exporters.models.decoder import Decoder
from amp_export.exporters.onnx import describe_graph, run
from amp_export.exporters.onnx import export as export_graph
from amp_export.exporters.onnx.builder.blocks import (
    BlockFormat,
    pack_fused,
    pack_standard,
    quantize,
    unpack_fused,
    unpack_standard,
)
from amp_export.exporters.onnx.quantization import BLOCK_SIZES, Quantization
from amp_export.exporters.onnx.quantized_weights import read_quantized
from amp_export.exporting.quantized import fit_blocks
from amp_export.options import CriterionName, Dtype, Format, Operators, Opset, TargetName, Via, WeightFormat
from amp_export.outputs.manifest import Manifest
from amp_export.parity.comparison import compare
from amp_export.parity.quantized import QuantizedWeights
from amp_export.progress import Silent
from amp_export.reporting.report import Report
from tests.support.lopsided import save_lopsided
from tests.support.tiny_models import BUILDABLE, NOISE, save_tiny_model, save_tiny_tokenizer

FLOAT32 = np.dtype(np.float32)
TOKENS = np.random.default_rng(0).integers(4, 100, (2, 12))

formats = st.builds(BlockFormat, st.sampled_from((4, 8)), st.sampled_from(BLOCK_SIZES))


def draw(form: BlockFormat, seed: int, *, outputs: int = 5, blocks: int = 3) -> Any:
    """Returns a weight [outputs, inputs] whose blocks have scales of their own, one of them all zeros."""
    generator = np.random.default_rng(seed)
    weight = generator.standard_normal((outputs, blocks, form.block_size)).astype(np.float32)
    weight *= np.exp(generator.standard_normal((outputs, blocks, 1)) * 3).astype(np.float32)
    weight[0, 0] = 0
    return weight.reshape(outputs, -1)


@given(formats, st.integers(0, 1000))
def test_every_code_is_the_nearest_one_and_the_largest_value_is_met(form: BlockFormat, seed: int) -> None:
    weight = draw(form, seed)
    blocks = weight.reshape(5, 3, -1)
    found = quantize(weight, form, scale_dtype=FLOAT32)

    def nearest(scales: Any) -> Any:
        """Returns the least error that each value can have with the scale of its block."""
        codes = np.arange(-form.zero, form.zero, dtype=np.float32)
        return np.abs(blocks[..., None] - codes * scales[..., None, None]).min(axis=-1)

    errors = np.abs(found.dequantized().reshape(blocks.shape) - blocks)
    np.testing.assert_allclose(errors, nearest(found.scales_ob), rtol=1e-3, atol=1e-6 * np.abs(weight).max())
    at_largest = np.abs(blocks) == np.abs(blocks).max(axis=-1, keepdims=True)
    assert (errors[at_largest] <= 1e-5 * np.abs(blocks[at_largest])).all()


@given(st.integers(0, 1000))
def test_floats_are_rounded_by_an_eighth_of_a_power_of_two(seed: int) -> None:
    form = BlockFormat(8, 48, is_float=True)
    weight = draw(form, seed, blocks=1)
    found = quantize(weight, form, scale_dtype=FLOAT32)
    assert found.codes_oi.dtype == form.code_dtype
    assert found.scales_ob.shape == (5, 1)
    assert not found.dequantized()[0].any()
    # a mantissa of 3 bits; below the smallest normal number, 2 ** -6, numbers are a fixed distance apart
    allowed = np.maximum(np.abs(weight) / 16, found.scales_ob * 2.0**-10)
    assert (np.abs(found.dequantized() - weight) <= 1.001 * allowed).all()
    np.testing.assert_array_equal(unpack_standard(pack_standard(found.codes_oi, form), form, inputs=48), found.codes_oi)


@given(formats, st.integers(0, 1000))
def test_what_is_packed_is_what_is_unpacked(form: BlockFormat, seed: int) -> None:
    codes = np.random.default_rng(seed).integers(-form.zero, form.zero, (6, 2 * form.block_size)).astype(np.int8)
    np.testing.assert_array_equal(unpack_fused(pack_fused(codes, form), form, outputs=6), codes)
    np.testing.assert_array_equal(unpack_standard(pack_standard(codes, form), form, inputs=codes.shape[1]), codes)


@given(formats)
def test_onnx_reads_the_standard_s_layout(form: BlockFormat) -> None:
    codes = np.random.default_rng(1).integers(-form.zero, form.zero, (6, form.block_size)).astype(np.int8)
    kind = onnx.TensorProto.INT4 if form.bits == 4 else onnx.TensorProto.INT8
    tensor = onnx.TensorProto(dims=codes.T.shape, data_type=kind, raw_data=pack_standard(codes, form).tobytes())
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(tensor).astype(np.int8), codes.T)


def logits(folder: Path, *, exact: bool = True) -> Any:
    """Returns what a graph computes of the tokens: a prompt, and further tokens one by one."""
    decoder = run(folder, threads=1, exact=exact)
    assert isinstance(decoder, Decoder)
    found, past = [], None
    for start, end in ((0, 9), (9, 10), (10, 11), (11, 12)):
        mask_bs, positions_bs = np.ones((2, end), np.int64), np.tile(np.arange(start, end), (2, 1))
        part, past = decoder.forward(TOKENS[:, start:end], mask_bs, positions_bs, past)
        found.append(part)
    decoder.close()
    return np.concatenate(found, axis=1)


def logits_of_torch(checkpoint: Path, graph: Path) -> Any:
    """Returns what PyTorch computes with the weights of a graph."""
    model = load_model(checkpoint, dtype=torch.float32)
    QuantizedWeights(graph).give_to(model)
    with torch.inference_mode():
        return model(input_ids=torch.from_numpy(TOKENS)).logits.numpy()


def save_model(folder: Path, model_type: str = "llama", **fields: Any) -> Path:
    """Writes a checkpoint whose weights blocks of 16 and 32 divide."""
    return save_tiny_model(folder, model_type, head_dim=16, hidden_size=64, intermediate_size=96, **fields)


# layouts of 8 bits differ from those of 4 in packing alone
@pytest.mark.parametrize("operators", Operators)
@pytest.mark.parametrize(
    ("model_type", "weights"),
    [*((each, WeightFormat.INT4) for each in BUILDABLE), ("llama", WeightFormat.INT8), ("gpt2", WeightFormat.INT8)],
)
def test_every_family_computes_with_its_codes(
    model_type: str, weights: WeightFormat, operators: Operators, tmp_path: Path
) -> None:
    checkpoint, folder = save_model(tmp_path / "dense", model_type), tmp_path / "onnx"
    export_graph(open_checkpoint(checkpoint), folder, operators=operators, quantization=Quantization(weights))
    expected = logits_of_torch(checkpoint, folder / "model.onnx")
    np.testing.assert_allclose(logits(folder), expected, atol=NOISE.get(model_type, 2e-4))
    dense = load_model(checkpoint, dtype=torch.float32)(input_ids=torch.from_numpy(TOKENS)).logits.detach().numpy()
    assert np.abs(expected - dense).max() > 1e-3, "nothing was quantized"


@pytest.mark.parametrize("opset", Opset)
@pytest.mark.parametrize(
    ("model_type", "dtype"), [("llama", Dtype.FLOAT32), ("llama", Dtype.FLOAT16), ("gpt2", Dtype.FLOAT32)]
)
def test_floats_of_8_bits_are_standard_operators(
    model_type: str, dtype: Dtype, opset: Opset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = save_model(tmp_path / "dense", model_type)
    save_tiny_tokenizer(checkpoint)
    options = ExportOptions(weights=WeightFormat.FP8, dtype=dtype, opset=opset)
    export(checkpoint, tmp_path / "out", options)
    assert describe_graph(tmp_path / "out/onnx/model.onnx").quantization == Quantization(WeightFormat.FP8, None)
    onnx.checker.check_model(tmp_path / "out/onnx/model.onnx")
    report = validate(tmp_path / "out", ValidateOptions(threads=1, explain=True))
    assert report.holds
    # ONNX Runtime makes floats of them when it loads the graph
    assert report.rounded is None
    assert (
        not (tmp_path / "out/onnx/genai_config.json").exists()
        or "accuracy_level" not in (tmp_path / "out/onnx/genai_config.json").read_text()
    )


@pytest.mark.parametrize("operators", Operators)
@pytest.mark.parametrize(("dtype", "block_size"), [(Dtype.FLOAT16, 32), (Dtype.FLOAT32, 16)])
def test_formats_may_be_mixed(operators: Operators, dtype: Dtype, block_size: int, tmp_path: Path) -> None:
    checkpoint, folder = save_model(tmp_path / "dense", tie_word_embeddings=True), tmp_path / "onnx"
    dear = ("model.layers.0.mlp.down_proj.weight", "model.embed_tokens.weight")
    quantization = Quantization(WeightFormat.INT4, block_size, dear)
    export_graph(open_checkpoint(checkpoint), folder, dtype=dtype, operators=operators, quantization=quantization)
    found = dict(read_quantized(folder / "model.onnx"))
    ranges = {name: int(np.abs(weight.codes_oi.astype(int)).max()) for name, weight in found.items()}
    assert {name for name, largest in ranges.items() if largest > 8} == set(dear)
    if dtype is Dtype.FLOAT16:
        assert all((weight.scales_ob == weight.scales_ob.astype(np.float16)).all() for weight in found.values())
    atol = 2e-4 if dtype is Dtype.FLOAT32 else 0.1
    np.testing.assert_allclose(logits(folder), logits_of_torch(checkpoint, folder / "model.onnx"), atol=atol)


@pytest.mark.parametrize("operators", Operators)
@pytest.mark.parametrize("model_type", ["llama", "gpt2", "gemma2"])
def test_layers_may_differ(model_type: str, operators: Operators, tmp_path: Path) -> None:
    save_lopsided(tmp_path, model_type, head_dim=16, hidden_size=64, intermediate_size=96, fewest_neurons=16)
    folder = tmp_path / "onnx"
    quantization = Quantization(WeightFormat.INT4, 16)
    export_graph(open_checkpoint(tmp_path / "pruned"), folder, operators=operators, quantization=quantization)
    np.testing.assert_allclose(logits(folder), logits_of_torch(tmp_path / "pruned", folder / "model.onnx"), atol=2e-4)


def test_a_tied_embedding_is_stored_once_where_its_rows_can_be_looked_up(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(save_model(tmp_path / "dense", tie_word_embeddings=True, vocab_size=4096))
    sizes = {}
    for operators in Operators:
        made = export_graph(
            checkpoint, tmp_path / operators, operators=operators, quantization=Quantization(WeightFormat.INT4)
        )
        sizes[operators] = made.weights.stat().st_size
    codes, scales, values = 4096 * 32, 4096 * 2 * 4, 4096 * 64 * 4
    # tensors that lie side by side have fewer gaps
    assert sizes[Operators.STANDARD] - sizes[Operators.ONNXRUNTIME] == pytest.approx(values, abs=PAGE_BYTES)
    assert sizes[Operators.ONNXRUNTIME] < codes + scales + 2 * 64 * (4 * 64 + 3 * 96)
    for operators in Operators:
        onnx.checker.check_model(tmp_path / operators / "model.onnx")


def test_a_graph_says_how_its_weights_are_stored(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(save_model(tmp_path / "dense"))
    quantization = Quantization(WeightFormat.INT8, 16)
    for operators in Operators:
        made = export_graph(checkpoint, tmp_path / operators, operators=operators, quantization=quantization)
        assert describe_graph(made.graph).quantization == quantization
        config = json.loads((tmp_path / operators / "genai_config.json").read_text())
        options = config["model"]["decoder"]["session_options"]
        # in the other graph, each product says so itself
        said = {"session.qdq_matmulnbits_accuracy_level": "4"} if operators is Operators.STANDARD else {}
        assert options == {"provider_options": [], **said}
    assert describe_graph(export_graph(checkpoint, tmp_path / "plain").graph).quantization is None


@pytest.mark.parametrize("operators", Operators)
def test_parity_is_held_to_pytorch_with_the_same_weights(
    operators: Operators, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = save_model(tmp_path / "dense")
    save_tiny_tokenizer(checkpoint)
    export(checkpoint, tmp_path / "out", ExportOptions(operators=operators, weights=WeightFormat.INT4))
    report = validate(tmp_path / "out", ValidateOptions(threads=1, explain=True))
    assert report.holds
    assert report.tolerance < 1e-3
    assert report.explanation is not None
    assert report.explanation.first is None
    assert report.rounded is not None
    assert len(report.rounded.cases) == len(report.cases)
    assert Report.load(tmp_path / "out").parity == report
    # rounding changes more than float32 does, and is what PyTorch says it is
    worst = max(case.max_error for case in report.rounded.cases)
    assert report.tolerance < worst < max(case.tolerance or 0 for case in report.rounded.cases)


def test_parity_finds_a_wrong_code(tmp_path: Path) -> None:
    checkpoint = save_model(tmp_path / "dense")
    save_tiny_tokenizer(checkpoint)
    quantization = Quantization(WeightFormat.INT4)
    graph = export_graph(open_checkpoint(checkpoint), tmp_path / "onnx", quantization=quantization).graph
    model = onnx.load(graph, load_external_data=False)
    (node,) = (node for node in model.graph.node if node.output[0] == "model.layers.1.mlp.up_proj.weight.dequantized")
    node.input[1] = "model.layers.0.mlp.up_proj.weight.scales"
    onnx.save(model, graph)
    report = compare(checkpoint, tmp_path / "onnx", threads=1, progress=Silent())
    assert not report.holds
    assert not any(case.holds for case in report.cases)


def test_the_dense_model_is_benchmarked_in_the_same_format(tmp_path: Path) -> None:
    checkpoint = save_model(tmp_path / "dense")
    save_tiny_tokenizer(checkpoint)
    prune(checkpoint, tmp_path / "out", PruneOptions(ratio=0.2, snap=32, criterion=CriterionName.MAGNITUDE))
    options = ExportOptions(operators=Operators.ONNXRUNTIME, weights=WeightFormat.INT8, block_size=16)
    export(tmp_path / "out/pruned", tmp_path / "out", options)
    manifest = Manifest.load(tmp_path / "out")
    dense = export_dense(tmp_path / "out", Format.ONNX, manifest, tmp_path / "scratch", Silent())
    described = describe_graph(dense / "model.onnx")
    assert described.quantization == Quantization(WeightFormat.INT8, 16)
    assert described.operators is Operators.ONNXRUNTIME
    pruned = weight_bytes_per_token(tmp_path / "out/onnx/model.onnx")
    # of the embedding, only rows are read; each number is a byte, and each block has a scale
    widths = open_checkpoint(tmp_path / "out/pruned").widths
    assert pruned < weight_bytes_per_token(dense / "model.onnx")
    numbers = 100 * 64 + sum(
        64 * 16 * 2 * (each.query_heads + each.key_value_heads) + 3 * 64 * each.neurons for each in widths
    )
    assert numbers * 1.25 < pruned < numbers * 1.25 + 8192


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (ExportOptions(block_size=32), "--block-size 32 is for quantized weights"),
        (ExportOptions(weights=WeightFormat.INT4, block_size=24), "--block-size 24 is not supported"),
        (ExportOptions(weights=WeightFormat.INT4, block_size=512), "--block-size 512 is not supported"),
        (
            ExportOptions(weights=WeightFormat.INT4, block_size=64),
            r"down_proj.weight has 96 inputs.*\nGive --block-size 32; or prune",
        ),
        (ExportOptions(weights=WeightFormat.INT4, opset=Opset.OPSET_20), "needs opset 21 or later"),
        (ExportOptions(weights=WeightFormat.INT4, via=Via.TRACE), "this one is traced: --via trace is given"),
        (ExportOptions(weights=WeightFormat.INT4, to=Format.OPENVINO), "not for --to openvino"),
        (ExportOptions(weights=WeightFormat.INT8, to=Format.TENSORRT), "TensorRT has no blocks of int8"),
        (
            ExportOptions(weights=WeightFormat.FP8, operators=Operators.ONNXRUNTIME),
            r"no product with weights in fp8\.\nGive --weights int8",
        ),
        (ExportOptions(weights=WeightFormat.FP8, block_size=32), "--block-size 32 is for integers"),
        (ExportOptions(weights=WeightFormat.FP8, average_bits=5.0), "--average-bits 5 gives some weights 8 bits"),
        (
            ExportOptions(weights=WeightFormat.FP8, to=Format.TENSORRT, target=TargetName.A100),
            r"a100 has no units for fp8\.\n.*thor, h100, h200, l4, rtx4090, rtx5090",
        ),
    ],
)
def test_what_cannot_be_quantized_says_so_before_anything_is_written(
    options: ExportOptions, said: str, tmp_path: Path
) -> None:
    checkpoint = save_model(tmp_path / "dense")
    with pytest.raises(RequestError, match=said):
        export(checkpoint, tmp_path / "out", options)
    assert not (tmp_path / "out").exists()


def test_a_width_that_no_block_divides_names_what_does(tmp_path: Path) -> None:
    checkpoint = save_tiny_model(tmp_path / "dense", "llama", head_dim=16, hidden_size=64, intermediate_size=100)
    message = r"down_proj.weight has 100 inputs.*\nPrune to a multiple of neurons, such as 96 or 128: --snap 32"
    with pytest.raises(RequestError, match=message):
        export(checkpoint, tmp_path / "out", ExportOptions(weights=WeightFormat.INT4))


@pytest.mark.parametrize(
    ("export", "snap", "expected"),
    [
        (ExportOptions(), None, None),
        (ExportOptions(weights=WeightFormat.INT4), None, 32),
        (ExportOptions(weights=WeightFormat.INT4, block_size=16), None, 16),
        (ExportOptions(weights=WeightFormat.INT4, block_size=64), 128, 128),
        (ExportOptions(weights=WeightFormat.INT4, to=Format.TENSORRT), None, 128),
        (ExportOptions(weights=WeightFormat.FP8, to=Format.TENSORRT), None, None),
    ],
)
def test_plans_keep_whole_blocks_of_neurons(export: ExportOptions, snap: int | None, expected: int | None) -> None:
    assert fit_blocks(PruneOptions(snap=snap), export).snap == expected


def test_a_plan_that_may_leave_parts_of_blocks_is_refused() -> None:
    with pytest.raises(RequestError, match=r"--snap 16 may keep .* blocks of 32 .*\nGive a multiple of 32"):
        fit_blocks(PruneOptions(snap=16), ExportOptions(weights=WeightFormat.INT4))


def test_a_hidden_size_cannot_be_pruned_to_a_multiple(tmp_path: Path) -> None:
    checkpoint = save_tiny_model(tmp_path / "dense", "llama", head_dim=16, hidden_size=48, intermediate_size=64)
    with pytest.raises(
        RequestError, match=r"has 48 inputs, which blocks of 32 do not divide.\nGive --block-size 16\.$"
    ):
        export(checkpoint, tmp_path / "out", ExportOptions(weights=WeightFormat.INT4))
