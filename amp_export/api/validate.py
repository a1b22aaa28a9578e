"""The verb `validate`: does the exported graph compute what the pruned PyTorch model computes?

The tolerance is not a constant. PyTorch itself runs the model in a higher precision, and several times in the graph's
(`noise.py`); how far those are off is the noise of this model's arithmetic. A graph that is right is about as far off.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from amp_export.checkpoints.loading import load_model
from amp_export.checkpoints.reading import open_checkpoint
from amp_export.errors import OutputError, UnsupportedModelError
from amp_export.exporters.dispatch import Precision, Provider
from amp_export.options import Format
from amp_export.outputs.manifest import Manifest
from amp_export.outputs.staging import PRUNED
from amp_export.parity.case_files import read_cases
from amp_export.parity.metrics import agree, distance
from amp_export.parity.noise import draw_rounding
from amp_export.parity.results import CaseResult, Greedy, ParityReport
from amp_export.progress import Progress, Silent
from amp_export.reporting.files import open_report, update_report

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from amp_export.parity.decoder_cases import Floats, Integers
    from amp_export.parity.explain.explanation import Insides
    from amp_export.parity.suites import AnyCase, AnyModel, Suite

Result = TypeVar("Result")

NOISE_FACTOR = 4.0
"""How many times PyTorch's own noise a graph may be off: two runtimes sum in different orders, and each order is a draw
from the same noise, of which a graph's is one and PyTorch's is the worst of several."""

REFERENCE = {Precision.FLOAT32: "float64", Precision.FLOAT16: "float32", Precision.BFLOAT16: "float32"}
"""The higher precision that each precision's noise is measured against."""


def validate(
    output: Path,
    *,
    to: Format = Format.ONNX,
    reference: Path | None = None,
    cases: Path | None = None,
    explain: bool = False,
    threads: int | None = None,
    provider: Provider = Provider.CPU,
    progress: Progress | None = None,
) -> ParityReport:
    """Checks parity of what an output directory holds, and writes the result into its report.

    Args:
        output: What `export` or the whole run wrote.
        to: Which export of it to check.
        reference: The checkpoint that was exported; by default the one the manifest names.
        cases: A file of cases, as `parity_files.read_cases` takes it; by default those of the model's kind.
        explain: Whether to look within graph and model for where they part.
        threads: Threads of the runtime; by default one for each core.
        provider: What computes a graph within ONNX Runtime.
        progress: Where to show what is going on.

    Returns:
        The result, whether parity holds or not.

    Raises:
        OutputError: `output` holds no graph, or its checkpoint is gone.
        UnsupportedModelError: It is to be looked within, and nothing there can be told to be one of the model's values.
    """
    from amp_export.exporters.onnx.sessions import exported_graphs
    from amp_export.parity.explain.explanation import look_into

    manifest = Manifest.load(output)
    earlier = open_report(output, manifest)
    if explain and to is not Format.ONNX:
        raise UnsupportedModelError("--explain looks into ONNX graphs.\nLeave it out, or give --to onnx.")
    require_export(output, manifest, to)
    checkpoint = reference or exported_checkpoint(output, manifest)
    graph, progress = output / to, progress or Silent()
    chosen = read_cases(cases, open_checkpoint(checkpoint).config) if cases is not None else None
    insides = look_into(checkpoint, exported_graphs(graph)) if explain else None
    report = compare(checkpoint, graph, threads=threads, provider=provider, progress=progress, cases=chosen)
    if insides is not None:
        report = with_explanation(report, insides, chosen, progress=progress)
    update_report(output, earlier, manifest, parity=report.to_json(), progress=progress)
    return report


def require_export(output: Path, manifest: Manifest, to: Format, *, why: str = "") -> None:
    """Sees that an output directory holds an export.

    Args:
        output: The output directory.
        manifest: Its manifest.
        to: The format.
        why: What it is needed for.

    Raises:
        OutputError: It does not.
    """
    if to in manifest.exports:
        return
    checkpoint = output / PRUNED if (output / PRUNED).is_dir() else manifest.source.asked
    raise OutputError(
        f"{output} holds no export as {to}{why}. It holds {', '.join(manifest.exports) or 'none at all'}.\n"
        f"Export it: amp-export export --to {to} --model {checkpoint} --output {output}"
    )


