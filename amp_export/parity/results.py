"""Results of a comparison of graph and model."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from amp_export.outputs.manifest import Judged


@dataclass(frozen=True)
class CaseResult:
    """Result of one output of one case.

    Attributes:
        name: Name of the case.
        output: Name of the output.
        positions: Number of real token positions compared, or of rows if the output has one entry per text or image.
        max_error: Largest absolute difference between graph and reference.
        mean_error: Mean absolute difference.
        noise: Largest absolute difference between PyTorch in the graph's dtype and the reference.
        mean_noise: Mean of that difference.
        tolerance: Limit of the largest error: the largest noise of this output over all cases, times the factor.
        mean_tolerance: Limit of the mean error: the largest mean noise times the factor. It detects small faults.
        relative_error: The largest error over the largest absolute entry of the reference.
        kl: Mean Kullback-Leibler divergence of the graph's distribution from the reference's, in nats; None if the
            output is not logits.
        top1_agreement: Share of positions at which the largest entry of both has the same index: for logits, the same
            top-1 token or class.
        top5_agreement: Mean share of the reference's top five entries that are among the graph's top five.
        near_ties: Number of positions whose top-1 entries differ although the reference's two entries are within twice
            the tolerance; they do not fail parity.
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
    """Comparison of greedy decoding in graph and model.

    Attributes:
        steps: Number of tokens that each generated.
        common: Number of identical tokens before the first difference.
        near_tie: Whether the first difference is a near tie of the reference's logits, which does not fail parity.
        holds: Whether all tokens are identical, or the first difference is a near tie.
    """

    steps: int
    common: int
    near_tie: bool
    holds: bool


@dataclass(frozen=True)
class RoundedActivations:
    """The graph as it runs, which rounds activations to int8 before products with quantized weights.

    The cases of the report run without this rounding, so that their tolerance is that of the graph's dtype.

    Attributes:
        cases: Results of every case. Their noise is that of PyTorch with activations rounded in the same way.
        holds: Whether all of them are within their tolerance.
    """

    cases: tuple[CaseResult, ...]
    holds: bool


@dataclass(frozen=True)
class RuntimeDefaults:
    """The graph in the runtime's default settings, which round more than the dtype of the weights; it is not judged.

    Attributes:
        settings: What they are.
        positions: Number of token positions of all cases together.
        max_error: Largest absolute difference of a logit from the reference.
        mean_error: Mean absolute difference.
        kl: Mean Kullback-Leibler divergence from the reference, in nats.
        top1_agreement: Share of positions with the same top-1 token.
    """

    settings: str
    positions: int
    max_error: float
    mean_error: float
    kl: float
    top1_agreement: float


@dataclass(frozen=True)
class Point:
    """An intermediate value of graph and model.

    Attributes:
        graph: File of the graph.
        module: Name of the module in the model.
        layer: Number of its layer, or None.
        value: Name of the value in the graph.
        operator: The operator that computes it.
        error: The largest absolute difference; infinite if the difference is NaN or infinite.
        noise: The largest difference between PyTorch in the graph's dtype and in a higher one.
        tolerance: Limit of the error.
        holds: Whether the error is within the tolerance.
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
    """The intermediate values of graphs and model, up to the first that differs.

    Attributes:
        case: The case that was run.
        points: All values that were compared, in the order of the graphs.
        first: The first value that differs, or None.
        operators: The operators between the last values that agree and the first that differs; the fault is among them.
    """

    case: str
    points: tuple[Point, ...]
    first: Point | None
    operators: tuple[str, ...]


class ParityReport(
    msgspec.Struct, frozen=True, rename={"dtype": "precision", "reference_dtype": "reference_precision"}
):
    """Whether the graph's results match the model's.

    Attributes:
        runtime: Name and version of the graph's runtime; None in a device's report, which has its own field for it.
        dtype: Dtype of the graph.
        reference_dtype: Dtype of the PyTorch reference.
        noise: The largest noise over all cases.
        noise_factor: Tolerated error as a multiple of the noise.
        tolerance: The largest tolerance of all outputs.
        mean_tolerance: The largest tolerance of the mean error of all outputs.
        cases: Results of every output of every case.
        greedy: Result of greedy decoding; None if the model is not a decoder, or its context is too short.
        holds: Whether all cases and greedy decoding hold, and the cases with rounded activations if there are any.
        rounded: The graph as it runs if that rounds activations; None if not.
        defaults: The graph in the runtime's default settings, where the cases run in others; None if they are the same.
        explanation: Comparison of intermediate values, if requested.
        judged: The graph's files; None in a device's report, which is about a bundle.
        unreached: What no case reaches, such as a sliding window that is longer than all texts.
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
    rounded: RoundedActivations | None = None
    defaults: RuntimeDefaults | None = None
    explanation: Explanation | None = None
    judged: Judged | None = None
    unreached: tuple[str, ...] = ()

    def tolerances(self, case: CaseResult) -> tuple[float, float]:
        """Return the tolerances of a case's largest and mean error; a device's report has the same for all cases."""
        largest = self.tolerance if case.tolerance is None else case.tolerance
        return largest, self.mean_tolerance if case.mean_tolerance is None else case.mean_tolerance


def bind(report: ParityReport, judged: Judged) -> ParityReport:
    """Return a copy of a report that is bound to files."""
    return msgspec.structs.replace(report, judged=judged)
