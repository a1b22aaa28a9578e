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


@dataclass(frozen=True)
class Score:
    """How likely a model finds the scored tokens of a text.

    Attributes:
        log_likelihood: Their summed log-likelihood, in nats.
        is_greedy: Whether each of them is the most likely token at its place.
    """

    log_likelihood: float
    is_greedy: bool


def log_likelihoods(
    model: Decoder,
    requests: Sequence[Request],
    *,
    batch_tokens: int = BATCH_TOKENS,
    on_progress: Advance | None = None,
) -> list[float]:
    """Return the summed log-likelihood, in nats, of each text's scored tokens; see `score`."""
    found = score(model, requests, batch_tokens=batch_tokens, on_progress=on_progress)
    return [each.log_likelihood for each in found]


def score(
    model: Decoder,
    requests: Sequence[Request],
    *,
    batch_tokens: int = BATCH_TOKENS,
    on_progress: Advance | None = None,
) -> list[Score]:
    """Return how likely a model finds each text's scored tokens.

    Args:
        model: The decoder.
        requests: The texts.
        batch_tokens: Largest number of tokens per batch, including padding. The results do not depend on it.
        on_progress: Called after each batch with the number of texts done, and with all.

    Raises:
        ModelError: The model computes NaN.
    """
    results: dict[int, Score] = {}
    done = 0
    # nothing follows the last token, so it is not an input
    for group in group_by_length([len(each.token_ids) - 1 for each in requests], batch_tokens):
        for number, found in zip(group, _score([requests[number] for number in group], model), strict=True):
            if math.isnan(found.log_likelihood):
                raise ModelError(
                    "The model computes NaN instead of probabilities: its weights are damaged, or too large for their "
                    "dtype.\nUse a checkpoint from before training diverged."
                )
            results[number] = found
        done += len(group)
        if on_progress is not None:
            on_progress(done, len(requests))
    return [results[number] for number in range(len(requests))]


def _score(batch: Sequence[Request], model: Decoder) -> list[Score]:
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
    following_p = torch.tensor(following, device=logits_pv.device)
    values_p, greedy_p = _picked(logits_pv, following_p), (logits_pv.argmax(dim=1) == following_p).cpu()
    lengths = [each.scored for each in batch]
    return [
        Score(float(values.sum()), bool(greedy.all()))
        for values, greedy in zip(torch.split(values_p, lengths), torch.split(greedy_p, lengths), strict=True)
    ]


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
