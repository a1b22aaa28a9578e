"""The commands that make a result again, as far as its manifest tells them."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from amp_export.manifest import Manifest
from amp_export.options import Format
from amp_export.reporting import Report
from amp_export.rewriting import RewriteKind

OUT = "out"


def commands(report: Report, manifest: Manifest) -> Iterator[str]:
    """One line for each step. What was calibrated on is named in the report, and the file is the reader's."""
    checkpoint = manifest.source.asked
    if report.pruning is not None:
        yield _prune(report, manifest)
        checkpoint = f"{OUT}/pruned"
    for name, precision in manifest.exports.items():
        if name == Format.ONNX and Format.TENSORRT in manifest.exports:
            continue  # an engine's export makes the graph too
        via = manifest.exporters.get(name)
        yield _line(
            "export", "--model", checkpoint, "--to", name, "--dtype", precision, *(("--via", via) if via else ()),
            "--output", OUT,
        )  # fmt: skip
    to = ("--to", Format.TENSORRT.value) if Format.TENSORRT in manifest.exports else ()
    if report.parity is not None:
        yield _line("validate", OUT, *to)
    if (benchmark := report.benchmark) is not None:
        threads = ("--threads", str(benchmark["threads"])) if benchmark["threads"] else ()
        yield _line("benchmark", OUT, *to, "--rounds", str(benchmark["rounds"]), *threads)


def _prune(report: Report, manifest: Manifest) -> str:
    assert report.pruning is not None
    arguments = ["--model", manifest.source.asked]
    if report.pruning["asked"] is None:
        arguments += ["--plan", "plan.json"]
    else:
        arguments += ["--ratio", f"{report.pruning['asked']:g}"]
        for name, value in report.pruning["settings"].items():
            arguments += [f"--{name.replace('_', '-')}", str(value)]
    if report.pruning["rewrite"].get("kind") == RewriteKind.PADDED:
        arguments += ["--uniform", "pad"]
    return _line("prune", *arguments, "--output", OUT)


def _line(*words: str) -> str:
    return shlex.join(["amp-export", *words])
