"""The commands that reproduce a result, as far as its manifest records them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from amp_export.benchmarking.results import BenchmarkReport
from amp_export.errors import command_line
from amp_export.options import Format, Runtime, Uniform
from amp_export.outputs.manifest import Manifest, RewriteKind
from amp_export.outputs.names import NEMOTRON_NAS
from amp_export.reporting.report import Report

OUT = "out"


def commands(report: Report, manifest: Manifest) -> Iterator[str]:
    """Yield one command per step; calibration files are left out, and the reader adds the one that the report names."""
    model = manifest.source.words
    if report.pruning is not None:
        yield _prune(report, manifest)
        model = ("--model", f"{OUT}/pruned")
    for name, dtype in manifest.exports.items():
        if name == Format.ONNX and Format.TENSORRT in manifest.exports:
            continue  # an engine's export makes the graph too
        via = manifest.exporters.get(name)
        yield _line(
            "export", *model, "--to", name, "--dtype", dtype, *(("--via", via) if via else ()),
            *_given(manifest.export_options.get(name, {})), "--output", OUT,
        )  # fmt: skip
    to = ("--to", Format.TENSORRT.value) if Format.TENSORRT in manifest.exports else ()
    if report.parity is not None:
        yield _line("validate", OUT, *to)
    for runtime, benchmark in (report.benchmarks or {}).items():
        yield _line("benchmark", OUT, *_runtime(runtime), "--rounds", str(benchmark.rounds), *_sweep(benchmark))


def _given(options: Mapping[str, object]) -> Iterator[str]:
    """Yield options as words."""
    for name, value in options.items():
        yield from (f"--{name.replace('_', '-')}", str(value))


def _runtime(name: str) -> list[str]:
    """Return the options that select a runtime by its name in a report; none for the default."""
    runtime = max((each for each in Runtime if name.startswith(each)), key=len)
    words = [] if runtime is Runtime.ONNXRUNTIME else ["--runtime", runtime.value]
    where = name.removeprefix(runtime).removeprefix("-")
    if not where:
        return words
    return [*words, "--provider" if runtime is Runtime.ONNXRUNTIME else "--device", where]


def _sweep(benchmark: BenchmarkReport) -> Iterator[str]:
    """Yield the options for threads, and for workloads that vary."""
    if benchmark.threads:
        yield from ("--threads", str(benchmark.threads))
    options = {"--batch": "batch_size", "--context": "prompt_tokens", "--generate": "decode_tokens"}
    for option, key in options.items():
        numbers = dict.fromkeys(
            str(number) for point in (benchmark, *benchmark.sweep) if (number := getattr(point, key))
        )
        if len(numbers) > 1:
            yield from (option, ",".join(numbers))


def _prune(report: Report, manifest: Manifest) -> str:
    assert report.pruning is not None
    arguments = [*manifest.source.words]
    if report.pruning.asked is None:
        arguments += ["--plan", "plan.json"]
    else:
        arguments += ["--ratio", f"{report.pruning.asked:g}"]
        arguments += _given(report.pruning.settings)
    if report.pruning.rewrite is not None and report.pruning.rewrite.kind is RewriteKind.PADDED:
        arguments += ["--uniform", Uniform.PAD]
    if any(name.startswith(f"{NEMOTRON_NAS}/") for name in manifest.files):
        arguments += ["--uniform", Uniform.NEMOTRON_NAS]
    return _line("prune", *arguments, "--output", OUT)


def _line(*words: str) -> str:
    return command_line("amp-export", *words)
