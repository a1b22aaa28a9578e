"""The exported graph computes what transformers computes, for every architecture and way of calling it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import TINY_CONFIG, randomize, save_tiny_model
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from amp_export.architectures import LayerWidths
from amp_export.checkpoints import Checkpoint, TensorInfo, open_checkpoint
from amp_export.exporters import Precision
from amp_export.exporters.onnx import OnnxDecoder, export, run

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama, grouped": ("llama", {}),
    "llama, one key/value head a query head": ("llama", {"num_key_value_heads": 4}),
    "llama, one key/value head": ("llama", {"num_key_value_heads": 1}),
    "llama, biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama, tied": ("llama", {"tie_word_embeddings": True}),
    "llama, heads wider than the hidden size": ("llama", {"head_dim": 12}),
    "mistral, full attention": ("mistral", {"sliding_window": None}),
    "mistral, heads that do not divide the hidden size": (
        "mistral",
        {"sliding_window": None, "num_attention_heads": 3, "num_key_value_heads": 1},
    ),
    "mistral, window shorter than the text": ("mistral", {"sliding_window": 5}),
    "qwen2": ("qwen2", {}),
    "qwen2, windows in some layers": (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1},
    ),
    "qwen3": ("qwen3", {}),
    "qwen3, biases, tied": ("qwen3", {"attention_bias": True, "tie_word_embeddings": True, "num_key_value_heads": 4}),
}
TOLERANCE = 1e-4
"""Of logits whose standard deviation is about 6: the noise is 2e-5, a wrong position or head 1 and more."""

LENGTH = 17


@pytest.fixture(scope="module", params=MODELS.values(), ids=MODELS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[OnnxDecoder, Any]:
    model_type, overrides = request.param
    folder = tmp_path_factory.mktemp("model")
    checkpoint = save_tiny_model(folder / "checkpoint", model_type, **overrides)
    export(open_checkpoint(checkpoint), folder / "onnx")
    return run(folder / "onnx", threads=1), AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)


def some_tokens(batch_size: int = 2) -> np.ndarray:
    return np.random.default_rng(7).integers(3, TINY_CONFIG["vocab_size"], (batch_size, LENGTH))


def places(attention_mask: np.ndarray) -> np.ndarray:
    return np.maximum(attention_mask.cumsum(axis=1) - 1, 0)


def torch_logits(model: Any, input_ids: np.ndarray, attention_mask: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        logits: np.ndarray = model(
            input_ids=torch.tensor(input_ids),
            attention_mask=torch.tensor(attention_mask),
            position_ids=torch.tensor(places(attention_mask)),
        ).logits.numpy()
    return logits


def in_chunks(decoder: OnnxDecoder, input_ids: np.ndarray, attention_mask: np.ndarray, ends: list[int]) -> np.ndarray:
    past, logits, start = None, [], 0
    for end in ends:
        chunk, past = decoder.forward(
            input_ids[:, start:end], attention_mask[:, :end], places(attention_mask)[:, start:end], past
        )
        logits.append(chunk)
        start = end
    return np.concatenate(logits, axis=1)


CHUNKS = {
    "prefill": [LENGTH],
    "decode token by token": [6, *range(7, LENGTH + 1)],
    "several tokens at a time": [5, 9, 10, LENGTH],
}


@pytest.mark.parametrize("ends", CHUNKS.values(), ids=CHUNKS)
def test_logits_agree_with_transformers(pair: tuple[OnnxDecoder, Any], ends: list[int]) -> None:
    decoder, model = pair
    input_ids = some_tokens()
    attention_mask = np.ones_like(input_ids)
    expected = torch_logits(model, input_ids, attention_mask)
    assert expected.std() > 3
    found = in_chunks(decoder, input_ids, attention_mask, ends)
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("ends", CHUNKS.values(), ids=CHUNKS)
def test_left_padded_batches_agree_with_transformers(pair: tuple[OnnxDecoder, Any], ends: list[int]) -> None:
    decoder, model = pair
    input_ids = some_tokens(3)
    attention_mask = np.ones_like(input_ids)
    attention_mask[1, :4] = 0
    attention_mask[2, :11] = 0
    found = in_chunks(decoder, input_ids, attention_mask, ends)
    assert np.isfinite(found).all()
    real = attention_mask == 1
    expected = torch_logits(model, input_ids, attention_mask)
    np.testing.assert_allclose(found[real], expected[real], rtol=0, atol=TOLERANCE)


def test_padding_changes_nothing(pair: tuple[OnnxDecoder, Any]) -> None:
    decoder, _ = pair
    alone = some_tokens(1)
    padded = np.concatenate([np.zeros((1, 6), np.int64), alone], axis=1)
    mask = np.concatenate([np.zeros((1, 6), np.int64), np.ones_like(alone)], axis=1)
    with_padding, _ = decoder.forward(padded, mask, places(mask))
    without, _ = decoder.forward(alone, np.ones_like(alone), places(np.ones_like(alone)))
    np.testing.assert_allclose(with_padding[:, 6:], without, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("hidden_act", ["silu", "swish", "gelu", "gelu_new", "gelu_pytorch_tanh", "relu"])
def test_every_activation_function_agrees(tmp_path: Path, hidden_act: str) -> None:
    checkpoint = save_tiny_model(tmp_path / "checkpoint", "llama", hidden_act=hidden_act)
    export(open_checkpoint(checkpoint), tmp_path / "onnx")
    input_ids = some_tokens()
    mask = np.ones_like(input_ids)
    found, _ = run(tmp_path / "onnx", threads=1).forward(input_ids, mask, places(mask))
    expected = torch_logits(AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32), input_ids, mask)
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("tied", [True, False])
def test_float16_is_as_near_to_float32_as_torch_is_in_float16(tmp_path: Path, tied: bool) -> None:
    checkpoint = save_tiny_model(tmp_path / "checkpoint", "qwen3", tie_word_embeddings=tied)
    export(open_checkpoint(checkpoint), tmp_path / "onnx", precision=Precision.FLOAT16)
    input_ids = some_tokens()
    mask = np.ones_like(input_ids)
    found = in_chunks(run(tmp_path / "onnx", threads=1), input_ids, mask, [6, 7, LENGTH])
    exact, half = (
        torch_logits(AutoModelForCausalLM.from_pretrained(checkpoint, dtype=dtype), input_ids, mask)
        for dtype in (torch.float32, torch.float16)
    )
    noise = np.abs(half - exact).max()
    assert found.dtype == np.float32
    assert 0 < np.abs(found - exact).max() < 2 * noise


@dataclasses.dataclass(frozen=True)
class UnevenCheckpoint(Checkpoint):
    """A checkpoint such as no config can describe: each layer with its own widths."""

    layer_widths: tuple[LayerWidths, ...] = ()

    @property
    def widths(self) -> tuple[LayerWidths, ...]:
        return self.layer_widths


@pytest.fixture
def uneven(tmp_path: Path) -> tuple[UnevenCheckpoint, Callable[[np.ndarray], np.ndarray]]:
    """The checkpoint, and the logits of a Llama whose layers were resized by hand."""
    from safetensors.torch import save_file

    widths = (LayerWidths(4, 2, 40), LayerWidths(2, 1, 64), LayerWidths(3, 3, 7))
    model = LlamaForCausalLM(LlamaConfig(**TINY_CONFIG))
    model.config._attn_implementation = "eager"
    for layer, layer_widths in zip(model.model.layers, widths, strict=True):
        attention, mlp, hidden = layer.self_attn, layer.mlp, TINY_CONFIG["hidden_size"]
        head_dim = TINY_CONFIG["head_dim"]
        attention.q_proj = torch.nn.Linear(hidden, layer_widths.query_heads * head_dim, bias=False)
        attention.k_proj = torch.nn.Linear(hidden, layer_widths.key_value_heads * head_dim, bias=False)
        attention.v_proj = torch.nn.Linear(hidden, layer_widths.key_value_heads * head_dim, bias=False)
        attention.o_proj = torch.nn.Linear(layer_widths.query_heads * head_dim, hidden, bias=False)
        attention.num_key_value_groups = layer_widths.query_group
        mlp.gate_proj = torch.nn.Linear(hidden, layer_widths.neurons, bias=False)
        mlp.up_proj = torch.nn.Linear(hidden, layer_widths.neurons, bias=False)
        mlp.down_proj = torch.nn.Linear(layer_widths.neurons, hidden, bias=False)
    randomize(model)
    file = tmp_path / "model.safetensors"
    save_file(model.state_dict(), file)
    tensors = {name: TensorInfo(file, "float32", tuple(value.shape)) for name, value in model.state_dict().items()}
    donor = open_checkpoint(save_tiny_model(tmp_path / "donor", "llama"))
    checkpoint = UnevenCheckpoint(tmp_path, donor.raw_config, donor.config, tensors, layer_widths=widths)
    return checkpoint, lambda input_ids: torch_logits(model, input_ids, np.ones_like(input_ids))


def test_each_layer_may_have_its_own_widths(
    tmp_path: Path, uneven: tuple[UnevenCheckpoint, Callable[[np.ndarray], np.ndarray]]
) -> None:
    checkpoint, expected = uneven
    exported = export(checkpoint, tmp_path / "onnx")
    input_ids = some_tokens()
    found = in_chunks(run(exported.folder, threads=1), input_ids, np.ones_like(input_ids), [5, 6, LENGTH])
    np.testing.assert_allclose(found, expected(input_ids), rtol=0, atol=TOLERANCE)
    assert not (exported.folder / "genai_config.json").exists()
