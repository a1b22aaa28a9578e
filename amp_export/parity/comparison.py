"""Compare an export with PyTorch, case by case.

The tolerance is derived from the model's own rounding noise: PyTorch runs the model in a higher dtype and several times
in the graph's dtype (`noise.py`), and the difference is the noise. A correct graph has an error of about the same size.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from msgspec import structs

from amp_export.checkpoints.reading import open_checkpoint
from amp_export.exporters.models.decoder import Decoder
from amp_export.options import Provider
from amp_export.parity.case_files import read_cases
from amp_export.parity.extremes import largest
from amp_export.parity.metrics import agree, distance
from amp_export.parity.noise import draw_rounding
from amp_export.parity.quantized import QuantizedWeights, RoundedWeights
from amp_export.parity.reference import NOISE_FACTOR, REFERENCE, run_torch, tolerated
from amp_export.parity.results import CaseResult, Greedy, ParityReport, RoundedActivations, RuntimeDefaults
from amp_export.parity.switches import unreached
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
    """Add an explanation to a report, of the shortest failing case or, if none fails, of a short varied one.

    Args:
        report: The parity report.
        tap_plan: The result of `plan_taps`.
        cases: The cases that were run; by default the default cases.
        progress: Shows progress.

    Raises:
        UnsupportedModelError: No intermediate value can be compared.
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
    whole: Path | None = None,
    threads: int | None = None,
    provider: Provider = Provider.CPU,
    progress: Progress,
    cases: Sequence[AnyCase] | None = None,
) -> ParityReport:
    """Compare a graph with the checkpoint that it was exported from.

    Args:
        checkpoint: The exported checkpoint.
        graph: The folder of the graph.
        whole: The vision-language model whose language model the checkpoint is, if the folder holds its parts.
        threads: Threads of the runtime; by default one per core.
        provider: Execution provider of ONNX Runtime.
        progress: Shows progress.
        cases: Cases to run, of the graph's kind; by default all default cases that fit the model.

    Raises:
        RequestError: A given case does not fit the graph.
        ModelError: The checkpoint or the graph cannot be read.
        MissingExtraError: The runtime is not installed.
    """
    from amp_export.exporters.dispatch import quantized_graph, run
    from amp_export.exporters.gguf.files import is_gguf

    if is_gguf(graph):
        return _compare_gguf(checkpoint, graph, threads=threads, provider=provider, progress=progress, cases=cases)
    quantized = quantized_graph(graph)
    model = run(graph, threads=threads, provider=provider, exact=quantized is not None)
    weights = QuantizedWeights(quantized) if quantized is not None else None
    report, expected = _compare_model(model, checkpoint, whole, progress=progress, cases=cases, weights=weights)
    if quantized is None:
        return report
    as_shipped = run(graph, threads=threads, provider=provider)
    if not isinstance(as_shipped, Decoder) or as_shipped.activation_block is None:
        return report
    weights = QuantizedWeights(quantized, as_shipped.activation_block)
    rounded = _compare_rounded(as_shipped, checkpoint, whole, weights, expected, progress=progress, cases=cases)
    return structs.replace(report, rounded=rounded, holds=report.holds and rounded.holds)


def _compare_gguf(
    checkpoint: Path,
    graph: Path,
    *,
    threads: int | None,
    provider: Provider,
    progress: Progress,
    cases: Sequence[AnyCase] | None,
) -> ParityReport:
    """Compare a GGUF file with attention in float32, and add what llama.cpp's defaults do, which is not judged."""
    from amp_export.exporters.dispatch import run
    from amp_export.exporters.gguf.running import DEFAULTS
    from amp_export.parity.llama_rounding import LlamaRounding
    from amp_export.parity.suites import choose_suite

    model = run(graph, threads=threads, provider=provider, exact=True)
    rounding = LlamaRounding.of(graph)
    report, expected = _compare_model(
        model, checkpoint, None, progress=progress, cases=cases, weights=rounding, rounding=rounding
    )
    as_shipped = run(graph, threads=threads, provider=provider)
    suite = choose_suite(as_shipped, checkpoint, open_checkpoint(checkpoint).config, cases)
    with progress.step("Running llama.cpp with its defaults") as _:
        found = suite.run_graph()
    return structs.replace(report, defaults=_summarize(found, expected, DEFAULTS))


