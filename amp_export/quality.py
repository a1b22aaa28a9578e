"""Quality: what pruning cost. It is measured, and never called parity."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from amp_export.scoring import batches

if TYPE_CHECKING:
    from transformers import PreTrainedModel


BATCH_TOKENS = 512
"""Tokens of one batch: each has a logit for every word of the vocabulary, and those have to fit."""


def perplexity(model: PreTrainedModel, token_ids: Sequence[Sequence[int]]) -> float | None:
    """Perplexity of a model on texts: exp of the mean negative log-likelihood over all predicted tokens.

    Args:
        model: A causal language model.
        token_ids: The texts; the first token of each is given, the others are predicted.

    Returns:
        The perplexity, or None where no token is predicted.
    """
    import torch

    loss, predicted = 0.0, 0
    with torch.inference_mode():
        for input_ids_bs, mask_bs in batches([ids for ids in token_ids if len(ids) > 1], BATCH_TOKENS):
            logits_bsv = model(input_ids=input_ids_bs, attention_mask=mask_bs, use_cache=False).logits
            real = mask_bs[:, 1:].bool()
            loss += torch.nn.functional.cross_entropy(
                logits_bsv[:, :-1][real].float(), input_ids_bs[:, 1:][real], reduction="sum"
            ).item()
            predicted += int(real.sum())
    return math.exp(min(loss / predicted, 700.0)) if predicted else None
