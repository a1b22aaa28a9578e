"""Traced graphs compute what transformers computes, at shapes other than those that were traced."""

from __future__ import annotations

import itertools
import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir
import onnxruntime
import pytest
import torch
import transformers

from amp_export.architectures import Kind
from amp_export.checkpoints.loading import load_model
from amp_export.checkpoints.reading import open_checkpoint
from amp_export.errors import MissingExtraError, OutputError, UnsupportedModelError
from amp_export.exporters.models.decoder import GraphDecoder
from amp_export.exporters.onnx import TracedExport, run, trace, tracing
from amp_export.exporters.tracing.environment import quiet
from amp_export.exporters.tracing.jobs import Job, Sample
from amp_export.options import Dtype, Opset
from tests.support.shared import Converted
from tests.support.tiny_models import TINY_CONFIG, randomize

pytestmark = pytest.mark.slow

TOLERANCE = 1e-4
"""Of logits whose standard deviation is about 6: the noise is 2e-5, a wrong position or head 1 and more."""

DECODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "gemma3, windows in some layers": (
        "gemma3_text",
        {"sliding_window": 5, "layer_types": ["sliding_attention", "full_attention"]},
    ),
    "bloom, without position_ids": ("bloom", {"n_layer": 1, "n_head": 4}),
}

CALLS: dict[str, tuple[list[int], tuple[int, ...]]] = {
    "one token": ([1], (0,)),
    "prefill": ([17], (0, 0)),
    "left-padded, then token by token": ([12, 13, 14, 15], (0, 4, 11)),
    "several tokens at a time": ([5, 9, 10, 17], (0,)),
    "one real token in a row": ([9, 12], (0, 8, 2, 1)),
}
"""Where each call of a text ends, and the padding of each row."""

SMALL = {
    "vocab_size": 101,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}

Trace = Callable[..., TracedExport]


@pytest.fixture
def trace_in_silence(capfd: pytest.CaptureFixture[str]) -> Trace:
    """Traces, and makes sure that nobody sees it."""

    def run_it(model: Any, folder: Path, dtype: Dtype = Dtype.FLOAT32) -> TracedExport:
        capfd.readouterr()
        steps: list[tuple[int, int]] = []
        settings = logging.root.manager.disable, sys.stdout, model.forward
        traced = trace(model, folder, dtype=dtype, on_progress=lambda *step: steps.append(step))
        assert settings == (logging.root.manager.disable, sys.stdout, model.forward)
        assert capfd.readouterr() == ("", "")
        assert steps == [(number, len(steps)) for number in range(1, len(steps) + 1)]
        assert len(steps) == len(traced.graphs) + 1
        return traced

    return run_it


def decoder_model(model_type: str, **overrides: Any) -> Any:
    config = transformers.AutoConfig.for_model(model_type, **{**TINY_CONFIG, "num_hidden_layers": 2, **overrides})
    return ready(transformers.AutoModelForCausalLM.from_config(config))


def ready(model: Any) -> Any:
    randomize(model)
    return model.eval()


def places(attention_mask: np.ndarray) -> np.ndarray:
    return np.maximum(attention_mask.cumsum(axis=1) - 1, 0)


def padded_text(padding: tuple[int, ...], length: int, *, left: bool) -> tuple[np.ndarray, np.ndarray]:
    input_ids = np.random.default_rng(7).integers(3, SMALL["vocab_size"], (len(padding), length))
    mask = np.ones_like(input_ids)
    for row, count in enumerate(padding):
        mask[row, slice(0, count) if left else slice(length - count, None)] = 0
    return input_ids * mask, mask


def torch_logits(model: Any, input_ids: np.ndarray, mask: np.ndarray, *, positions: bool = True) -> np.ndarray:
    given = {"position_ids": torch.tensor(places(mask))} if positions else {}
    with torch.no_grad():
        result = model(input_ids=torch.tensor(input_ids), attention_mask=torch.tensor(mask), **given)
    logits: np.ndarray = result.logits.float().numpy()
    return logits


