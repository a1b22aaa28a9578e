"""Texts of exported graphs: those that transformers' `generate` writes, in every family, alone and in batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from amp_export.checkpoints.loading import load_model
from amp_export.checkpoints.reading import open_checkpoint
from amp_export.errors import RequestError
from amp_export.exporters.models.decoder import Decoder
from amp_export.exporters.models.generation import generate
from amp_export.exporters.models.sampling import Sampling
from amp_export.exporters.onnx import export, run
from amp_export.generation.torch_decoder import load_torch_decoder
from amp_export.options import Operators
from tests.support.tiny_models import BUILDABLE, save_tiny_model

PROMPTS = ([5, 9, 17, 6, 5, 33, 5, 8, 40], [9, 7], [11, 60, 60, 12, 90])
STEPS = 12
"""More than a window of the tiny models with windows."""


def collect(decoder: Decoder, prompts: Any, **options: Any) -> list[list[int]]:
    texts: list[list[int]] = [[] for _ in prompts]
    for found in generate(decoder, prompts, **{"new_tokens": STEPS, **options}):
        for row, token in found.items():
            texts[row].append(token)
    return texts


def by_transformers(model: Any, prompt: list[int], **options: Any) -> list[int]:
    ids_bs = torch.tensor([prompt])
    given = {"attention_mask": torch.ones_like(ids_bs), "max_new_tokens": STEPS, "do_sample": False, **options}
    found: list[int] = model.generate(ids_bs, pad_token_id=0, eos_token_id=None, **given)[0, len(prompt) :].tolist()
    return found


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llama")
    save_tiny_model(folder / "dense", "llama")
    export(open_checkpoint(folder / "dense"), folder / "onnx")
    return folder


@pytest.mark.parametrize("model_type", BUILDABLE)
def test_every_family_writes_what_transformers_writes(model_type: str, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(save_tiny_model(tmp_path / "dense", model_type))
    export(checkpoint, tmp_path / "onnx")
    model = load_model(checkpoint.path, dtype=torch.float32)
    expected = [by_transformers(model, prompt) for prompt in PROMPTS]
    assert collect(run(tmp_path / "onnx", threads=1), PROMPTS) == expected
    # in PyTorch through the same loop
    assert collect(load_torch_decoder(checkpoint.path), PROMPTS) == expected
    export(checkpoint, tmp_path / "fused", operators=Operators.ONNXRUNTIME)
    fused = run(tmp_path / "fused", threads=1)
    assert [collect(fused, [prompt])[0] for prompt in PROMPTS] == expected


def test_threads_of_torch_are_given_back(llama: Path) -> None:
    before = torch.get_num_threads()
    decoder = load_torch_decoder(llama / "dense", threads=before + 1)
    assert decoder.threads == torch.get_num_threads() == before + 1
    decoder.close()
    assert torch.get_num_threads() == before
    assert load_torch_decoder(llama / "dense").threads == before


def test_a_penalty_is_that_of_transformers(llama: Path) -> None:
    model = load_model(llama / "dense", dtype=torch.float32)
    expected = [by_transformers(model, prompt, repetition_penalty=1.7) for prompt in PROMPTS]
    assert collect(run(llama / "onnx", threads=1), PROMPTS, sampling=Sampling(repetition_penalty=1.7)) == expected
    assert expected != [by_transformers(model, prompt) for prompt in PROMPTS]


def test_drawn_texts_do_not_depend_on_their_batch(llama: Path) -> None:
    decoder, sampling = run(llama / "onnx", threads=1), Sampling(temperature=2.0, seed=4)
    assert isinstance(decoder, Decoder)
    together = collect(decoder, PROMPTS, sampling=sampling)
    alone = [
        collect(decoder, [prompt], sampling=sampling, numbers=[number])[0] for number, prompt in enumerate(PROMPTS)
    ]
    assert together == alone


def test_a_text_ends_at_its_token_and_the_others_go_on(llama: Path) -> None:
    decoder = run(llama / "onnx", threads=1)
    assert isinstance(decoder, Decoder)
    whole = collect(decoder, PROMPTS)
    end = whole[0][3]
    expected = [text[: text.index(end)] if end in text else text for text in whole]
    assert collect(decoder, PROMPTS, ends={end}) == expected
    assert len(expected[0]) <= 3


def test_a_text_ends_where_it_is_told_to(llama: Path) -> None:
    decoder = run(llama / "onnx", threads=1)
    assert isinstance(decoder, Decoder)
    found = collect(decoder, PROMPTS, is_done=lambda row, tokens: len(tokens) > 2 * row)
    assert [len(text) for text in found] == [1, 3, 5]
    assert found == [text[: len(each)] for text, each in zip(collect(decoder, PROMPTS), found, strict=True)]


def test_only_the_last_logits_are_computed(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = run(llama / "onnx", threads=1)
    assert isinstance(decoder, Decoder)
    shapes = []
    forward = decoder.forward

    def watch(*arrays: Any, **options: Any) -> Any:
        assert options == {"logits_to_keep": 1}
        logits_bsv, past = forward(*arrays, **options)
        shapes.append(logits_bsv.shape)
        return logits_bsv, past

    monkeypatch.setattr(decoder, "forward", watch)
    collect(decoder, PROMPTS)
    assert set(shapes) == {(3, 1, 101)}
    assert len(shapes) == STEPS


def test_fused_operators_take_prompts_of_one_length_together(llama: Path, tmp_path: Path) -> None:
    export(open_checkpoint(llama / "dense"), tmp_path / "fused", operators=Operators.ONNXRUNTIME)
    fused, prompts = run(tmp_path / "fused", threads=1), [prompt[:2] for prompt in PROMPTS]
    assert isinstance(fused, Decoder)
    assert collect(fused, prompts) == collect(run(llama / "onnx", threads=1), prompts)
    with pytest.raises(
        RequestError, match=r"have 2 to 9 tokens, but this graph takes no padding\.\n.*--operators standard"
    ):
        collect(fused, PROMPTS)


def test_prompts_that_cannot_be_gone_on_from_are_refused(llama: Path) -> None:
    decoder = run(llama / "onnx", threads=1)
    assert isinstance(decoder, Decoder)
    with pytest.raises(RequestError, match="has no tokens"):
        collect(decoder, [[5], []])
    decoder.max_context = 15
    with pytest.raises(
        RequestError, match=r"9 tokens and 12 new ones are 21 tokens, but the model takes 15\.\n.* 6 new"
    ):
        collect(decoder, PROMPTS)
    with pytest.raises(RequestError, match="give prompts of less than 15 tokens"):
        collect(decoder, [list(np.arange(20))])
