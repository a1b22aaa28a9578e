"""Token ids for parity cases."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]

Floats = NDArray[np.floating[Any]]


def token_pool(checkpoint: Path, vocab_size: int) -> Integers:
    """Return token ids to draw cases from: the shipped texts, tokenized with the checkpoint's tokenizer.

    Random ids are used only if there is no tokenizer: they cause outliers in trained models, whose noise hides faults.
    """
    from amp_export.checkpoints.loading import load_tokenizer
    from amp_export.checkpoints.quiet import quiet_transformers
    from amp_export.errors import ModelError
    from amp_export.inputs.texts import shipped_texts

    try:
        tokenizer = load_tokenizer(checkpoint)
    except ModelError:
        return np.random.default_rng(0).integers(vocab_size, size=4096, dtype=np.int64)
    with quiet_transformers():  # the text exceeds the model's context on purpose
        return np.asarray(tokenizer("\n".join(shipped_texts())).input_ids, dtype=np.int64)


def draw_rows(pool: Integers, rows: int, length: int) -> Integers:
    """Return token ids, [rows, length]; each row starts at another place of the pool."""
    starts = np.arange(rows) * (len(pool) // rows)
    return pool.take(starts[:, None] + np.arange(length), mode="wrap")