def in_calls(decoder: GraphDecoder, input_ids: np.ndarray, mask: np.ndarray, ends: list[int]) -> np.ndarray:
    past, logits, start = None, [], 0
    for end in ends:
        chunk, past = decoder.forward(input_ids[:, start:end], mask[:, :end], places(mask)[:, start:end], past)
        logits.append(chunk)
        start = end
    return np.concatenate(logits, axis=1)


def assert_decoder_agrees(folder: Path, model: Any, *, positions: bool = True) -> None:
    decoder = run(folder, threads=1)
    for name, (ends, padding) in CALLS.items():
        input_ids, mask = padded_text(padding, ends[-1], left=True)
        found = in_calls(decoder, input_ids, mask, ends)
        expected = torch_logits(model, input_ids, mask, positions=positions)
        assert np.isfinite(found).all(), name
        np.testing.assert_allclose(found[mask == 1], expected[mask == 1], rtol=0, atol=TOLERANCE, err_msg=name)
        assert expected.std() > 3


def described(graph: Path) -> tuple[dict[str, list[Any]], dict[str, list[Any]]]:
    """Names and axes of the inputs and outputs."""
    session = onnxruntime.InferenceSession(graph)
    return (
        {entry.name: entry.shape for entry in session.get_inputs()},
        {entry.name: entry.shape for entry in session.get_outputs()},
    )


@pytest.mark.parametrize(("model_type", "overrides"), DECODERS.values(), ids=DECODERS)
def test_a_decoder_becomes_one_graph_for_prefill_and_decode(
    tmp_path: Path, trace_in_silence: Trace, model_type: str, overrides: dict[str, Any]
) -> None:
    model = decoder_model(model_type, **overrides)
    traced = trace_in_silence(model, tmp_path / "onnx")
    assert (traced.kind, traced.graphs) == (Kind.DECODER, (tmp_path / "onnx/model.onnx",))
    assert json.loads((traced.folder / "config.json").read_text())["model_type"] == model_type
    assert traced.bytes_on_disk == sum(file.stat().st_size for file in traced.folder.iterdir())
    assert_decoder_agrees(traced.folder, model, positions=model_type != "bloom")


def test_each_layer_may_have_its_own_widths(tmp_path: Path, trace_in_silence: Trace) -> None:
    model = decoder_model("llama")
    attention, mlp = model.model.layers[1].self_attn, model.model.layers[1].mlp
    attention.q_proj = torch.nn.Linear(32, 3 * 8, bias=False)
    attention.k_proj = torch.nn.Linear(32, 8, bias=False)
    attention.v_proj = torch.nn.Linear(32, 8, bias=False)
    attention.o_proj = torch.nn.Linear(3 * 8, 32, bias=False)
    attention.num_key_value_groups = 3
    mlp.gate_proj, mlp.up_proj = (torch.nn.Linear(32, 7, bias=False) for _ in range(2))
    mlp.down_proj = torch.nn.Linear(7, 32, bias=False)
    traced = trace_in_silence(ready(model), tmp_path / "onnx")
    assert_decoder_agrees(traced.folder, model)

    text, text_and_past = ["batch_size", "sequence_length"], ["batch_size", "total_sequence_length"]
    pasts = {
        f"past_key_values.{layer}.{part}": ["batch_size", heads, "past_sequence_length", 8]
        for layer, heads in enumerate((2, 1))
        for part in ("key", "value")
    }
    inputs, outputs = described(traced.graph)
    assert inputs == {"input_ids": text, "attention_mask": text_and_past, "position_ids": text, **pasts}
    assert list(outputs) == ["logits", *(name.replace("past_key_values", "present") for name in pasts)]
    assert outputs["logits"] == [*text, 101]
    assert outputs["present.1.value"] == ["batch_size", 1, "total_sequence_length", 8]
    # tracing leaves the paths of its machine in a graph
    assert str(Path(torch.__file__).parent).encode() not in traced.graph.read_bytes()


