"""The verb `validate`: does the exported graph compute what the pruned PyTorch model computes?

The tolerance is not a constant. PyTorch itself runs the model in the graph's precision and in a higher one; how far the
two are apart is the noise of this model's arithmetic. A graph that is right is about as far from the higher precision.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from amp_export.errors import OutputError
from amp_export.exporters import Precision, Provider
from amp_export.loading import load_model
from amp_export.manifest import Manifest
from amp_export.options import Format
from amp_export.progress import Progress, Silent
from amp_export.report_files import update_report

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from amp_export.parity_cases import Floats
    from amp_export.parity_suites import AnyCase

Result = TypeVar("Result")

NOISE_FACTOR = 4.0
"""How many times PyTorch's own noise a graph may be off: two runtimes sum in different orders, and each order is a draw
from the same noise; the worst of millions of logits is seldom more than twice another draw's worst."""

REFERENCE = {Precision.FLOAT32: "float64", Precision.FLOAT16: "float32", Precision.BFLOAT16: "float32"}
"""The higher precision that each precision's noise is measured against."""


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
        top1_agreement: Share of positions at which graph and reference have their largest entry at the same place: of
            logits, the same token or class.
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
    top1_agreement: float
    holds: bool


@dataclass(frozen=True)
class ParityReport:
    """Whether the graph computes what the model computes.

    Attributes:
        precision: The graph's precision.
        reference_precision: What PyTorch computed the reference in.
        noise: The largest noise over all cases.
        noise_factor: How many times the noise is tolerated.
        tolerance: The largest tolerance of an output.
        mean_tolerance: The largest tolerance of an output's mean.
        cases: Every output of every case.
        holds: Whether all of them hold.
    """

    precision: str
    reference_precision: str
    noise: float
    noise_factor: float
    tolerance: float
    mean_tolerance: float
    cases: tuple[CaseResult, ...]
    holds: bool

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def validate(
    output: Path,
    *,
    to: Format = Format.ONNX,
    reference: Path | None = None,
    threads: int | None = None,
    provider: Provider = Provider.CPU,
    progress: Progress | None = None,
) -> ParityReport:
    """Checks parity of what an output directory holds, and writes the result into its report.

    Args:
        output: What `export` or the whole run wrote.
        to: Which export of it to check.
        reference: The checkpoint that was exported; by default the one the manifest names.
        threads: Threads of the runtime; by default one for each core.
        provider: What computes a graph within ONNX Runtime.
        progress: Where to show what is going on.

    Returns:
        The result, whether parity holds or not.

    Raises:
        OutputError: `output` holds no graph, or its checkpoint is gone.
    """
    manifest = Manifest.load(output)
    checkpoint = reference or exported_checkpoint(output, manifest)
    graph = output / to
    report = compare(checkpoint, graph, threads=threads, provider=provider, progress=progress or Silent())
    update_report(output, manifest, parity=report.to_json(), progress=progress)
    return report


def exported_checkpoint(output: Path, manifest: Manifest) -> Path:
    """The checkpoint that the graph in an output directory was exported from.

    Raises:
        OutputError: It is no longer there.
    """
    if (output / "pruned").is_dir():
        return output / "pruned"
    path = Path(manifest.source.path)
    if not path.is_dir():
        raise OutputError(
            f"The graph in {output} was exported from {manifest.source.asked}, found then at {path}, which is gone.\n"
            "Name the checkpoint with --reference."
        )
    return path


