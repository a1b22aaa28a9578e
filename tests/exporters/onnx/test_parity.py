"""The exported graph computes what transformers computes, for every architecture and way of calling it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, DynamicCache

from amp_export.architectures import (
    AttentionScale,
    Computation,
    Factor,
    HeadNorms,
    LayerWidths,
    Learned,
    NormKind,
    Order,
    Rotary,
    find_architecture,
)
from amp_export.checkpoints.reading import open_checkpoint
from amp_export.exporters.models.decoder import GraphDecoder
from amp_export.exporters.onnx import export, run
from amp_export.options import Dtype, Opset
from tests.support.tiny_models import NOISE, TINY_CONFIG, save_tiny_model
from tests.support.uneven_models import UNEVEN, uneven

LONGROPE = {
    "rope_type": "longrope",
    "short_factor": [1.0, 1.3, 1.7, 2.2],
    "long_factor": [1.5, 2.5, 4.0, 8.0],
}

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama, grouped": ("llama", {}),
    "llama, one key/value head a query head": ("llama", {"num_key_value_heads": 4}),
    "llama, one key/value head": ("llama", {"num_key_value_heads": 1}),
    "llama, biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama, tied": ("llama", {"tie_word_embeddings": True}),
    "llama, heads wider than the hidden size": ("llama", {"head_dim": 12}),
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
    "phi": ("phi", {}),
    "phi, norms of heads": ("phi", {"qk_layernorm": True}),
    "phi3": ("phi3", {}),
    "phi3, half turned, window": ("phi3", {"partial_rotary_factor": 0.5, "sliding_window": 5}),
    "phi3, longrope within": ("phi3", {"original_max_position_embeddings": 64, "rope_parameters": LONGROPE}),
    "gemma": ("gemma", {}),
    "gemma, old name of the activation": ("gemma", {"hidden_act": "gelu"}),
    "gemma2": ("gemma2", {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 8.0}),
    "gemma2, no caps": ("gemma2", {"attn_logit_softcapping": None, "final_logit_softcapping": None}),
    "gemma3": ("gemma3_text", {"num_hidden_layers": 6, "final_logit_softcapping": 8.0}),
    "gemma3, scaled": (
        "gemma3_text",
        {"rope_scaling": {"rope_type": "linear", "factor": 8.0}, "layer_types": ["full_attention"] * 3},
    ),
    "granite": ("granite", {}),
    "smollm3": ("smollm3", {"no_rope_layer_interval": 2}),
    "smollm3, windows where nothing turns": (
        "smollm3",
        {"no_rope_layers": [0, 1, 0], "use_sliding_window": True, "sliding_window": 4},
    ),
    "olmo2": ("olmo2", {}),
    "olmo2, epsilon": ("olmo2", {"rms_norm_eps": 0.3}),
    "starcoder2": ("starcoder2", {}),
    "starcoder2, no biases, window": ("starcoder2", {"use_bias": False, "sliding_window": 5}),
    "cohere": ("cohere", {}),
    "cohere, norms of heads, tied": ("cohere", {"use_qk_norm": True, "tie_word_embeddings": True}),
    "stablelm": ("stablelm", {}),
    "stablelm, parallel, biases": ("stablelm", {"use_parallel_residual": True, "use_qkv_bias": True}),
    "gpt2": ("gpt2", {}),
    "gpt2, scales by layer, tied": ("gpt2", {"scale_attn_by_inverse_layer_idx": True, "tie_word_embeddings": True}),
    "gpt2, no scale": ("gpt2", {"scale_attn_weights": False}),
    "opt": ("opt", {}),
    "opt, no biases": ("opt", {"enable_bias": False}),
    "gpt_neox": ("gpt_neox", {"rotary_pct": 0.5}),
    "gpt_neox, one after the other, gelu_fast": (
        "gpt_neox",
        {"use_parallel_residual": False, "attention_bias": False, "hidden_act": "gelu_fast"},
    ),
    "falcon, one key/value head": ("falcon", {}),
    "falcon, a key/value head a query head": ("falcon", {"multi_query": False, "num_key_value_heads": 4}),
    "falcon, one after the other": ("falcon", {"parallel_attn": False}),
    "falcon, new": ("falcon", {"new_decoder_architecture": True}),
    "falcon, new, one norm, no biases": (
        "falcon",
        {"new_decoder_architecture": True, "num_ln_in_parallel_attn": 1, "bias": False},
    ),
    "mixtral": ("mixtral", {}),
    "mixtral, one expert a token, window": ("mixtral", {"num_experts_per_tok": 1, "sliding_window": 5}),
    "mixtral, all experts": ("mixtral", {"num_experts_per_tok": 4}),
    "qwen3_moe": ("qwen3_moe", {}),
    "qwen3_moe, weights that do not add up to one": ("qwen3_moe", {"norm_topk_prob": False}),
    "qwen2_moe": ("qwen2_moe", {}),
    "qwen2_moe, windows in some layers": (
        "qwen2_moe",
        {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 2},
    ),
    "olmoe": ("olmoe", {}),
    "olmoe, nothing clipped": ("olmoe", {"clip_qkv": None, "norm_topk_prob": False}),
    "phimoe": ("phimoe", {"router_jitter_noise": 0.4}),
    "phimoe, two experts whatever the config says": ("phimoe", {"num_experts_per_tok": 3}),
    "phimoe, biases": ("phimoe", {"attention_bias": True, "lm_head_bias": True}),
    "granitemoe": ("granitemoe", {}),
    "gpt_oss": ("gpt_oss", {}),
    "gpt_oss, no window": ("gpt_oss", {"layer_types": ["full_attention"] * 3, "attention_bias": False}),
}
TOLERANCE = 1e-4
"""Of logits whose standard deviation is about 6: the noise is 2e-5, a wrong position or head 1 and more."""

LENGTH = 17


@dataclasses.dataclass(frozen=True)
class Pair:
    """A graph and the model it was built from.

    Attributes:
        decoder: The graph.
        older: The same as a graph of opset 20, where it was made.
        model: The model in float64.
        tolerance: Four times what the model is off in float32.
    """

    decoder: GraphDecoder
    model: Any
    tolerance: float
    older: GraphDecoder | None = None


@pytest.fixture(scope="module", params=MODELS.values(), ids=MODELS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    model_type, overrides = request.param
    folder = tmp_path_factory.mktemp("model")
    checkpoint = save_tiny_model(folder / "checkpoint", model_type, **overrides)
    export(open_checkpoint(checkpoint), folder / "onnx")
    export(open_checkpoint(checkpoint), folder / "older", opset=Opset.OPSET_20)
    return dataclasses.replace(make_pair(folder / "onnx", checkpoint), older=run(folder / "older", threads=1))


def make_pair(graph: Path, checkpoint: Path) -> Pair:
    exact, rounded = (
        AutoModelForCausalLM.from_pretrained(checkpoint, dtype=dtype) for dtype in (torch.float64, torch.float32)
    )
    compute_in_double(exact)
    input_ids = some_tokens()
    expected = torch_logits(exact, input_ids)
    assert expected.std() > 1
    noise = np.abs(torch_logits(rounded, input_ids) - expected).max()
    assert noise < TOLERANCE, "more than rounding"
    return Pair(run(graph, threads=1), exact, 4 * float(noise))


def compute_in_double(model: Any) -> Any:
    model = model.double()
    if find_architecture(model.config.model_type).mlp.has_experts:
        model.set_experts_implementation("eager")  # the fast one knows no float64
    return model


def some_tokens(batch_size: int = 2) -> np.ndarray:
    return np.random.default_rng(7).integers(3, TINY_CONFIG["vocab_size"], (batch_size, LENGTH))


def places(attention_mask: np.ndarray) -> np.ndarray:
    return np.maximum(attention_mask.cumsum(axis=1) - 1, 0)


def torch_logits(model: Any, input_ids: np.ndarray, attention_mask: np.ndarray | None = None) -> np.ndarray:
    """Each text by itself: padding must change nothing, so the reference has none. Logits of padding are zero."""
    mask = attention_mask if attention_mask is not None else np.ones_like(input_ids)
    logits = np.zeros((*input_ids.shape, TINY_CONFIG["vocab_size"]))
    with torch.no_grad():
        for row, tokens in enumerate(mask == 1):
            logits[row, tokens] = model(input_ids=torch.tensor(input_ids[row, tokens])[None]).logits[0].numpy()
    return logits


def in_chunks(decoder: GraphDecoder, input_ids: np.ndarray, attention_mask: np.ndarray, ends: list[int]) -> np.ndarray:
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
def test_logits_agree_with_transformers(pair: Pair, ends: list[int]) -> None:
    input_ids = some_tokens()
    found = in_chunks(pair.decoder, input_ids, np.ones_like(input_ids), ends)
    np.testing.assert_allclose(found, torch_logits(pair.model, input_ids), rtol=0, atol=pair.tolerance)


@pytest.mark.parametrize("ends", CHUNKS.values(), ids=CHUNKS)
def test_left_padded_batches_agree_with_transformers(pair: Pair, ends: list[int]) -> None:
    input_ids = some_tokens(3)
    attention_mask = np.ones_like(input_ids)
    attention_mask[1, :4] = 0
    attention_mask[2, :11] = 0
    found = in_chunks(pair.decoder, input_ids, attention_mask, ends)
    assert np.isfinite(found).all()
    real = attention_mask == 1
    expected = torch_logits(pair.model, input_ids, attention_mask)
    np.testing.assert_allclose(found[real], expected[real], rtol=0, atol=pair.tolerance)


def test_older_operators_compute_the_same(pair: Pair) -> None:
    assert pair.older is not None
    input_ids = some_tokens(3)
    attention_mask = np.ones_like(input_ids)
    attention_mask[1, :4] = 0
    found = in_chunks(pair.older, input_ids, attention_mask, [6, 7, LENGTH])
    real = attention_mask == 1
    expected = torch_logits(pair.model, input_ids, attention_mask)
    np.testing.assert_allclose(found[real], expected[real], rtol=0, atol=pair.tolerance)


@pytest.mark.parametrize("count", [1, 3, LENGTH])
def test_logits_of_the_last_tokens_alone_are_those_among_all(pair: Pair, count: int) -> None:
    assert pair.older is not None
    input_ids = some_tokens(3)
    attention_mask = np.ones_like(input_ids)
    attention_mask[1, :4] = 0
    given = (input_ids, attention_mask, places(attention_mask))
    for decoder in (pair.decoder, pair.older):
        whole, past = decoder.forward(*given)
        last, past_too = decoder.forward(*given, logits_to_keep=count)
        assert last.shape[1] == count
        np.testing.assert_allclose(last, whole[:, -count:], rtol=0, atol=pair.tolerance)
        for name, value in past.values.items():
            np.testing.assert_array_equal(past_too.values[name].numpy(), value.numpy())


def test_padding_changes_nothing(pair: Pair) -> None:
    alone = some_tokens(1)
    padded = np.concatenate([np.zeros((1, 6), np.int64), alone], axis=1)
    mask = np.concatenate([np.zeros((1, 6), np.int64), np.ones_like(alone)], axis=1)
    with_padding, _ = pair.decoder.forward(padded, mask, places(mask))
    without, _ = pair.decoder.forward(alone, np.ones_like(alone), places(np.ones_like(alone)))
    np.testing.assert_allclose(with_padding[:, 6:], without, rtol=0, atol=pair.tolerance)


@pytest.mark.parametrize("ends", [[8], [LENGTH], [8, 9, 12, LENGTH], [6, *range(7, LENGTH + 1)]], ids=str)
@pytest.mark.parametrize("short", [0, 9], ids=["texts of one length", "one text within, one beyond"])
def test_longrope_switches_where_the_longest_text_of_a_batch_does(tmp_path: Path, ends: list[int], short: int) -> None:
    checkpoint = save_tiny_model(
        tmp_path / "checkpoint", "phi3", original_max_position_embeddings=10, rope_parameters=LONGROPE
    )
    export(open_checkpoint(checkpoint), tmp_path / "onnx")
    pair = make_pair(tmp_path / "onnx", checkpoint)
    input_ids = some_tokens()[:, : ends[-1]]
    mask = np.ones_like(input_ids)
    mask[0, : min(short, ends[0] - 1)] = 0
    found = in_chunks(pair.decoder, input_ids, mask, ends)
    # keys stay as they were turned, so that the reference must be given the same chunks
    cache, expected, start = DynamicCache(config=pair.model.config), [], 0
    for end in ends:
        with torch.no_grad():
            result = pair.model(
                input_ids=torch.tensor(input_ids[:, start:end]),
                attention_mask=torch.tensor(mask[:, :end]),
                position_ids=torch.tensor(places(mask)[:, start:end]),
                cache=cache,
            )
        expected.append(result.logits.numpy())
        start = end
    real = mask == 1
    np.testing.assert_allclose(found[real], np.concatenate(expected, axis=1)[real], rtol=0, atol=pair.tolerance)


def falcon_h1() -> Computation:
    computation = find_architecture("falcon_h1").computation
    assert computation is not None
    return computation


def without(projection: str) -> dict[str, tuple[Factor, ...]]:
    """Falcon-H1's multipliers of what linear layers write, but those of one."""
    return {name: factors for name, factors in falcon_h1().write_factors.items() if name != projection}


