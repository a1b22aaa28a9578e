"""What a comparison of graph and model found, as a report has it."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec


@dataclass(frozen=True)
class CaseResult:
    """How one output of one case came out.

    Attributes:
        name: The case.
        output: The graph's output.
        positions: Real token positions compared; rows, where an output has one entry for a whole text or image.
        max_error: Largest absolute difference between graph and reference.
        mean_error: Mean absolute difference.
        noise: Largest absolute difference between PyTorch in the graph's dtype and the reference.
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
    positions: int
    max_error: float
    mean_error: float
    top1_agreement: float
    holds: bool
    output: str = "logits"
    noise: float | None = None
    mean_noise: float | None = None
    tolerance: float | None = None
    mean_tolerance: float | None = None
    relative_error: float | None = None
    kl: float | None = None
    top5_agreement: float | None = None
    near_ties: int | None = None


@dataclass(frozen=True)
class Greedy:
    """One text that graph and model continue by greedy decoding.

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
class Point:
    """A value that graph and model both have.

    Attributes:
        graph: The file of the graph.
        module: The model's name for it.
        layer: The layer it is in, or None.
        value: The graph's name for it.
        operator: The operator that makes it.
        error: The largest absolute difference; infinite where the graph has NaN or infinity and the model has not.
        noise: The largest difference between PyTorch in the graph's dtype and in a higher one.
        tolerance: What the error may be.
        holds: Whether it is within.
    """

    graph: str
    module: str
    layer: int | None
    value: str
    operator: str
    error: float
    noise: float
    tolerance: float
    holds: bool


@dataclass(frozen=True)
class Explanation:
    """Where graphs and model part.

    Attributes:
        case: The case that was run.
        points: Every value that both have, in the order of the graphs.
        first: The first that differs, or None.
        operators: The operators from the last value that agrees to that one: the fault is among them.
    """

    case: str
    points: tuple[Point, ...]
    first: Point | None
    operators: tuple[str, ...]


class ParityReport(
    msgspec.Struct, frozen=True, rename={"dtype": "precision", "reference_dtype": "reference_precision"}
):
    """Whether the graph computes what the model computes.

    Attributes:
        runtime: Name and version of the runtime of the graph; None in a device's report, which has it elsewhere.
        dtype: The graph's dtype.
        reference_dtype: What PyTorch computed the reference in.
        noise: The largest noise over all cases.
        noise_factor: How many times the noise is tolerated.
        tolerance: The largest tolerance of an output.
        mean_tolerance: The largest tolerance of an output's mean.
        cases: Every output of every case.
        greedy: What a decoder writes; None of other models.
        holds: Whether all of them hold.
        explanation: The intermediate values that differ, if requested.
    """

    dtype: str
    reference_dtype: str
    noise: float
    noise_factor: float
    tolerance: float
    mean_tolerance: float
    cases: tuple[CaseResult, ...]
    holds: bool
    runtime: str | None = None
    greedy: Greedy | None = None
    explanation: Explanation | None = None

    def tolerances(self, case: CaseResult) -> tuple[float, float]:
        """Return what the largest and the mean error of a case may be; on a device it is the same for all cases."""
        largest = self.tolerance if case.tolerance is None else case.tolerance
        return largest, self.mean_tolerance if case.mean_tolerance is None else case.mean_tolerance