def test_float16_is_as_near_to_float32_as_torch_is_in_float16(tmp_path: Path, trace_in_silence: Trace) -> None:
    model = decoder_model("gemma2", sliding_window=5, num_hidden_layers=1).half()
    traced = trace_in_silence(model, tmp_path / "onnx", Dtype.FLOAT16)
    input_ids, mask = padded_text((0, 0), 17, left=True)
    found = in_calls(run(traced.folder, threads=1), input_ids, mask, [6, 7, 17])
    half = torch_logits(model, input_ids, mask)
    exact = torch_logits(model.float(), input_ids, mask)
    assert 0 < np.abs(found - exact).max() < 2 * np.abs(half - exact).max()


def test_bfloat16_is_written_for_runtimes_that_have_it(tmp_path: Path, trace_in_silence: Trace) -> None:
    model = decoder_model("llama", num_hidden_layers=1).bfloat16()
    traced = trace_in_silence(model, tmp_path / "onnx", Dtype.BFLOAT16)
    onnx.checker.check_model(traced.graph)
    graph = onnx.load(traced.graph).graph
    types = {entry.name: entry.type.tensor_type.elem_type for entry in [*graph.input, *graph.output]}
    assert types["past_key_values.0.key"] == types["logits"] == onnx.TensorProto.BFLOAT16


def test_an_encoder_of_text_honours_padding(tmp_path: Path, trace_in_silence: Trace) -> None:
    """test_families.py traces ModernBERT, with its windows and its ids that mark padding."""
    names = ["input_ids", "attention_mask", "token_type_ids"]
    outputs = {"last_hidden_state": ["batch_size", "sequence_length", 32], "pooler_output": ["batch_size", 32]}
    model = ready(transformers.BertModel(transformers.BertConfig(**SMALL)))
    traced = trace_in_silence(model, tmp_path / "onnx")
    assert traced.kind is Kind.ENCODER
    assert described(traced.graph) == ({name: ["batch_size", "sequence_length"] for name in names}, outputs)
    session = onnxruntime.InferenceSession(traced.graph)
    for padding, length in (((0,), 1), ((0, 4, 9), 11), ((1, 0), 30)):
        input_ids, mask = padded_text(padding, length, left=False)
        kinds = np.arange(input_ids.size).reshape(input_ids.shape) % 2
        given = dict(zip(names, (input_ids, mask, kinds), strict=True))
        with torch.no_grad():
            expected = model(**{name: torch.tensor(value) for name, value in given.items()})
        for name, found in zip(outputs, session.run(list(outputs), given), strict=True):
            real = mask == 1 if found.shape[1] == length else ...
            np.testing.assert_allclose(found[real], expected[name].numpy()[real], rtol=0, atol=TOLERANCE)


def test_an_encoder_of_images_takes_any_number_of_them(tmp_path: Path, trace_in_silence: Trace) -> None:
    sizes = {name: SMALL[name] for name in ("hidden_size", "intermediate_size", "num_hidden_layers")}
    config = transformers.ViTConfig(**sizes, num_attention_heads=4, image_size=(16, 24), patch_size=8, num_labels=3)
    model = transformers.ViTForImageClassification(config).eval()
    traced = trace_in_silence(model, tmp_path / "onnx")
    assert described(traced.graph) == ({"pixel_values": ["batch_size", 3, 16, 24]}, {"logits": ["batch_size", 3]})
    session = onnxruntime.InferenceSession(traced.graph)
    for batch_size in (1, 5):
        pixels = np.random.default_rng(7).standard_normal((batch_size, 3, 16, 24), np.float32)
        with torch.no_grad():
            expected = model(pixel_values=torch.tensor(pixels)).logits.numpy()
        (found,) = session.run(None, {"pixel_values": pixels})
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
        assert expected.std() > 1e-2


SOURCE = ["batch_size", "encoder_sequence_length"]