def _summarize(
    found: Sequence[Mapping[str, Floats]], expected: Sequence[Mapping[str, Floats]], settings: str
) -> RuntimeDefaults:
    """Return how far the logits of all cases together are from the reference."""
    graph_pv, reference_pv = (np.concatenate([each["logits"] for each in cases]) for cases in (found, expected))
    worst, mean = distance(graph_pv, reference_pv)
    agreement = agree(graph_pv, reference_pv, tolerance=worst, are_logits=True)
    assert agreement.kl is not None
    return RuntimeDefaults(settings, len(graph_pv), worst, mean, agreement.kl, agreement.top1_agreement)


def compare_third_party(
    graph: Path, reference: Path, options: ValidateOptions | None = None, *, progress: Progress | None = None
) -> ParityReport:
    """Compare third-party graphs with the checkpoint that they were exported from.

    Args:
        graph: The graph's file or folder: see `exporters.onnx.third_party.third_party_files`.
        reference: The checkpoint.
        options: Options of the comparison; its `to` and `reference` are ignored.
        progress: Shows progress.

    Raises:
        RequestError: An input or output of the graph is not known, or the case file is invalid.
        UnsupportedModelError: The graph is a decoder without a KV cache, or an explanation was requested and no
            intermediate value can be matched.
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
    """Compare a loaded graph or engine with the checkpoint that it was exported from, and close it.

    Args:
        model: The graph or engine; its weights are not quantized.
        checkpoint: The exported checkpoint.
        progress: Shows progress.
        cases: Cases to run, of the graph's kind; by default all default cases that fit the model.
    """
    report, _ = _compare_model(model, checkpoint, None, progress=progress, cases=cases, weights=None)
    return report


def _compare_model(
    model: AnyModel,
    checkpoint: Path,
    whole: Path | None,
    *,
    progress: Progress,
    cases: Sequence[AnyCase] | None,
    weights: RoundedWeights | None,
    rounding: RoundedWeights | None = None,
) -> tuple[ParityReport, Sequence[Mapping[str, Floats]]]:
    """Compare a graph with PyTorch, which computes with the graph's weights if they are quantized.

    Args:
        model: The loaded graph.
        checkpoint: The exported checkpoint.
        whole: The vision-language model that it is the language model of, if the graphs are its parts.
        progress: Shows progress.
        cases: Cases to run; by default all default cases that fit the model.
        weights: The graph's weights, if they are quantized.
        rounding: What the runtime rounds that PyTorch does not, so that it counts as noise.

    Returns:
        The report, and PyTorch's outputs in the higher dtype.
    """
    from amp_export.parity.suites import choose_suite

    dtype = model.dtype
    config = open_checkpoint(checkpoint).config
    suite = choose_suite(model, checkpoint, config, cases, whole)
    with progress.step(f"Running the graph ({dtype.value})") as _:
        found = suite.run_graph()
    with progress.step(f"Running PyTorch in {REFERENCE[dtype]}") as _:
        expected, written = run_torch(
            whole or checkpoint,
            REFERENCE[dtype],
            lambda model: (suite.run_torch(model), suite.continue_torch(model)),
            weights=weights,
        )
    with progress.step(f"Running PyTorch in {dtype.value}") as _:
        noises = run_torch(
            whole or checkpoint,
            dtype.value,
            lambda model: _measure_noise(model, suite, expected, rounding),
            weights=weights,
        )
    results = tuple(_judge(suite.names, found, expected, noises))
    noise, mean_noise = (largest(each) for each in zip(*chain(*noises.values()), strict=True))
    tolerance = tolerated(noise)
    greedy = None
    if written is not None and suite.written is not None:
        greedy = _judge_greedy(suite.written, *written, noises["logits"])
    report = ParityReport(
        runtime=model.description,
        dtype=dtype.value,
        reference_dtype=REFERENCE[dtype],
        noise=noise,
        noise_factor=NOISE_FACTOR,
        tolerance=tolerance,
        mean_tolerance=tolerated(mean_noise),
        cases=results,
        greedy=greedy,
        holds=all(result.holds for result in results) and (greedy is None or greedy.holds),
        unreached=unreached(config) if cases is None else (),
    )
    return report, expected


def _compare_rounded(
    model: Decoder,
    checkpoint: Path,
    whole: Path | None,
    weights: QuantizedWeights,
    expected: Sequence[Mapping[str, Floats]],
    *,
    progress: Progress,
    cases: Sequence[AnyCase] | None,
) -> RoundedActivations:
    """Compare a graph that rounds activations with PyTorch that does not, by the noise of PyTorch that does."""
    from amp_export.parity.suites import choose_suite

    suite = choose_suite(model, checkpoint, open_checkpoint(checkpoint).config, cases, whole)
    with progress.step("Running the graph with activations rounded to int8") as _:
        found = suite.run_graph()
    with progress.step(f"Running PyTorch in {model.dtype.value}, rounding them too") as _:
        noises = run_torch(
            whole or checkpoint,
            model.dtype.value,
            lambda model: _measure_noise(model, suite, expected, weights),
            weights=weights,
        )
    results = tuple(_judge(suite.names, found, expected, noises))
    return RoundedActivations(results, holds=all(result.holds for result in results))


def _measure_noise(
    model: PreTrainedModel,
    suite: Suite,
    expected: Sequence[Mapping[str, Floats]],
    weights: RoundedWeights | None = None,
) -> dict[str, list[tuple[float, float]]]:
    """Return the largest and the mean noise of each case, by output: the maxima over several runs.

    With weights, activations are rounded as their runtime does.
    """
    worst: dict[str, Any] = {}
    with weights.rounding_activations(model) if weights is not None else nullcontext():
        for run in draw_rounding(model, suite.run_torch):
            for output in run[0]:
                found = [distance(one[output], other[output]) for one, other in zip(run, expected, strict=True)]
                # np.maximum propagates NaN
                worst[output] = np.maximum(worst.get(output, 0.0), found)
    return {output: [(float(largest), float(mean)) for largest, mean in pairs] for output, pairs in worst.items()}


def _judge(
    names: Sequence[str],
    found: Sequence[Mapping[str, Floats]],
    expected: Sequence[Mapping[str, Floats]],
    noises: Mapping[str, Sequence[tuple[float, float]]],
) -> Iterator[CaseResult]:
    """Yield a result for every output of every case; each output has its own tolerance, since their scales differ."""
    for output in found[0]:
        tolerance, mean_tolerance = (tolerated(largest(each)) for each in zip(*noises[output], strict=True))
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
                # comparisons with NaN are false, so it fails
                holds=worst <= tolerance and mean <= mean_tolerance,
            )


def _judge_greedy(
    written: Integers, expected: Integers, chosen_by_sv: Floats, noises: Sequence[tuple[float, float]]
) -> Greedy:
    """Compare the tokens generated by a graph and by PyTorch, given PyTorch's logits of each step and their noise."""
    tolerance = tolerated(largest(noise for noise, _ in noises))
    differing = (written != expected).nonzero()[0]
    if not len(differing):
        return Greedy(len(expected), len(expected), near_tie=False, holds=True)
    first = int(differing[0])
    # the inputs are identical up to here; two logits can be off by the tolerance in opposite directions
    gap = chosen_by_sv[first, expected[first]] - chosen_by_sv[first, written[first]]
    near_tie = bool(gap <= 2 * tolerance)
    return Greedy(len(expected), first, near_tie, holds=near_tie)