def compare(
    checkpoint: Path,
    graph: Path,
    *,
    threads: int | None = None,
    provider: Provider = Provider.CPU,
    progress: Progress,
    cases: Sequence[AnyCase] | None = None,
) -> ParityReport:
    """Compares a graph with the checkpoint it came from.

    Args:
        checkpoint: What was exported.
        graph: The folder of the graph.
        threads: Threads of the runtime; by default one for each core.
        provider: What computes a graph within ONNX Runtime.
        progress: Where to show what is going on.
        cases: What to run, of the graph's kind; by default all that fits the model.

    Raises:
        ModelError: The checkpoint or the graph cannot be read.
        MissingExtraError: The runtime is not installed.
    """
    from amp_export.checkpoints import open_checkpoint
    from amp_export.exporters import run
    from amp_export.parity_suites import choose_suite

    model = run(graph, threads=threads, provider=provider)
    precision = model.precision
    suite = choose_suite(model, checkpoint, open_checkpoint(checkpoint).config, cases)
    with progress.step(f"Running the graph ({precision.value})") as _:
        found = suite.run_graph()
    with progress.step(f"Running PyTorch in {REFERENCE[precision]}") as _:
        expected = run_torch(checkpoint, REFERENCE[precision], suite.run_torch)
    with progress.step(f"Running PyTorch in {precision.value}") as _:
        same_precision = run_torch(checkpoint, precision.value, suite.run_torch)
    results = tuple(_judge(suite.names, found, expected, same_precision))
    return ParityReport(
        precision=precision.value,
        reference_precision=REFERENCE[precision],
        noise=max(result.noise for result in results),
        noise_factor=NOISE_FACTOR,
        tolerance=max(result.tolerance for result in results),
        mean_tolerance=max(result.mean_tolerance for result in results),
        cases=results,
        holds=all(result.holds for result in results),
    )


def _judge(
    names: Sequence[str],
    found: Sequence[Mapping[str, Floats]],
    expected: Sequence[Mapping[str, Floats]],
    same_precision: Sequence[Mapping[str, Floats]],
) -> Iterator[CaseResult]:
    """Holds every output of every case against the noise of that output; outputs differ in size."""
    for output in found[0]:
        noises = [distance(one[output], other[output]) for one, other in zip(same_precision, expected, strict=True)]
        tolerance, mean_tolerance = (NOISE_FACTOR * max(each) for each in zip(*noises, strict=True))
        for name, graph_by_name, reference_by_name, noise in zip(names, found, expected, noises, strict=True):
            graph_pv, reference_pv = graph_by_name[output], reference_by_name[output]
            worst, mean = distance(graph_pv, reference_pv)
            yield CaseResult(
                name=name,
                output=output,
                positions=len(graph_pv),
                max_error=worst,
                mean_error=mean,
                noise=noise[0],
                mean_noise=noise[1],
                tolerance=tolerance,
                mean_tolerance=mean_tolerance,
                top1_agreement=float((graph_pv.argmax(axis=1) == reference_pv.argmax(axis=1)).mean()),
                # a NaN compares false, so it fails
                holds=worst <= tolerance and mean <= mean_tolerance,
            )


def distance(one_pv: Floats, other_pv: Floats) -> tuple[float, float]:
    """The largest and the mean absolute difference."""
    difference_pv = abs(one_pv - other_pv)
    return float(difference_pv.max()), float(difference_pv.mean())


def run_torch(checkpoint: Path, precision: str, work: Callable[[PreTrainedModel], Result]) -> Result:
    """Loads a checkpoint into PyTorch and runs it.

    Args:
        checkpoint: What to load.
        precision: The name of the dtype to compute in.
        work: What to do with it.
    """
    import torch

    model = load_model(checkpoint, dtype=getattr(torch, precision))
    if precision == "float64" and model.config._attn_implementation == "eager":
        _keep_padding_finite(model)
    with torch.inference_mode():
        return work(model)


def _keep_padding_finite(model: PreTrainedModel) -> None:
    """Clears what a layer makes of padding that sees no token at all, which nothing looks at.

    Eager attention takes the softmax in float32, where float64's lowest number, the mask, is minus infinity: NaN, which
    the next layer's values would carry to the real tokens. Source: `eager_mask`, `masking_utils.py`, transformers 5.24.
    """
    import torch
    from transformers.modeling_layers import GradientCheckpointingLayer

    def clear(module: torch.nn.Module, inputs: Any, output: Any) -> Any:
        del module, inputs
        if not isinstance(output, torch.Tensor):
            return output
        sees_nothing = output.isnan().all(dim=-1, keepdim=True)
        return output.masked_fill(sees_nothing, 0.0)

    for module in model.modules():
        if isinstance(module, GradientCheckpointingLayer):
            module.register_forward_hook(clear)
