"""What the tests share: quiet libraries and small checkpoints with a tokenizer."""

from __future__ import annotations

import os
from pathlib import Path

# tests run side by side, and tiny models gain nothing from threads: set before torch is imported
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
from tiny_models import save_tiny_model, save_tiny_tokenizer


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A grouped-query Llama with a tokenizer; nothing may change it."""
    folder = save_tiny_model(tmp_path_factory.mktemp("llama") / "checkpoint", "llama")
    save_tiny_tokenizer(folder)
    return folder
