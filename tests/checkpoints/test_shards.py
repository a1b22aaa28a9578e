"""Checkpoints in several files of weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from amp_export.checkpoints.loading import load_model
from amp_export.cli import app
from tests.support.lopsided import TOKENS
from tests.support.tiny_models import save_tiny_tokenizer


def test_shards_are_read_and_written(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from amp_export.checkpoints.writing import write_checkpoint
    from amp_export.pruning import saving

    whole = load_model(folder)
    whole.save_pretrained(tmp_path / "sharded", max_shard_size="20KB")
    save_tiny_tokenizer(tmp_path / "sharded")
    assert len(list((tmp_path / "sharded").glob("model-*.safetensors"))) > 2
    monkeypatch.setattr(
        saving, "write_checkpoint", lambda *given, **named: write_checkpoint(*given, **named, shard_bytes=20_000)
    )
    pruned = []
    for source, output in ((folder, "out"), (tmp_path / "sharded", "out from shards")):
        common = ["--model", str(source), "--ratio", "0.2", "--snap", "1", "--output", str(tmp_path / output)]
        result = CliRunner().invoke(app, ["prune", *common])
        assert result.exit_code == 0, result.output
        assert len(list((tmp_path / output / "pruned").glob("model-*.safetensors"))) > 2
        pruned.append(load_model(tmp_path / output / "pruned"))
    with torch.inference_mode():
        assert torch.equal(pruned[0](TOKENS).logits, pruned[1](TOKENS).logits)