def with_explanation(
    report: ParityReport, insides: Insides, cases: Sequence[AnyCase] | None, *, progress: Progress
) -> ParityReport:
    """Adds where graphs and model part: in the shortest case that fails, or in a short one where none does.

    Args:
        report: What was found from outside.
        insides: What `explaining.look_into` found.
        cases: What was run; by default the cases of the model's kind.
        progress: Where to show what is going on.

    Raises:
        UnsupportedModelError: No value within can be compared.
    """
    from amp_export.parity.explain.explanation import explain
    from amp_export.parity.suites import default_cases

    failing = {result.name for result in report.cases if not result.holds}
    names = {result.name for result in report.cases}
    everything = cases or default_cases(open_checkpoint(insides.checkpoint).config)
    known = [case for case in everything if case.name in names]
    candidates = [case for case in known if case.name in failing] or [case for case in known if case.is_varied]
    case = min(candidates or known, key=lambda case: case.tokens)
    return replace(report, explanation=explain(insides, case, progress=progress).to_json())


def exported_checkpoint(
    output: Path, manifest: Manifest, *, advice: str = "Name the checkpoint with --reference."
) -> Path:
    """The checkpoint that the graph in an output directory was exported from.

    Args:
        output: The output directory.
        manifest: Its manifest.
        advice: What to do where the checkpoint is gone.

    Raises:
        OutputError: It is no longer there.
    """
    if (output / PRUNED).is_dir():
        return output / PRUNED
    path = Path(manifest.source.path)
    if not path.is_dir():
        raise OutputError(
            f"The graph in {output} was exported from {manifest.source.asked}, found then at {path}, which is gone.\n"
            f"{advice}"
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
    from amp_export.exporters.dispatch import run

    model = run(graph, threads=threads, provider=provider)
    return compare_model(model, checkpoint, progress=progress, cases=cases)


def compare_foreign(
    graph: Path,
    *,
    reference: Path,
    cases: Path | None = None,
    explain: bool = False,
    threads: int | None = None,
    provider: Provider = Provider.CPU,
    progress: Progress | None = None,
) -> ParityReport:
    """Compares graphs that another exporter wrote with the checkpoint they came from.

    Args:
        graph: The file, or its folder: see `exporters.onnx.foreign.foreign_files`.
        reference: The checkpoint.
        cases: A file of cases; by default all that fits the model.
        explain: Whether to look within graph and model for where they part.
        threads: Threads of the runtime; by default one for each core.
        provider: What computes a graph within ONNX Runtime.
        progress: Where to show what is going on.

    Raises:
        RequestError: An input or output of the graph cannot be told.
        UnsupportedModelError: It is a decoder's without a cache, or is to be looked within, and tells nothing of the
            model's modules.
        ModelError: Graph or checkpoint cannot be read.
    """
    from amp_export.exporters.onnx.third_party import foreign_files, open_foreign
    from amp_export.parity.explain.explanation import look_into

    checkpoint, progress = open_checkpoint(reference), progress or Silent()
    chosen = read_cases(cases, checkpoint.config) if cases is not None else None
    model = open_foreign(graph, checkpoint, threads=threads, provider=provider.onnxruntime_name)
    files = foreign_files(graph, checkpoint.config.architecture.kind)
    insides = look_into(reference, files) if explain else None
    report = compare_model(model, reference, progress=progress, cases=chosen)
    return with_explanation(report, insides, chosen, progress=progress) if insides is not None else report


def compare_model(
    model: AnyModel,
    checkpoint: Path,
    *,
    progress: Progress,
    cases: Sequence[AnyCase] | None = None,
) -> ParityReport:
    """Compares what was loaded into a runtime with the checkpoint it came from; it is closed then.

    Args:
        model: The graph or engine.
        checkpoint: What was exported.
        progress: Where to show what is going on.
        cases: What to run, of the graph's kind; by default all that fits the model.
    """
    from amp_export.parity.suites import choose_suite

    precision = model.precision
    suite = choose_suite(model, checkpoint, open_checkpoint(checkpoint).config, cases)
    with progress.step(f"Running the graph ({precision.value})") as _:
        found = suite.run_graph()
    with progress.step(f"Running PyTorch in {REFERENCE[precision]}") as _:
        expected, written = run_torch(
            checkpoint, REFERENCE[precision], lambda model: (suite.run_torch(model), suite.continue_torch(model))
        )
    with progress.step(f"Running PyTorch in {precision.value}") as _:
        noises = run_torch(checkpoint, precision.value, lambda model: _measure_noise(model, suite, expected))
    results = tuple(_judge(suite.names, found, expected, noises))
    tolerance = max(result.tolerance for result in results)
    greedy = None
    if written is not None and suite.written is not None:
        greedy = _judge_greedy(suite.written, *written, tolerance=tolerance)
    return ParityReport(
        runtime=model.description,
        precision=precision.value,
        reference_precision=REFERENCE[precision],
        noise=max(result.noise for result in results),
        noise_factor=NOISE_FACTOR,
        tolerance=tolerance,
        mean_tolerance=max(result.mean_tolerance for result in results),
        cases=results,
        greedy=greedy,
        holds=all(result.holds for result in results) and (greedy is None or greedy.holds),
    )


def _measure_noise(
    model: PreTrainedModel, suite: Suite, expected: Sequence[Mapping[str, Floats]]
) -> dict[str, list[tuple[float, float]]]:
    """By output the largest and the mean noise of each case: the worst of several runs, none of which is kept."""
    worst: dict[str, Any] = {}
    for run in draw_rounding(model, suite.run_torch):
        for output in run[0]:
            found = [distance(one[output], other[output]) for one, other in zip(run, expected, strict=True)]
            # a NaN stays one
            worst[output] = np.maximum(worst.get(output, 0.0), found)
    return {output: [(float(largest), float(mean)) for largest, mean in pairs] for output, pairs in worst.items()}


def _judge(
    names: Sequence[str],
    found: Sequence[Mapping[str, Floats]],
    expected: Sequence[Mapping[str, Floats]],
    noises: Mapping[str, Sequence[tuple[float, float]]],
) -> Iterator[CaseResult]:
    """Holds every output of every case against the noise of that output; outputs differ in size."""
    for output in found[0]:
        tolerance, mean_tolerance = (NOISE_FACTOR * max(each) for each in zip(*noises[output], strict=True))
        for name, graph_by_name, reference_by_name, noise in zip(names, found, expected, noises[output], strict=True):
            graph_pv, reference_pv = graph_by_name[output], reference_by_name[output]
            worst, mean = distance(graph_pv, reference_pv)
            agreement = agree(graph_pv, reference_pv, tolerance=tolerance, are_logits=output == "logits")
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
                relative_error=agreement.relative_error,
                kl=agreement.kl,
                top1_agreement=agreement.top1_agreement,
                top5_agreement=agreement.top5_agreement,
                near_ties=agreement.near_ties,
                # a NaN compares false, so it fails
                holds=worst <= tolerance and mean <= mean_tolerance,
            )


def _judge_greedy(written: Integers, expected: Integers, chosen_by_sv: Floats, *, tolerance: float) -> Greedy:
    """Holds what a graph wrote against what PyTorch did, and the logits by which PyTorch chose."""
    differing = (written != expected).nonzero()[0]
    if not len(differing):
        return Greedy(len(expected), len(expected), near_tie=False, holds=True)
    first = int(differing[0])
    # up to here both read the same; each logit can be off by the tolerance, one up and one down
    gap = chosen_by_sv[first, expected[first]] - chosen_by_sv[first, written[first]]
    near_tie = bool(gap <= 2 * tolerance)
    return Greedy(len(expected), first, near_tie, holds=near_tie)


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
