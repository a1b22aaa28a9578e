from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from amp_export.architectures import ModelConfig
from amp_export.checkpoints.loading import load_model
from amp_export.checkpoints.reading import open_checkpoint, read_config
from amp_export.exporters.onnx import trace
from amp_export.options import Dtype
from amp_export.parity.comparison import compare
from amp_export.parity.encoder_cases import (
    EncoderCase,
    encoder_cases,
    replay_encoder,
    signal_inputs,
    text_inputs,
    torch_encoder,
)
from amp_export.parity.reference import NOISE_FACTOR
from amp_export.progress import Silent
from tests.support.faults import swap_heads, wrong_model
from tests.support.shared import Converted
from tests.support.tiny_models import save_tiny_model

pytestmark = pytest.mark.slow

POOL = np.arange(4, 90)


def config_of(folder: Path, model_type: str, **overrides: object) -> ModelConfig:
    return read_config(save_tiny_model(folder / model_type, model_type, **overrides))[1]


def test_cases_fit_into_the_texts_that_a_model_takes(tmp_path: Path) -> None:
    assert len(encoder_cases(config_of(tmp_path, "bert"))) == 5
    roberta = config_of(tmp_path, "roberta", pad_token_id=1)
    assert roberta.longest_text == 126, "its positions begin at 2"
    assert max(max(case.lengths) for case in encoder_cases(roberta)) == 17
    assert [len(case.lengths) for case in encoder_cases(config_of(tmp_path, "vit"))] == [1, 3]


@pytest.mark.parametrize("length", [126, 127])
def test_the_longest_text_is_the_longest_that_roberta_takes(length: int, tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "roberta", "roberta", pad_token_id=1)
    model, limit = load_model(folder), read_config(folder)[1].longest_text
    inputs = torch.full((1, length), 7)
    if limit is not None and length <= limit:
        model(input_ids=inputs)
    else:
        with pytest.raises((IndexError, RuntimeError)):
            model(input_ids=inputs)


def test_texts_are_padded_on_the_right_with_the_token_that_pads(tmp_path: Path) -> None:
    inputs = text_inputs((2, 4), config_of(tmp_path, "bert", pad_token_id=3), POOL)
    assert inputs["attention_mask"].tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]
    assert inputs["input_ids"][0, 2:].tolist() == [3, 3]
    assert inputs["token_type_ids"].tolist() == [[0, 0, 1, 1]] * 2
    assert "token_type_ids" not in text_inputs((2,), config_of(tmp_path, "distilbert"), POOL)


def test_images_are_numbers_that_the_graph_has(tmp_path: Path) -> None:
    config = config_of(tmp_path, "vit")
    exact, rounded = (signal_inputs((1, 1), config, dtype)["pixel_values"] for dtype in list(Dtype)[:2])
    assert exact.shape == (2, 3, 12, 12)
    assert rounded.dtype == np.float32
    np.testing.assert_array_equal(rounded, exact.astype(np.float16).astype(np.float32))


def test_padding_is_left_out_where_tokens_have_entries(tmp_path: Path) -> None:
    config = config_of(tmp_path, "bert")

    def forward(inputs: Any) -> Any:
        tokens = inputs["input_ids"].astype(np.float32)
        return {"by_token": np.stack([tokens, tokens], axis=2), "pooled": tokens[:, :3], "flat": tokens}

    found = replay_encoder(
        EncoderCase("any", (2, 5)), config, POOL, forward, by_token={"by_token", "flat"}, dtype=Dtype.FLOAT32
    )
    assert {name: values.shape for name, values in found.items()} == {
        "by_token": (7, 2),
        "pooled": (2, 3),
        "flat": (7, 1),
    }
    assert 0 not in found["by_token"]


@pytest.fixture(scope="module")
def bare_bert(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A checkpoint and its graph, with two outputs of which one has no tokens."""
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    folder = tmp_path_factory.mktemp("bert")
    checkpoint = save_tiny_model(folder / "checkpoint", "bert", class_name="BertModel", num_hidden_layers=2)
    trace(load_model(checkpoint), folder / "onnx", dtype=Dtype.FLOAT32)
    return checkpoint, folder / "onnx"


def test_every_output_is_held_against_its_own_noise(bare_bert: tuple[Path, Path]) -> None:
    report = compare(*bare_bert, threads=1, progress=Silent())
    assert report.holds, report.cases
    by_output = {}
    for name in ("last_hidden_state", "pooler_output"):
        cases = [case for case in report.cases if case.output == name]
        assert {case.tolerance for case in cases} == {NOISE_FACTOR * max(case.noise for case in cases)}
        by_output[name] = [case.positions for case in cases]
    assert by_output == {"last_hidden_state": [1, 2, 17, 128, 5 + 11 + 17], "pooler_output": [1, 1, 1, 1, 3]}
    assert report.tolerance == max(case.tolerance for case in report.cases)


FAULTS: dict[str, Callable[[torch.nn.Module], None]] = {
    "swapped heads": lambda model: swap_heads(model.encoder.layer[1]),
    "bias of one neuron": lambda model: model.encoder.layer[0].intermediate.dense.bias[3].add_(1e-2),
    "pooler alone": lambda model: model.pooler.dense.weight[0].mul_(1.001),
    "kinds of tokens": lambda model: model.embeddings.token_type_embeddings.weight.copy_(
        model.embeddings.token_type_embeddings.weight[[1, 0]].clone()
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_weights_that_are_wrong_are_caught(fault: str, bare_bert: tuple[Path, Path], tmp_path: Path) -> None:
    checkpoint, graph = bare_bert
    report = compare(wrong_model(checkpoint, tmp_path, FAULTS[fault]), graph, threads=1, progress=Silent())
    failed = {case.output for case in report.cases if not case.holds}
    assert failed == ({"pooler_output"} if fault == "pooler alone" else {"last_hidden_state", "pooler_output"})


@pytest.mark.parametrize("fault", [{"layer_norm_eps": 1e-4}, {"hidden_act": "gelu_new"}])
def test_a_config_that_is_wrong_is_caught(
    fault: dict[str, object], bare_bert: tuple[Path, Path], tmp_path: Path
) -> None:
    checkpoint, graph = bare_bert
    other = Path(shutil.copytree(checkpoint, tmp_path / "other"))
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, **fault}))
    assert not compare(other, graph, threads=1, progress=Silent()).holds


def test_a_fault_in_an_image_encoder_is_caught(converted: Callable[[str], Converted], tmp_path: Path) -> None:
    output = converted("vit").output
    other = wrong_model(output / "pruned", tmp_path, lambda model: model.vit.layers[0].mlp.fc1.bias[0].add_(0.05))
    assert compare(output / "pruned", output / "onnx", threads=1, progress=Silent()).holds
    assert not compare(other, output / "onnx", threads=1, progress=Silent()).holds


def test_pytorch_is_given_what_it_takes_and_nothing_else(tmp_path: Path) -> None:
    model = load_model(save_tiny_model(tmp_path / "distilbert", "distilbert"))
    inputs = text_inputs((3,), open_checkpoint(tmp_path / "distilbert").config, POOL)
    given = {**inputs, "token_type_ids": inputs["input_ids"]}
    with torch.inference_mode():
        found = torch_encoder(model, ("logits",))(given)
    assert found["logits"].shape == (1, 3, 101)
    assert found["logits"].dtype == np.float64
