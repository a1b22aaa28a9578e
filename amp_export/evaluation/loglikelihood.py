"""Log-likelihood of the last tokens of texts, in batches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from amp_export.errors import ModelError
from amp_export.evaluation.decoders import Decoder
from amp_export.inputs.batches import group_by_length, pad_right

if TYPE_CHECKING:
    import torch

    from amp_export.progress import Advance

BATCH_TOKENS = 1024
"""Tokens per batch, including padding: each may have logits over the vocabulary, which must fit in memory."""

CHUNK_PLACES = 128
"""Places whose logits are converted to float32 log-probabilities at once."""


@dataclass(frozen=True)
class Request:
    """A text of which the last tokens are scored.

    Attributes:
        token_ids: The text: what is given, and what is scored.
        scored: How many of the last tokens are scored; at least one more is given.
    """

    token_ids: Sequence[int]
    scored: int

    def __post_init__(self) -> None:
        assert 0 < self.scored < len(self.token_ids), (self.scored, len(self.token_ids))


def log_likelihoods(
    model: Decoder,
    requests: Sequence[Request],
    *,
    batch_tokens: int = BATCH_TOKENS,
    on_progress: Advance | None = None,
) -> list[float]:
    """Return the summed log-likelihood, in nats, of each text's scored tokens.

    Args:
        model: The decoder.
        requests: The texts.
        batch_tokens: Largest number of tokens per batch, including padding. The results do not depend on it.
        on_progress: Called after each batch with the number of texts done, and with all.

    Raises:
        ModelError: The model computes NaN.
    """
    results = [math.nan] * len(requests)
    done = 0
    # nothing follows the last token, so it is not an input
    for group in group_by_length([len(each.token_ids) - 1 for each in requests], batch_tokens):
        for number, value in zip(group, _score([requests[number] for number in group], model), strict=True):
            if math.isnan(value):
                raise ModelError(
                    "The model computes NaN instead of probabilities: its weights are damaged, or too large for their "
                    "dtype.\nUse a checkpoint from before training diverged."
                )
            results[number] = value
        done += len(group)
        if on_progress is not None:
            on_progress(done, len(requests))
    return results


def _score(batch: Sequence[Request], model: Decoder) -> list[float]:
    import torch

    input_ids_bs, mask_bs = pad_right([each.token_ids[:-1] for each in batch])
    length = input_ids_bs.shape[1]
    places: list[int] = []
    following: list[int] = []
    for row, each in enumerate(batch):
        end = row * length + len(each.token_ids) - 1
        places += range(end - each.scored, end)
        following += each.token_ids[-each.scored :]
    logits_pv = model.logits_at(input_ids_bs, mask_bs, torch.tensor(places))
    values_p = _picked(logits_pv, torch.tensor(following, device=logits_pv.device))
    return [float(each.sum()) for each in torch.split(values_p, [each.scored for each in batch])]


def _picked(logits_pv: torch.Tensor, following_p: torch.Tensor) -> torch.Tensor:
    """Return the log-likelihood of one token at each place, float64 [places], from a log-softmax in float32."""
    import torch

    return torch.cat(
        [
            logits.float().log_softmax(dim=1).gather(1, tokens[:, None])[:, 0].double().cpu()
            for logits, tokens in zip(
                torch.split(logits_pv, CHUNK_PLACES), torch.split(following_p, CHUNK_PLACES), strict=True
            )
        ]
    )