def turned_around() -> dict[str, tuple[Factor, ...]]:
    """The multipliers, with those of several parts in another order."""
    return {name: factors[::-1] for name, factors in falcon_h1().write_factors.items()}


WRONG: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "norm's weight counts from one": ("gemma", {}, {"norm": NormKind.RMS}),
    "norm takes the mean away": ("cohere", {}, {"norm": NormKind.RMS}),
    "epsilon of a layer norm": ("opt", {}, {"epsilon": 1e-3}),
    "epsilon of the family's field": ("starcoder2", {"norm_epsilon": 1e-2}, {"epsilon": 1e-5}),
    "MLP beside the attention": ("gpt_neox", {}, {"orders": (Order("input_layernorm", "post_attention_layernorm"),)}),
    "MLP after the attention": (
        "stablelm",
        {},
        {"orders": (Order("input_layernorm", "post_attention_layernorm", parallel=True),)},
    ),
    "MLP's own norm": ("gpt_neox", {}, {"orders": (Order("input_layernorm", "input_layernorm", parallel=True),)}),
    "which of two norms": (
        "falcon",
        {"new_decoder_architecture": True},
        {"orders": (Order("ln_mlp", "ln_attn", parallel=True),)},
    ),
    "norms behind": (
        "gemma2",
        {},
        {"orders": (Order("input_layernorm", "pre_feedforward_layernorm"),)},
    ),
    "norms behind alone": (
        "olmo2",
        {},
        {"orders": (Order("post_attention_layernorm", "post_feedforward_layernorm"),)},
    ),
    "norms of heads": ("gemma3_text", {}, {"head_norms": None}),
    "norms of heads, biased": ("phi", {"qk_layernorm": True}, {"head_norms": None}),
    "norms of heads, of their own": ("cohere", {"use_qk_norm": True}, {"head_norms": None}),
    "norms of all heads": ("olmo2", {"rms_norm_eps": 1e-5}, {"head_norms": None}),
    "where positions begin": ("opt", {}, {"positions": Learned("model.decoder.embed_positions", offset=1)}),
    "norm's weight counts from one, and the mean goes": ("nemotron", {}, {"norm": NormKind.LAYER}),
    "norms of turned heads": (
        "hunyuan_v1_dense",
        {},
        {"head_norms": HeadNorms("self_attn.query_layernorm", "self_attn.key_layernorm")},
    ),
    "how much of a head turns": ("gptj", {}, {"positions": Rotary(theta=(None, 10_000.0), interleaved=True)}),
    "layers without a window that do not turn": ("exaone4", {}, {"positions": Rotary()}),
    "attention scale by position": ("ministral3", {}, {"attention_scale": AttentionScale()}),
    "pairs of neighbours": ("cohere", {}, {"positions": Rotary()}),
    "layers that do not turn": ("smollm3", {"no_rope_layer_interval": 2}, {"positions": Rotary()}),
    "attention scale of a scalar": ("gemma2", {}, {"attention_scale": AttentionScale()}),
    "attention scale of a multiplier": ("granite", {}, {"attention_scale": AttentionScale()}),
    "attention scale by layer": (
        "gpt2",
        {"scale_attn_by_inverse_layer_idx": True},
        {"attention_scale": AttentionScale()},
    ),
    "attention scale switched off": ("gpt2", {"scale_attn_weights": False}, {"attention_scale": AttentionScale()}),
    "cap of scores": ("gemma2", {"attn_logit_softcapping": 5.0}, {"attention_softcap": None}),
    "cap of logits": ("gemma3_text", {"final_logit_softcapping": 20.0}, {"logit_softcap": None}),
    "scale of embeddings": ("gemma", {}, {"embedding_factor": None}),
    "multiplier of embeddings": ("granite", {}, {"embedding_factor": None}),
    "multiplier of what is added": ("granite", {}, {"residual_factor": None}),
    "multipliers of what blocks read": ("falcon_h1", {}, {"read_factors": {}}),
    **{
        f"multiplier of what {name} writes": ("falcon_h1", {}, {"write_factors": without(name)})
        for name in falcon_h1().write_factors
    },
    "multipliers of parts in another order": ("falcon_h1", {}, {"write_factors": turned_around()}),
    "divisor of logits": ("granite", {}, {"logit_factor": None}),
    "multiplier of logits": ("cohere", {}, {"logit_factor": None}),
    "activation": ("gemma", {}, {"activation_names": {"gelu_pytorch_tanh": "gelu"}}),
}
"""For each fact a model that it matters to, and what a careless reader might take for it."""


