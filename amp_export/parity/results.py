"""What a comparison of graph and model found, as a report has it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class CaseResult:
    """How one output of one case came out.

    Attributes:
        name: The case.
        output: The graph's output.
        positions: Real token positions compared; rows, where an output has one entry for a whole text or image.
        max_error: Largest absolute difference between graph and reference.
        mean_error: Mean absolute difference.
        noise: Largest absolute difference between PyTorch in the graph's precision and the reference.
        mean_noise: The mean of that difference.
        tolerance: What the largest error may be: the largest noise of this output over all cases, times the factor.
        mean_tolerance: What the mean error may be: the largest mean noise times the factor. Small faults show here.
        relative_error: The largest error over the largest absolute entry of the reference.
        kl: Mean Kullback-Leibler divergence of the graph's distribution from the reference's, in nats; None of outputs
            that are no logits.
        top1_agreement: Share of positions at which graph and reference have their largest entry at the same place: of
            logits, the same token or class.
        top5_agreement: Mean share of the reference's five largest entries that are among the graph's five.
        near_ties: Positions at which they differ in the largest, because the reference's are no farther apart than the
            tolerance; they are no failures.
        holds: Whether both errors are within their tolerance.
    """

    name: str
    output: str
    positions: int
    max_error: float
    mean_error: float
    noise: float
    mean_noise: float
    tolerance: float
    mean_tolerance: float
    relative_error: float
    kl: float | None
    top1_agreement: float
    top5_agreement: float
    near_ties: int
    holds: bool


@dataclass(frozen=True)
class Greedy:
    """One text that graph and model continue, each with the token that it finds likeliest.

    Attributes:
        steps: Tokens that each wrote.
        common: How many are the same, up to the first that is not.
        near_tie: Whether that one is a near tie of the reference, which is no failure.
        holds: Whether all are the same, or the first that is not is a near tie.
    """

    steps: int
    common: int
    near_tie: bool
    holds: bool


@dataclass(frozen=True)
class ParityReport:
    """Whether the graph computes what the model computes.

    Attributes:
        runtime: Name and version of what ran the graph.
        precision: The graph's precision.
        reference_precision: What PyTorch computed the reference in.
        noise: The largest noise over all cases.
        noise_factor: How many times the noise is tolerated.
        tolerance: The largest tolerance of an output.
        mean_tolerance: The largest tolerance of an output's mean.
        cases: Every output of every case.
        greedy: What a decoder writes; None of other models.
        holds: Whether all of them hold.
        explanation: Where graph and model part within, if that was asked for: `explaining.Explanation`.
    """

    runtime: str
    precision: str
    reference_precision: str
    noise: float
    noise_factor: float
    tolerance: float
    mean_tolerance: float
    cases: tuple[CaseResult, ...]
    greedy: Greedy | None
    holds: bool
    explanation: Mapping[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)
