"""Metrics of the difference between a graph's outputs and a reference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from amp_export.inputs.tokens import Floats


@dataclass(frozen=True)
class Agreement:
    """Agreement of graph and reference over the positions of one output of one case.

    Attributes:
        relative_error: The largest absolute difference over the largest absolute entry of the reference.
        kl: Mean Kullback-Leibler divergence of the graph's distribution from the reference's, in nats, if the output is
            logits; None otherwise.
        top1_agreement: Share of positions at which the largest entry of both has the same index.
        top5_agreement: Mean share of the reference's top five entries that are among the graph's top five.
        near_ties: Number of positions whose top-1 entries differ although the reference's two entries are within twice
            the tolerance; they do not fail parity.
    """

    relative_error: float
    kl: float | None
    top1_agreement: float
    top5_agreement: float
    near_ties: int


def agree(graph_pv: Floats, reference_pv: Floats, *, tolerance: float, are_logits: bool) -> Agreement:
    """Compare two arrays [positions, features].

    Args:
        graph_pv: The graph's output.
        reference_pv: The reference output of PyTorch.
        tolerance: Tolerated error of an entry.
        are_logits: Whether they are logits, for which a KL divergence is defined.
    """
    positions = np.arange(len(graph_pv))
    graph_best, reference_best = graph_pv.argmax(axis=1), reference_pv.argmax(axis=1)
    differs = graph_best != reference_best
    # two entries can be off by the tolerance in opposite directions
    gap = reference_pv[positions, reference_best] - reference_pv[positions, graph_best]
    largest = float(abs(reference_pv).max())
    return Agreement(
        relative_error=float(abs(graph_pv - reference_pv).max()) / largest if largest else 0.0,
        kl=_divergence(graph_pv, reference_pv) if are_logits else None,
        top1_agreement=float(1 - differs.mean()),
        top5_agreement=_shared(graph_pv, reference_pv, min(5, graph_pv.shape[1])),
        near_ties=int((differs & (gap <= 2 * tolerance)).sum()),
    )


def distance(one_pv: Floats, other_pv: Floats) -> tuple[float, float]:
    """Return the largest and the mean absolute difference."""
    difference_pv = abs(one_pv - other_pv)
    return float(difference_pv.max()), float(difference_pv.mean())


def _divergence(graph_pv: Floats, reference_pv: Floats) -> float:
    # infinite logits have no softmax: their divergence is NaN
    with np.errstate(invalid="ignore"):
        graph_log, reference_log = _log_softmax(graph_pv), _log_softmax(reference_pv)
        divergences = (np.exp(reference_log) * (reference_log - graph_log)).sum(axis=1)
    # rounding can make it slightly negative; this order of arguments keeps a NaN
    return max(float(divergences.mean()), 0.0)


def _log_softmax(logits_pv: Floats) -> Any:
    shifted = logits_pv - logits_pv.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def _shared(graph_pv: Floats, reference_pv: Floats, count: int) -> float:
    graph_top, reference_top = (
        np.argpartition(-array, count - 1, axis=1)[:, :count] for array in (graph_pv, reference_pv)
    )
    hits = (graph_top[:, :, np.newaxis] == reference_top[:, np.newaxis, :]).any(axis=1)
    return float(hits.mean())
