"""Parity crosses every length at which a model computes something else, and is held against `generate()`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from amp_export.architectures import ModelConfig, find_architecture
from amp_export.checkpoints.loading import load_model
from amp_export.checkpoints.reading import open_checkpoint
from amp_export.errors import RequestError
from amp_export.exporters.onnx import export
from amp_export.parity.case_files import read_cases
from amp_export.parity.comparison import compare
from amp_export.parity.decoder_cases import decoder_cases, outgrows_cache
from amp_export.parity.encoder_cases import encoder_cases
from amp_export.parity.greedy import Continuation, choose_continuation, continue_greedily, generate
from amp_export.parity.seq2seq_cases import writing_cases
from amp_export.parity.suites import torch_decoder
from amp_export.parity.switches import REACHED, switches, unreached
from amp_export.progress import Silent
from tests.support.tiny_models import save_tiny_model

LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "short_factor": [1.0, 1.3, 1.7, 2.2],
    "long_factor": [2.0, 4.0, 8.0, 16.0],
}
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 3.0, "original_max_position_embeddings": 40}


def config_of(model_type: str, **fields: Any) -> ModelConfig:
    return ModelConfig.read(find_architecture(model_type), {"model_type": model_type, **fields})


def phi3_config(positions: int, original: int, window: int | None) -> ModelConfig:
    fields = {"max_position_embeddings": positions, "original_max_position_embeddings": original}
    return config_of("phi3", **fields, sliding_window=window, rope_scaling=LONGROPE)


@given(positions=st.integers(2, 2048), original=st.integers(1, 1024), window=st.one_of(st.none(), st.integers(1, 1024)))
@example(positions=10, original=1, window=2)
@example(positions=200, original=98, window=100)
def test_cases_cross_what_a_cache_follows_and_end_where_it_does_not(
    positions: int, original: int, window: int | None
) -> None:
    config = phi3_config(positions, original, window)
    cases = [case for case in decoder_cases(config) if case.longest_text <= config.context]
    limit = config.cache_limit
    assert limit == (original if original < positions else None)
    assert not any(outgrows_cache(case, limit) for case in cases)
    if limit is not None and 1 < limit <= REACHED:
        assert any(case.longest_text == limit and case.is_varied for case in cases), "up to the limit"
    for each in switches(config):
        room = min(limit, config.context) if limit is not None and each.tokens <= limit else config.context
        if each.keeps_cache and each.is_reached and each.tokens + 8 <= room:
            varied = [case for case in cases if max(case.prompt_lengths) <= each.tokens < case.longest_text]
            assert varied or each.tokens == limit, f"none crosses {each}"


@given(positions=st.integers(2, 2048), original=st.integers(1, 2048), window=st.integers(1, 2048))
def test_a_continuation_fits_the_context_and_the_cache(positions: int, original: int, window: int) -> None:
    config = phi3_config(positions, original, window)
    found = choose_continuation(config, config.context)
    assert found.prompt_tokens >= 1
    assert found.steps >= 0
    assert not found.steps or found.prompt_tokens + found.steps <= min(config.context, config.cache_limit or positions)


MODELS: dict[str, tuple[str, dict[str, Any], int]] = {
    "window": ("mistral", {"sliding_window": 60}, 64),
    "windows in some layers": ("gemma3_text", {"sliding_window": 60}, 64),
    "longrope": ("phi3", {"original_max_position_embeddings": 32, "rope_parameters": LONGROPE}, 15),
    "yarn beyond the config's context": ("llama", {"max_position_embeddings": 40, "rope_parameters": YARN}, 64),
}


@pytest.mark.parametrize("case", MODELS)
def test_parity_holds_across_the_switches_of_a_model(case: str, tmp_path: Path) -> None:
    model_type, fields, steps = MODELS[case]
    folder = save_tiny_model(tmp_path / "checkpoint", model_type, **fields, num_hidden_layers=2)
    export(open_checkpoint(folder), tmp_path / "onnx")
    report = compare(folder, tmp_path / "onnx", progress=Silent())
    assert report.holds, report
    assert report.greedy is not None
    assert (report.greedy.common, report.greedy.steps) == (steps, steps)
    across = [result.name for result in report.cases if result.name.endswith(("of 60", "of 32", "of 40"))]
    assert len(across) == (2 if case == "longrope" else 3)
    assert report.unreached == ()


def test_a_wrong_window_is_caught_that_no_usual_case_is_long_enough_for(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "checkpoint", "mistral", sliding_window=100, num_hidden_layers=2)
    other = Path(shutil.copytree(folder, tmp_path / "other"))
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "sliding_window": 101}))
    export(open_checkpoint(other), tmp_path / "onnx")
    report = compare(folder, tmp_path / "onnx", progress=Silent())
    failed = {result.name for result in report.cases if not result.holds}
    assert failed
    assert all(name.endswith("across the sliding window of 100") for name in failed)


def test_generate_computes_the_cache_of_longrope_anew_where_a_loop_of_steps_does_not(tmp_path: Path) -> None:
    fields = {"original_max_position_embeddings": 32, "rope_parameters": LONGROPE}
    folder = save_tiny_model(tmp_path / "checkpoint", "phi3", **fields)
    model, pool = load_model(folder), np.random.default_rng(0).integers(3, 101, 200)
    forward = torch_decoder(model)
    within, beyond = Continuation(17, 15), Continuation(20, 40)
    with torch.inference_mode():
        np.testing.assert_array_equal(generate(model, pool, within)[0], continue_greedily(pool, forward, within))
        assert (generate(model, pool, beyond)[0] != continue_greedily(pool, forward, beyond)).any()


def test_generation_settings_of_the_checkpoint_are_set_aside_and_kept(tiny_llama: Path) -> None:
    model, pool = load_model(tiny_llama), np.random.default_rng(0).integers(3, 101, 200)
    plain, logits = generate(model, pool, Continuation(5, 12))
    np.testing.assert_array_equal(logits.argmax(axis=1), plain)
    own = model.generation_config
    own.update(eos_token_id=int(plain[0]), repetition_penalty=3.0, do_sample=True, temperature=9.0, max_length=7)
    np.testing.assert_array_equal(generate(model, pool, Continuation(5, 12))[0], plain)
    assert model.generation_config is own
    assert len(generate(model, pool, Continuation(5, 12))[1]) == 12


def test_encoders_and_encoder_decoders_cross_theirs() -> None:
    names = [case.name for case in encoder_cases(config_of("modernbert", max_position_embeddings=512))]
    assert "136 tokens, across the local attention of 128" in names
    t5 = writing_cases(config_of("t5", relative_attention_max_distance=20))
    assert t5[-1].source_lengths == (28,)
    assert t5[-1].longest_text == 28


def test_chunks_and_scales_of_queries_are_crossed_where_there_are_any() -> None:
    llama4 = {"num_hidden_layers": 4, "attention_chunk_size": 40, "floor_scale": 60, "max_position_embeddings": 512}
    assert [(each.name, each.tokens) for each in switches(config_of("llama4_text", **llama4))] == [
        ("attention chunk", 40),
        ("first scale of queries", 59),
    ]
    assert {48, 67} <= {max(case.prompt_lengths) for case in decoder_cases(config_of("llama4_text", **llama4))}
    off = {"attention_chunk_size": None, "attn_temperature_tuning": False}
    assert switches(config_of("llama4_text", **{**llama4, **off})) == ()


def test_what_is_out_of_reach_is_told() -> None:
    (told,) = unreached(config_of("mistral", sliding_window=4096, max_position_embeddings=32768))
    assert told.startswith("No default case is longer than the sliding window of 4,096 tokens.")
    assert unreached(config_of("mistral", sliding_window=4096, max_position_embeddings=4096)) == ()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"prompt_lengths": [100], "decode_steps": 29}, "a text of 129 tokens, but the model takes at most 128"),
        (
            {"prompt_lengths": [3, 32], "decode_steps": 1},
            "continues a KV cache from 32 to 33 tokens. Beyond 32, longrope",
        ),
        ({"prompt_lengths": [30], "chunks": [4]}, "continues a KV cache from 30 to 34 tokens"),
    ],
)
def test_given_cases_that_prove_nothing_are_refused(content: dict[str, Any], said: str, tmp_path: Path) -> None:
    file = tmp_path / "cases.json"
    file.write_text(json.dumps([{"name": "mine", **content}]))
    with pytest.raises(RequestError, match=said):
        read_cases(file, phi3_config(128, 32, None))


def test_given_cases_on_one_side_of_the_limit_are_taken(tmp_path: Path) -> None:
    file = tmp_path / "cases.json"
    sides = [{"name": "up to", "prompt_lengths": [30], "decode_steps": 2}, {"name": "beyond", "prompt_lengths": [33]}]
    file.write_text(json.dumps([{**side, "decode_steps": 2} for side in sides]))
    assert len(read_cases(file, phi3_config(128, 32, None))) == 2


@pytest.mark.parametrize(("model_type", "name"), [("bert", "lengths"), ("whisper", "source_lengths")])
def test_texts_that_are_too_long_are_refused_for_every_kind(model_type: str, name: str, tmp_path: Path) -> None:
    file = tmp_path / "cases.json"
    file.write_text(json.dumps([{"name": "mine", name: [600]}]))
    with pytest.raises(RequestError, match="a text of 600 tokens, but the model takes at most"):
        read_cases(file, config_of(model_type))