@pytest.mark.parametrize(("model_type", "overrides", "wrong"), WRONG.values(), ids=WRONG)
def test_a_wrong_fact_would_show(
    tmp_path: Path, model_type: str, overrides: dict[str, Any], wrong: dict[str, Any]
) -> None:
    folder = save_tiny_model(tmp_path / "checkpoint", model_type, **overrides)
    checkpoint = open_checkpoint(folder)
    computation = checkpoint.config.architecture.computation
    assert computation is not None
    architecture = dataclasses.replace(
        checkpoint.config.architecture, computation=dataclasses.replace(computation, **wrong)
    )
    config = dataclasses.replace(checkpoint.config, architecture=architecture)
    export(dataclasses.replace(checkpoint, config=config), tmp_path / "onnx")
    pair = make_pair(tmp_path / "onnx", folder)
    input_ids = some_tokens()
    found = in_chunks(pair.decoder, input_ids, np.ones_like(input_ids), [LENGTH])
    assert np.abs(found - torch_logits(pair.model, input_ids)).max() > 20 * pair.tolerance


@pytest.mark.parametrize("hidden_act", ["silu", "swish", "gelu", "gelu_fast", "gelu_new", "gelu_pytorch_tanh", "relu"])
def test_every_activation_function_agrees(tmp_path: Path, hidden_act: str) -> None:
    checkpoint = save_tiny_model(tmp_path / "checkpoint", "llama", hidden_act=hidden_act)
    export(open_checkpoint(checkpoint), tmp_path / "onnx")
    pair = make_pair(tmp_path / "onnx", checkpoint)
    input_ids = some_tokens()
    found = in_chunks(pair.decoder, input_ids, np.ones_like(input_ids), [LENGTH])
    np.testing.assert_allclose(found, torch_logits(pair.model, input_ids), rtol=0, atol=pair.tolerance)