@pytest.mark.parametrize(
    ("model_type", "inputs"),
    [
        ("t5", {"input_ids": SOURCE, "attention_mask": SOURCE}),
        ("whisper", {"input_features": ["batch_size", 8, 24]}),
    ],
)
def test_an_encoder_with_a_decoder_becomes_three_graphs_that_share_their_weights(
    model_type: str, inputs: dict[str, list[Any]], converted: Callable[[str], Converted]
) -> None:
    output = converted(model_type).output
    names = ["encoder_model.onnx", "decoder_model.onnx", "decoder_with_past_model.onnx"]
    graphs = [output / "onnx" / name for name in names]
    model, heads = load_model(output / "pruned"), open_checkpoint(output / "pruned").config.num_attention_heads
    assert described(graphs[0])[0] == inputs
    mask = {"encoder_attention_mask": SOURCE} if "attention_mask" in inputs else {}
    tokens = {"input_ids": ["batch_size", "decoder_sequence_length"]}
    first, firsts = described(graphs[1])
    assert first == {**tokens, "encoder_hidden_states": [*SOURCE, 32], **mask}
    assert firsts["present.0.encoder.key"] == ["batch_size", heads, "encoder_sequence_length", 8]
    later, laters = described(graphs[2])
    pasts = {name.replace("present", "past_key_values") for name in firsts if name != "logits"}
    assert set(later) == {"input_ids", *pasts, *mask}
    assert laters["present.0.decoder.value"] == ["batch_size", heads, "total_decoder_sequence_length", 8]
    assert set(laters) == {name for name in firsts if ".encoder." not in name}

    assert_steps_agree(graphs, model)
    assert_stored_once(graphs, model)


def assert_steps_agree(graphs: list[Path], model: Any) -> None:
    encoder, first, later = (onnxruntime.InferenceSession(graph) for graph in graphs)
    for padding, length, ends in (((0,), 1, [1, 2, 3]), ((0, 4, 9), 11, [1, 2, 5, 12]), ((2, 0), 23, [6, 7])):
        input_ids, mask = padded_text(padding, length, left=False)
        source = {"input_ids": input_ids, "attention_mask": mask}
        masks = {"encoder_attention_mask": mask}
        if model.main_input_name == "input_features":
            sound = np.random.default_rng(7).standard_normal((len(padding), 8, 24), np.float32)
            source, masks = {"input_features": sound}, {}
        targets, _ = padded_text((0,) * len(padding), ends[-1], left=False)
        with torch.no_grad():
            given = {name: torch.tensor(value) for name, value in source.items()}
            expected = model(**given, decoder_input_ids=torch.tensor(targets)).logits.numpy()
        (states,) = encoder.run(["last_hidden_state"], source)
        new = {"input_ids": targets[:, : ends[0]], "encoder_hidden_states": states, **masks}
        logits, past = step(first, new, {})
        found = [logits]
        for start, end in itertools.pairwise(ends):
            logits, past = step(later, {"input_ids": targets[:, start:end], **masks}, past)
            found.append(logits)
        np.testing.assert_allclose(np.concatenate(found, axis=1), expected, rtol=0, atol=TOLERANCE)
        assert expected.std() > 0.5


