from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from amp_export.architectures import ModelConfig, find_architecture
from amp_export.checkpoints.reading import read_config
from amp_export.exporters.limits import Limits
from amp_export.exporters.models.encoder_decoder import GraphEncoderDecoder
from amp_export.exporters.onnx import run
from amp_export.options import Dtype
from amp_export.parity.comparison import compare
from amp_export.parity.greedy import written_steps
from amp_export.parity.results import Greedy
from amp_export.parity.seq2seq_cases import Seq2SeqCase, graph_writer, replay_writing, writing_cases
from amp_export.progress import Silent
from tests.support.faults import wrong_model
from tests.support.shared import Converted
from tests.support.tiny_models import save_tiny_model

pytestmark = pytest.mark.slow

pytest.importorskip("onnxscript", reason="onnxscript is not installed")

POOL = np.arange(4, 90)


def test_cases_fit_into_what_a_model_reads_and_writes(tmp_path: Path) -> None:
    sizes = {"d_model": 32, "d_ff": 48, "num_layers": 1, "num_heads": 4, "d_kv": 8}
    t5 = ModelConfig.read(find_architecture("t5"), sizes)
    assert t5.longest_text is None
    assert len(writing_cases(t5)) == 6
    whisper = read_config(save_tiny_model(tmp_path / "whisper", "whisper", max_position_embeddings=10))[1]
    assert [case.written + case.decode_steps for case in writing_cases(whisper)] == [1, 9]


def test_what_is_written_is_not_what_is_read_and_padding_is_left_out(tmp_path: Path) -> None:
    config = read_config(save_tiny_model(tmp_path / "t5", "t5"))[1]
    case = Seq2SeqCase("any", (2, 5), written=3, decode_steps=2)

    def write(source: Any, written: Any, first: Any) -> Any:
        assert (written.shape, first) == ((2, 5), 3)
        assert not np.array_equal(written, source["input_ids"])
        return {"last_hidden_state": np.ones((2, 5, 7)), "logits": np.ones((2, 5, 11))}

    found = replay_writing(case, config, POOL, write, dtype=Dtype.FLOAT32)
    assert found["last_hidden_state"].shape == (7, 7)
    assert found["logits"].shape == (10, 11)


FAULTS: dict[str, tuple[str, Callable[[torch.nn.Module], None], set[str]]] = {
    "t5, encoder's norm": (
        "t5",
        lambda model: model.encoder.final_layer_norm.weight[0].add_(1e-2),
        {"last_hidden_state", "logits"},
    ),
    "t5, heads of the decoder swapped": (
        "t5",
        lambda model: (
            model.decoder.block[0]
            .layer[0]
            .SelfAttention.q.weight.copy_(model.decoder.block[0].layer[0].SelfAttention.q.weight.roll(8, 0))
        ),
        {"logits"},
    ),
    "t5, position biases of the decoder": (
        "t5",
        lambda model: model.decoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight[3].add_(0.1),
        {"logits"},
    ),
    "whisper, keys of the sound": (
        "whisper",
        lambda model: model.model.decoder.layers[0].encoder_attn.k_proj.weight[0].add_(1e-2),
        {"logits"},
    ),
    "whisper, positions of the decoder": (
        "whisper",
        lambda model: model.model.decoder.embed_positions.weight[6, 0].add_(1e-2),
        {"logits"},
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_caught_in_the_outputs_that_it_reaches(
    fault: str, converted: Callable[[str], Converted], tmp_path: Path
) -> None:
    model_type, change, outputs = FAULTS[fault]
    output = converted(model_type).output
    other = wrong_model(output / "pruned", tmp_path, change)
    report = compare(other, output / "onnx", threads=1, progress=Silent())
    assert {case.output for case in report.cases if not case.holds} == outputs


def test_a_cache_that_is_wrong_is_caught(
    converted: Callable[[str], Converted], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second call's keys and values go to the wrong tokens' places."""
    output = converted("t5").output
    real = GraphEncoderDecoder.decode

    def forgetful(self: Any, input_ids: Any, source: Any, past: Any = None) -> Any:
        return real(self, input_ids[:, ::-1].copy() if past is None else input_ids, source, past)

    monkeypatch.setattr(GraphEncoderDecoder, "decode", forgetful)
    report = compare(output / "pruned", output / "onnx", threads=1, progress=Silent())
    failed = {case.name for case in report.cases if not case.holds}
    assert failed == {
        case.name for case in report.cases if not case.name.endswith(("after 1 token", " 1 target token"))
    }


def test_a_fault_that_only_long_texts_show_is_caught_by_generating(
    converted: Callable[[str], Converted], monkeypatch: pytest.MonkeyPatch
) -> None:
    output = converted("whisper").output
    real = GraphEncoderDecoder.decode

    def confused(self: Any, input_ids: Any, source: Any, past: Any = None) -> Any:
        logits, present = real(self, input_ids, source, past)
        length = present.values["past_key_values.0.decoder.key"].shape()[2]
        return (-logits if length > 40 else logits), present

    monkeypatch.setattr(GraphEncoderDecoder, "decode", confused)
    report = compare(output / "pruned", output / "onnx", threads=1, progress=Silent())
    assert all(case.holds for case in report.cases)
    assert report.greedy == Greedy(steps=64, common=40, near_tie=False, holds=False)
    assert not report.holds


@pytest.mark.parametrize("model_type", ["t5", "whisper"])
def test_graphs_generate_what_transformers_does(model_type: str, converted: Callable[[str], Converted]) -> None:
    assert converted(model_type).report["parity"]["greedy"] == {
        "steps": 64, "common": 64, "near_tie": False, "holds": True
    }  # fmt: skip


@pytest.mark.parametrize(("limits", "steps"), [(None, 10), (Limits(1, 7), 7), (Limits(1, 99), 10)])
def test_what_is_generated_fits_model_and_graph(limits: Limits | None, steps: int, tmp_path: Path) -> None:
    config = read_config(save_tiny_model(tmp_path / "whisper", "whisper", max_position_embeddings=10))[1]
    assert written_steps(config, limits) == steps


def test_the_graphs_write_one_token_at_a_time(converted: Callable[[str], Converted]) -> None:
    model = run(converted("whisper").output / "onnx", threads=1)
    assert isinstance(model, GraphEncoderDecoder)
    sound = {"input_features": np.random.default_rng(0).standard_normal((2, 8, 24), np.float32)}
    tokens = np.array([[5, 6, 7, 8], [9, 8, 7, 6]])
    at_once, stepwise = (graph_writer(model)(sound, tokens, first)["logits"] for first in (4, 1))
    assert at_once.shape == (2, 4, 301)
    np.testing.assert_allclose(at_once, stepwise, rtol=0, atol=1e-4)