HALF: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen3, tied": ("qwen3", {"tie_word_embeddings": True}),
    "qwen3": ("qwen3", {}),
    "gemma2": ("gemma2", {}),
    "gemma3": ("gemma3_text", {}),
    "cohere, norms of heads": ("cohere", {"use_qk_norm": True}),
    "granite": ("granite", {}),
    "gpt_neox": ("gpt_neox", {}),
    "phi3": ("phi3", {}),
}


@pytest.mark.parametrize(("model_type", "overrides"), HALF.values(), ids=HALF)
def test_float16_is_as_near_to_float32_as_torch_is_in_float16(
    tmp_path: Path, model_type: str, overrides: dict[str, Any]
) -> None:
    checkpoint = save_tiny_model(tmp_path / "checkpoint", model_type, **overrides)
    export(open_checkpoint(checkpoint), tmp_path / "onnx", dtype=Dtype.FLOAT16)
    input_ids = some_tokens()
    found = in_chunks(run(tmp_path / "onnx", threads=1), input_ids, np.ones_like(input_ids), [6, 7, LENGTH])
    exact, half = (
        torch_logits(AutoModelForCausalLM.from_pretrained(checkpoint, dtype=dtype), input_ids)
        for dtype in (torch.float32, torch.float16)
    )
    noise = np.abs(half - exact).max()
    assert found.dtype == np.float32
    assert 0 < np.abs(found - exact).max() < 2 * noise


@pytest.mark.parametrize(("model_type", "overrides", "widths"), UNEVEN.values(), ids=UNEVEN)
def test_each_layer_may_have_its_own_widths(
    tmp_path: Path, model_type: str, overrides: dict[str, Any], widths: tuple[LayerWidths, ...]
) -> None:
    checkpoint, model = uneven(tmp_path, model_type, overrides, widths)
    exported = export(checkpoint, tmp_path / "onnx")
    input_ids = some_tokens()
    found = in_chunks(run(exported.folder, threads=1), input_ids, np.ones_like(input_ids), [5, 6, LENGTH])
    atol = NOISE.get(model_type, TOLERANCE)
    np.testing.assert_allclose(found, torch_logits(compute_in_double(model), input_ids), rtol=0, atol=atol)