def step(
    session: onnxruntime.InferenceSession, new: dict[str, np.ndarray], past: dict[str, np.ndarray]
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    names = [entry.name for entry in session.get_outputs()]
    results = dict(zip(names, session.run(names, {**new, **past}), strict=True))
    logits = results.pop("logits")
    return logits, {**past, **{name.replace("present", "past_key_values"): value for name, value in results.items()}}


def assert_stored_once(graphs: list[Path], model: Any) -> None:
    weights = graphs[0].with_name("model.onnx_data")
    data = weights.read_bytes()
    assert {*graphs, weights} == {file for file in weights.parent.iterdir() if ".onnx" in file.name}
    places: dict[int, int] = {}
    for graph in graphs:
        for tensor in onnx.load(graph, load_external_data=False).graph.initializer:
            where = {entry.key: entry.value for entry in tensor.external_data}
            if where:
                assert where["location"] == weights.name
                places[int(where["offset"])] = int(where["length"])
    contents = {data[offset : offset + length] for offset, length in places.items()}
    assert len(contents) == len(places)
    # parameters() gives tied ones once, too
    size = sum(parameter.numel() * 4 for parameter in model.parameters())
    assert sum(places.values()) < 1.02 * size


def test_complex_numbers_take_further_axes() -> None:
    class Rotation(torch.nn.Module):
        def forward(self, angles: torch.Tensor, states: torch.Tensor) -> dict[str, torch.Tensor]:
            turns = torch.polar(torch.ones_like(angles), angles)
            pairs = torch.view_as_complex(states.reshape(*states.shape[:-1], -1, 2))
            return {"rotated": torch.view_as_real(pairs * turns[:, :, None]).flatten(3)}

    def inputs(batch_size: int, length: int) -> dict[str, torch.Tensor]:
        return {"angles": torch.randn(batch_size, length, 4), "states": torch.randn(batch_size, length, 5, 8)}

    axes = {"angles": ("batch_size", "sequence_length", None), "states": ("batch_size", "sequence_length", None, None)}
    samples = {name: Sample(tensor, axes[name]) for name, tensor in inputs(2, 3).items()}
    module = Rotation()
    with quiet():
        graph = tracing.trace_job(decoder_model("llama"), Job("model.onnx", module, samples, {}), Opset.OPSET_23)
    # it leaves torch as it was: lists of scalars are tensors
    assert "__getitem__" not in vars(torch.Tensor)
    assert torch.tensor([torch.tensor(1), torch.tensor(2)]).tolist() == [1, 2]
    session = onnxruntime.InferenceSession(onnx_ir.to_proto(graph).SerializeToString())
    given = inputs(1, 7)
    (found,) = session.run(None, {name: tensor.numpy() for name, tensor in given.items()})
    np.testing.assert_allclose(found, module(**given)["rotated"].numpy(), rtol=0, atol=1e-6)


def test_what_cannot_be_traced_is_named(tmp_path: Path) -> None:
    class Stubborn(transformers.BertModel):
        def forward(self, input_ids: torch.Tensor, **inputs: Any) -> Any:
            if input_ids.sum() > 0:
                raise RuntimeError("\nI am what I am.\nAnd that is all.")
            return super().forward(input_ids, **inputs)

    class Frozen(transformers.BertModel):
        def forward(self, input_ids: torch.Tensor, **inputs: Any) -> Any:
            assert input_ids.shape[0] == 2
            return super().forward(input_ids, **inputs)

    config = transformers.BertConfig(**{**SMALL, "num_hidden_layers": 1})
    with pytest.raises(UnsupportedModelError, match=r"^Stubborn cannot be traced: RuntimeError: I am what I am\.\nTry"):
        trace(Stubborn(config).eval(), tmp_path / "onnx", dtype=Dtype.FLOAT32)
    with pytest.raises(UnsupportedModelError, match=r"^Frozen .* any size: batch_size of \w+ became 2"):
        trace(Frozen(config).eval(), tmp_path / "onnx", dtype=Dtype.FLOAT32)
    assert not (tmp_path / "onnx").exists()


def test_operators_are_parsed_once_for_all_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.onnx._internal.exporter import _registration

    asked = []

    class Apis:
        def get_torchlib_ops(self) -> list[object]:
            asked.append(self)
            return []

    apis = Apis()
    monkeypatch.setattr(_registration, "onnxscript_apis", apis)
    for _ in range(2):
        with tracing._fast_export():
            _registration.ONNXRegistry.from_torchlib()
        assert _registration.onnxscript_apis is apis
    assert asked == [apis]


def test_a_model_with_another_kind_of_state_is_refused(tmp_path: Path) -> None:
    config = transformers.MambaConfig(vocab_size=101, hidden_size=32, num_hidden_layers=1, state_size=4)
    with pytest.raises(UnsupportedModelError, match="Layer 0 of MambaForCausalLM caches a LinearAttentionLayer"):
        trace(transformers.MambaForCausalLM(config).eval(), tmp_path / "onnx", dtype=Dtype.FLOAT32)


def test_a_request_that_does_not_fit_the_model_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = decoder_model("llama")
    with pytest.raises(ValueError, match=r"is in torch\.float32\.\nLoad it in float16"):
        trace(model, tmp_path, dtype=Dtype.FLOAT16)
    with pytest.raises(ValueError, match="in training mode"):
        trace(model.train(), tmp_path, dtype=Dtype.FLOAT32)
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="not an empty folder"):
        trace(model.eval(), tmp_path, dtype=Dtype.FLOAT32)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(MissingExtraError, match=r'pip install "amp-export\[trace\]"'):
        trace(model, tmp_path, dtype=Dtype.FLOAT32)
