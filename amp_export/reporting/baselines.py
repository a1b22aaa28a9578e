"""Baselines: the numbers of an earlier run, in a small file that a team commits, so that a worse run fails.

Speedups (dense over pruned time, measured side by side) are compared instead of times, which depend on the machine. A
speedup is worse if it fell by more than the noise of both runs explains.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import msgspec
from msgspec import structs

from amp_export.documents import read_json, to_json
from amp_export.errors import NewerSchemaError, OutputError, RequestError
from amp_export.options import Format
from amp_export.outputs.manifest import Manifest
from amp_export.outputs.scratch import translate_os_errors
from amp_export.outputs.staging import replace_text
from amp_export.reporting.checks import Against, Check
from amp_export.reporting.metrics import METRICS, Metric, Value, find_metric, measure
from amp_export.reporting.report import Report


class Baseline(msgspec.Struct, frozen=True, rename={"dtype": "precision"}):
    """Content of a baseline file.

    Attributes:
        schema: Version of this format.
        model: The requested model.
        source_sha256: Hash of the dense checkpoint, which identifies the model regardless of its path.
        export: Format of the export.
        dtype: Dtype of the graph.
        metrics: Values by name of the number.
    """

    SCHEMA: ClassVar[int] = 1

    model: str
    source_sha256: str
    export: str
    dtype: str
    metrics: Mapping[str, Value]
    schema: int = SCHEMA

    @classmethod
    def of(cls, output: Path, report: Report, *, to: Format) -> Baseline:
        """Return the baseline of an output directory."""
        manifest = Manifest.load(output)
        kept = {metric.name for metric in METRICS if metric.tolerated is not None}
        values = measure(report, output / to)
        return cls(
            model=manifest.source.name,
            source_sha256=manifest.source.sha256,
            export=to.value,
            dtype=manifest.exports.get(to, ""),
            metrics={name: value for name, value in values.items() if name.partition(".")[0] in kept},
        )

    @classmethod
    def load(cls, file: Path) -> Baseline:
        """Read a baseline.

        Raises:
            RequestError: The file does not exist.
            OutputError: The file is damaged, or from a newer version.
        """
        if not file.is_file():
            raise RequestError(f"Baseline not found: {file}.\nWrite it: give --update-baseline once.")
        baseline = read_json(file, cls, newest=cls.SCHEMA)
        baseline = structs.replace(
            baseline, metrics={name.replace("gain.", "speedup."): v for name, v in baseline.metrics.items()}
        )
        for name, value in baseline.metrics.items():
            _check_entry(file, name, value)
        return baseline

    def save(self, file: Path) -> None:
        """Write the baseline atomically: a run that is killed leaves the earlier one.

        Raises:
            OutputError: The file is not a baseline, or cannot be written.
        """
        check_replaceable(file)
        with translate_os_errors(file):
            # a symbolic link to a shared baseline stays a link
            file = file.resolve()
            file.parent.mkdir(parents=True, exist_ok=True)
            replace_text(file, to_json(self))

    def check_same_model(self, output: Path, file: Path, *, to: Format) -> None:
        """Check that the baseline is of the same model, format and dtype.

        Args:
            output: Output directory to compare.
            file: File of this baseline.
            to: Export to compare.

        Raises:
            RequestError: The model, the format or the dtype differs.
        """
        manifest = Manifest.load(output)
        advice = "Name the baseline that belongs to it, or replace this one: --update-baseline."
        if self.source_sha256 != manifest.source.sha256:
            raise RequestError(
                f"{file} is a baseline of {self.model} (SHA-256 {self.source_sha256[:12]}), and {output} was made of "
                f"{manifest.source.name} ({manifest.source.sha256[:12]}): a different model or different "
                f"weights.\n{advice}"
            )
        if (kind := (self.export, self.dtype)) != (found := (to.value, manifest.exports.get(to, ""))):
            raise RequestError(f"{file} is of {' in '.join(kind)}, and {output} holds {' in '.join(found)}.\n{advice}")


def _check_entry(file: Path, name: str, value: Value) -> None:
    """Check that a number of a baseline can be compared.

    Raises:
        OutputError: It is not known or depends on the machine, or its interval has no logarithm.
    """
    metric = find_metric(name)
    if metric is None:
        raise OutputError(f"{file}: metrics.{name} is not a number that amp-export measures.")
    if metric.tolerated is None:
        raise OutputError(f"{file}: metrics.{name} cannot be compared with a baseline: remove it, or use --thresholds.")
    if value.interval is not None and not 0 < value.interval[0] <= value.value <= value.interval[1] < math.inf:
        raise OutputError(
            f"{file}: metrics.{name}.interval is {list(value.interval)}; expected two positive numbers, at most and at "
            f"least {value.value}."
        )


def check_replaceable(file: Path) -> None:
    """Check that a file is a baseline, so that it may be overwritten, or does not exist.

    Raises:
        NewerSchemaError: The file is a baseline of a newer version.
        OutputError: The file is not a baseline.
    """
    if not file.exists():
        return
    try:
        Baseline.load(file)
    except NewerSchemaError:
        raise
    except OutputError as error:
        raise OutputError(
            f"{file} is not a baseline, so it is not overwritten.\n{error}\nName another file with --baseline."
        ) from error


def compare_baseline(baseline: Baseline, now: Mapping[str, Value]) -> list[Check]:
    """Compare values with a baseline; a value that was not measured again fails."""
    return [_check(name, before, now.get(name)) for name, before in baseline.metrics.items()]


def _check(name: str, before: Value, now: Value | None) -> Check:
    metric = find_metric(name)
    if metric is None:
        return Check(name, False, "it is not a number that amp-export measures", Against.BASELINE)
    if now is None:
        found = f"it is in the baseline but was not measured; amp-export {metric.made_by} measures it"
        return Check(name, False, found, Against.BASELINE)
    show, margin = metric.unit.show, tolerated(metric, before, now)
    worse = (before.value - now.value) if metric.rises else (now.value - before.value)
    change = f"{(now.value - before.value) / before.value:+.2%}" if before.value else f"{now.value - before.value:+.3g}"
    # a NaN compares false, so it fails
    holds = worse <= max(margin * before.value, metric.least)
    may = f"a regression of {margin:.1%} is" if margin else "no regression is"
    was = f"{show(before.value)} before, {show(now.value)} now ({change}); {may} tolerated"
    return Check(name, holds, was, Against.BASELINE)


def tolerated(metric: Metric, before: Value, now: Value) -> float:
    """Return the share of its earlier value by which a number may get worse.

    If both values have intervals, it is at least the half-width of the interval of their ratio, computed on a
    logarithmic scale from the two half-widths that face each other (Zou and Donner, Statistics in Medicine 27, 2008:
    the method of variance estimates recovery).
    """
    least = metric.tolerated or 0.0
    if before.interval is None or now.interval is None:
        return least
    fell, rose = (before.interval[0], now.interval[1]) if metric.rises else (before.interval[1], now.interval[0])
    half = math.hypot(math.log(fell / before.value), math.log(rose / now.value))
    return max(least, 1 - math.exp(-half))
