"""Token ids for parity cases."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from amp_export.architectures import ModelConfig

Integers = NDArray[np.int64]

Floats = NDArray[np.floating[Any]]


def token_pool(checkpoint: Path, vocab_size: int) -> Integers:
    """Return token ids to draw cases from: the shipped texts, tokenized with the checkpoint's tokenizer.

    Random ids are used only if no tokenizer works: they cause outliers in trained models, whose noise hides faults. Ids
    of a tokenizer that knows more tokens than the model are left out.
    """
    from amp_export.checkpoints.loading import load_tokenizer
    from amp_export.checkpoints.quiet import quiet_transformers
    from amp_export.inputs.texts import shipped_texts

    ids = np.empty(0, np.int64)
    # tokenizers raises plain exceptions; a graph is compared whether they work or not
    with contextlib.suppress(Exception), quiet_transformers():  # the text exceeds the model's context on purpose
        ids = np.asarray(load_tokenizer(checkpoint)("\n".join(shipped_texts())).input_ids, np.int64)
    known = ids[ids < vocab_size]
    return known if known.size else np.random.default_rng(0).integers(vocab_size, size=4096, dtype=np.int64)


def start_token(config: ModelConfig) -> int:
    """Return the token that the decoder of an encoder-decoder starts with."""
    tokens = (config.fields.get(name) for name in ("decoder_start_token_id", "pad_token_id"))
    return next((int(token) for token in tokens if token is not None), 0)


def draw_rows(pool: Integers, rows: int, length: int) -> Integers:
    """Return token ids, [rows, length]; each row starts at another place of the pool."""
    starts = np.arange(rows) * (len(pool) // rows)
    return pool.take(starts[:, None] + np.arange(length), mode="wrap")
