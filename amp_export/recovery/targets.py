"""What a dense model predicts, stored as its likeliest tokens, and the divergence of another model from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

LEAST_LOG = -1e4
"""Logarithm that stands for a probability of 0: its exponential is 0 in float32, and products with it are finite."""


@dataclass(frozen=True)
class Targets:
    """The dense model's predictions at each position: its likeliest tokens, and all others as if they were one.

    Attributes:
        tokens_pk: The likeliest tokens, int32 [positions, k].
        log_pk: Logarithms of their probabilities, float32 [positions, k].
        log_rest_p: Logarithm of the probability of all other tokens together, float32 [positions].
    """

    tokens_pk: torch.Tensor
    log_pk: torch.Tensor
    log_rest_p: torch.Tensor


def take_targets(logits_pv: torch.Tensor, k: int) -> Targets:
    """Return the predictions that logits stand for.

    Args:
        logits_pv: Logits of the dense model, [positions, vocabulary].
        k: Number of tokens to keep; at most the vocabulary is kept.
    """
    import torch

    log_pv = logits_pv.float().log_softmax(dim=1)
    log_pk, tokens_pk = log_pv.topk(min(k, log_pv.shape[1]), dim=1)
    log_rest_p = log_pv.scatter(1, tokens_pk, -torch.inf).logsumexp(dim=1)
    return Targets(tokens_pk.int(), log_pk.clamp(min=LEAST_LOG), log_rest_p.clamp(min=LEAST_LOG))


def divergence(logits_pv: torch.Tensor, targets: Targets) -> torch.Tensor:
    """Return the Kullback-Leibler divergence of a model's predictions from the dense one's, in nats, [positions].

    The tokens that are not among the k likeliest count as one token. With k the size of the vocabulary this is the
    divergence itself, and with fewer a lower bound of it, because merging outcomes never increases a divergence (the
    log sum inequality; Cover and Thomas, Elements of Information Theory, 2.7). Gradients pass through it.

    Args:
        logits_pv: Logits of the model, [positions, vocabulary].
        targets: Predictions of the dense model at the same positions.
    """
    import torch

    log_pv = logits_pv.float().log_softmax(dim=1)
    tokens_pk = targets.tokens_pk.long()
    apart_pk = targets.log_pk - log_pv.gather(1, tokens_pk)
    apart_p = (targets.log_pk.exp() * apart_pk).sum(dim=1)
    if tokens_pk.shape[1] == log_pv.shape[1]:
        # there is no rest, and the gradient of its logarithm would be NaN
        return apart_p
    log_rest_p = log_pv.scatter(1, tokens_pk, -torch.inf).logsumexp(dim=1)
    return apart_p + targets.log_rest_p.exp() * (targets.log_rest_p - log_rest_p)
