"""Compare an export with PyTorch, case by case.

The tolerance is not a constant. PyTorch itself runs the model in a higher precision, and several times in the graph's
(`noise.py`); how far those are off is the noise of this model's arithmetic. A graph that is right is about as far off.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from msgspec import structs

from amp_export.checkpoints.reading import open_checkpoint
from amp_export.options import Provider
from amp_export.parity.case_files import read_cases
from amp_export.parity.metrics import agree, distance
from amp_export.parity.noise import draw_rounding
from amp_export.parity.reference import NOISE_FACTOR, REFERENCE, run_torch
from amp_export.parity.results import CaseResult, Greedy, ParityReport
from amp_export.progress import Progress, Silent
from amp_export.verb_options import ValidateOptions

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from amp_export.inputs.tokens import Floats, Integers
    from amp_export.parity.explain.explanation import TapPlan
    from amp_export.parity.suites import AnyCase, AnyModel, Suite


def with_explanation(
    report: ParityReport, tap_plan: TapPlan, cases: Sequence[AnyCase] | None, *, progress: Progress
) -> ParityReport:
    """Add where graphs and model part: in the shortest case that fails, or in a short one where none does.

    Args:
        report: What was found from outside.
        tap_plan: What `explaining.look_into` found.
        cases: What was run; by default the cases of the model's kind.
        progress: Where to show what is going on.

    Raises:
        UnsupportedModelError: No value within can be compared.
    """
    from amp_export.parity.explain.explanation import explain
    from amp_export.parity.suites import default_cases

    failing = {result.name for result in report.cases if not result.holds}
    names = {result.name for result in report.cases}
    everything = cases or default_cases(open_checkpoint(tap_plan.checkpoint).config)
    known = [case for case in everything if case.name in names]
    candidates = [case for case in known if case.name in failing] or [case for case in known if case.is_varied]
    case = min(candidates or known, key=lambda case: case.tokens)
    return structs.replace(report, explanation=explain(tap_plan, case, progress=progress))


def compare(
    checkpoint: Path,
    graph: Path,
    *,
    threads: int | None = None,
    provider: Provider = Provider.CPU,
    progress: Progress,
    cases: Sequence[AnyCase] | None = None,
) -> ParityReport:
    """Compare a graph with the checkpoint it came from.

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


def compare_third_party(
    graph: Path, reference: Path, options: ValidateOptions | None = None, *, progress: Progress | None = None
) -> ParityReport:
    """Compare graphs that another exporter wrote with the checkpoint they came from.

    Args:
        graph: The file, or its folder: see `exporters.onnx.third_party.third_party_files`.
        reference: The checkpoint.
        options: How they are compared; its `to` and `reference` are not read.
        progress: Where to show progress.

    Raises:
        RequestError: An input or output of the graph is not known.
        UnsupportedModelError: It is a decoder without a KV cache, or an explanation was requested, and no intermediate
            value can be matched.
        ModelError: Graph or checkpoint cannot be read.
    """
    from amp_export.exporters.onnx.third_party import open_third_party, third_party_files
    from amp_export.parity.explain.explanation import plan_taps

    options, progress = options or ValidateOptions(), progress or Silent()
    checkpoint = open_checkpoint(reference)
    cases = None if options.cases is None else read_cases(options.cases, checkpoint.config)
    provider = options.provider.onnxruntime_name
    model = open_third_party(graph, checkpoint, threads=options.threads, provider=provider)
    files = third_party_files(graph, checkpoint.config.architecture.kind)
    tap_plan = plan_taps(reference, files) if options.explain else None
    report = compare_model(model, reference, progress=progress, cases=cases)
    return with_explanation(report, tap_plan, cases, progress=progress) if tap_plan is not None else report


def compare_model(
    model: AnyModel,
    checkpoint: Path,
    *,
    progress: Progress,
    cases: Sequence[AnyCase] | None = None,
) -> ParityReport:
    """Compare what was loaded into a runtime with the checkpoint it came from; it is closed then.

    Args:
        model: The graph or engine.
        checkpoint: What was exported.
        progress: Where to show what is going on.
        cases: What to run, of the graph's kind; by default all that fits the model.
    """
    from amp_export.parity.suites import choose_suite

    dtype = model.dtype
    suite = choose_suite(model, checkpoint, open_checkpoint(checkpoint).config, cases)
    with progress.step(f"Running the graph ({dtype.value})") as _:
        found = suite.run_graph()
    with progress.step(f"Running PyTorch in {REFERENCE[dtype]}") as _:
        expected, written = run_torch(
            checkpoint, REFERENCE[dtype], lambda model: (suite.run_torch(model), suite.continue_torch(model))
        )
    with progress.step(f"Running PyTorch in {dtype.value}") as _:
        noises = run_torch(checkpoint, dtype.value, lambda model: _measure_noise(model, suite, expected))
    results = tuple(_judge(suite.names, found, expected, noises))
    worst = [tuple(map(max, zip(*noises[output], strict=True))) for output in noises]
    noise, mean_noise = (max(each) for each in zip(*worst, strict=True))
    tolerance = NOISE_FACTOR * noise
    greedy = None
    if written is not None and suite.written is not None:
        greedy = _judge_greedy(suite.written, *written, tolerance=tolerance)
    return ParityReport(
        runtime=model.description,
        dtype=dtype.value,
        reference_dtype=REFERENCE[dtype],
        noise=noise,
        noise_factor=NOISE_FACTOR,
        tolerance=tolerance,
        mean_tolerance=NOISE_FACTOR * mean_noise,
        cases=results,
        greedy=greedy,
        holds=all(result.holds for result in results) and (greedy is None or greedy.holds),
    )


def _measure_noise(
    model: PreTrainedModel, suite: Suite, expected: Sequence[Mapping[str, Floats]]
) -> dict[str, list[tuple[float, float]]]:
    """Return, by output, the largest and the mean noise of each case: the worst of several runs."""
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
    """Compare every output of every case with the noise of that output; outputs differ in size."""
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
    """Compare what a graph generated with what PyTorch did, given the logits that PyTorch chose by."""
    differing = (written != expected).nonzero()[0]
    if not len(differing):
        return Greedy(len(expected), len(expected), near_tie=False, holds=True)
    first = int(differing[0])
    # up to here both read the same; each logit can be off by the tolerance, one up and one down
    gap = chosen_by_sv[first, expected[first]] - chosen_by_sv[first, written[first]]
    near_tie = bool(gap <= 2 * tolerance)
    return Greedy(len(expected), first, near_tie, holds=near_tie)
