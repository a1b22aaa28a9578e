from __future__ import annotations

import math

import numpy as np

from amp_export.parity.metrics import agree


def test_a_divergence_of_what_is_no_number_is_none() -> None:
    reference_pv = np.eye(3)
    graph_pv = reference_pv.copy()
    graph_pv[1, 1] = np.nan
    found = agree(graph_pv, reference_pv, tolerance=1e-3, are_logits=True)
    assert found.kl is not None
    assert math.isnan(found.kl)


def test_the_same_logits_diverge_by_nothing() -> None:
    reference_pv = np.random.default_rng(0).normal(size=(5, 7))
    found = agree(reference_pv, reference_pv, tolerance=1e-3, are_logits=True)
    assert (found.kl, found.top1_agreement, found.top5_agreement, found.near_ties) == (0.0, 1.0, 1.0, 0)
