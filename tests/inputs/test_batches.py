from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from amp_export.architectures import ModelConfig, find_architecture
from amp_export.checkpoints.loading import load_model, load_tokenizer
from amp_export.checkpoints.reading import open_checkpoint
from amp_export.inputs.batches import text_batch, tokenize
from tests.support.tiny_models import TINY_CONFIG, family_fields, save_tiny_model


def test_texts_end_where_the_models_positions_do(tiny_llama: Path) -> None:
    config = open_checkpoint(tiny_llama).config
    after_padding = replace(
        config,
        architecture=replace(config.architecture, positions_after_padding=True),
        fields={**config.fields, "pad_token_id": 3},
    )
    tokenizer = load_tokenizer(tiny_llama)
    found = [len(tokenize(tokenizer, ["word " * 99], each)[0]) for each in (config, after_padding)]
    assert found == [128, 124]


@pytest.mark.parametrize(("start", "pad", "first"), [(0, 3, 0), (5, 3, 5), (None, 3, 3), (None, None, 0)])
def test_a_target_starts_with_the_token_that_the_config_names(
    start: int | None, pad: int | None, first: int, tmp_path: Path
) -> None:
    model = load_model(save_tiny_model(tmp_path / "t5", "t5", num_hidden_layers=1))
    fields = family_fields("t5", {**TINY_CONFIG, "num_hidden_layers": 1, "pad_token_id": pad})
    config = ModelConfig.read(find_architecture("t5"), {**fields, "decoder_start_token_id": start})
    tokens = torch.tensor([[7, 8, 9]])
    batch = text_batch(model, config, tokens, torch.ones_like(tokens))
    assert batch.inputs["decoder_input_ids"].tolist() == [[first, 7, 8]]
