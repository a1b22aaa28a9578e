from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amp_export.checkpoints.reading import open_checkpoint
from amp_export.exporters.onnx import export
from amp_export.exporters.onnx.builder.packing import describe_rows, read_rows
from amp_export.exporters.onnx.quantization import Quantization
from amp_export.exporters.onnx.quantized_weights import quantized_names, read_quantized
from amp_export.options import Operators, WeightFormat
from tests.support.tiny_models import save_tiny_model

LAYER = "model.layers.0.self_attn"


def exported(folder: Path, checkpoint: Path, operators: Operators, *, at_8_bits: tuple[str, ...] = ()) -> Path:
    quantization = Quantization(WeightFormat.INT4, block_size=16, at_8_bits=at_8_bits)
    return export(open_checkpoint(checkpoint), folder / operators, operators=operators, quantization=quantization).graph


@pytest.mark.parametrize(
    ("model_type", "fields", "at_8_bits", "is_packed"),
    [
        ("llama", {}, (), True),
        ("qwen2", {}, (), True),
        ("llama", {}, (f"{LAYER}.{name}_proj.weight" for name in "qkv"), True),
        ("llama", {}, (f"{LAYER}.v_proj.weight",), False),
        ("qwen3", {}, (), False),
        ("stablelm", {"partial_rotary_factor": 0.25}, (), False),
    ],
    ids=["plain", "with biases", "all in 8 bits", "of mixed bits", "norms of heads", "rotated before"],
)
def test_projections_are_one_product_where_nothing_lies_between(
    model_type: str, fields: dict[str, float], at_8_bits: tuple[str, ...], is_packed: bool, tmp_path: Path
) -> None:
    checkpoint = save_tiny_model(tmp_path / "checkpoint", model_type, head_dim=16, **fields)
    more = tuple(at_8_bits)
    fused = exported(tmp_path, checkpoint, Operators.ONNXRUNTIME, at_8_bits=more)
    standard = exported(tmp_path, checkpoint, Operators.STANDARD, at_8_bits=more)

    names = {node.name for node in onnx.load(fused, load_external_data=False).graph.node}
    assert any(f"{LAYER}.queries_keys_values" in name for name in names) is is_packed
    found, expected = dict(read_quantized(fused)), dict(read_quantized(standard))
    assert set(found) == set(quantized_names(fused)) >= set(expected)
    for name, weight in expected.items():
        np.testing.assert_array_equal(found[name].codes_oi, weight.codes_oi, err_msg=name)
        np.testing.assert_array_equal(found[name].scales_ob, weight.scales_ob, err_msg=name)


NAMES = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1)


@given(st.dictionaries(NAMES, st.integers(1, 10**6)))
def test_rows_are_read_as_they_are_described(rows: dict[str, int]) -> None:
    assert read_rows(describe_rows(rows)) == rows
