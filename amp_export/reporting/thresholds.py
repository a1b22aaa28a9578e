"""Thresholds: quality gates in a file that a team commits (`amp-export.toml`).

    [thresholds]
    max_kl = 1e-4
    max_size = "500 MB"

    [thresholds.min_speedup]
    decode = 1.2

A speedup must be significant: the lower end of its interval is compared with the threshold.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amp_export.architectures import describes, find_architecture
from amp_export.benchmarking.workloads import PHASES
from amp_export.documents import read_toml
from amp_export.errors import RequestError
from amp_export.options import Phase
from amp_export.outputs.manifest import Manifest
from amp_export.reporting.checks import Against, Check
from amp_export.reporting.metrics import METRICS, Metric, Unit, Value, full_name

TABLE = "thresholds"

FORMER_KEYS = {"min_gain": "min_speedup"}
"""Names in files of version 0.1."""

FACTORS = {
    Unit.NONE: {},
    Unit.BYTES: {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30},
    Unit.SECONDS: {"us": 1e-6, "ms": 1e-3, "s": 1},
}
"""Suffixes that a number may have, and the factor of each."""

_QUANTITY = re.compile(r"\s*([0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?)\s*([A-Za-z]+)\s*")


@dataclass(frozen=True)
class Threshold:
    """One line of the file.

    Attributes:
        metric: The metric that it limits.
        phase: The phase that it limits; the empty string for all.
        limit: The maximum, or the minimum if higher is better.
    """

    metric: Metric
    phase: str
    limit: float

    @property
    def key(self) -> str:
        """Its name in the file."""
        return full_name(self.metric.key, self.phase)


def read_thresholds(file: Path) -> tuple[Threshold, ...]:
    """Read the thresholds of a file.

    Raises:
        RequestError: The file cannot be read, is not TOML or has unknown names, or a threshold is not a valid number.
    """
    content = read_toml(file, error=RequestError)
    if unknown := sorted(content.keys() - {TABLE}):
        raise RequestError(f"{file} has {', '.join(unknown)}, which is not known.\nThresholds go under [{TABLE}].")
    table = content.get(TABLE)
    if not isinstance(table, dict) or not table:
        raise RequestError(f"{file} has no thresholds.\nWrite them under [{TABLE}]: {_known()}.")
    return tuple(threshold for key, value in table.items() for threshold in _read_key(file, key, value))


def _known() -> str:
    return ", ".join(metric.key for metric in METRICS)


def _read_key(file: Path, key: str, value: Any) -> Iterator[Threshold]:
    key = FORMER_KEYS.get(key, key)
    metric = next((metric for metric in METRICS if metric.key == key), None)
    if metric is None:
        raise RequestError(f"{file}: the threshold {key} is not known.\nKnown are {_known()}.")
    if isinstance(value, dict):
        _check_phases(file, key, value, metric)
        for phase, limit in value.items():
            yield Threshold(metric, phase, _number(file, f"{key}.{phase}", limit, metric))
    else:
        yield Threshold(metric, "", _number(file, key, value, metric))


def _check_phases(file: Path, key: str, limits: Mapping[str, Any], metric: Metric) -> None:
    if not metric.has_phases:
        raise RequestError(f"{file}: the threshold {key} has no phases; expected a number, found a table.")
    phases = ", ".join(Phase)
    if not limits:
        raise RequestError(
            f"{file}: the table {key} is empty, so that it limits nothing.\n"
            f"Give a limit for one of {phases}, or remove the table."
        )
    if unknown := sorted(limits.keys() - set(Phase)):
        raise RequestError(f"{file}: {key}.{unknown[0]} is not a phase.\nKnown are {phases}.")


def _number(file: Path, key: str, value: Any, metric: Metric) -> float:
    factors = FACTORS[metric.unit]
    if isinstance(value, str) and (match := _QUANTITY.fullmatch(value)) and match[2] in factors:
        value = float(match[1]) * factors[match[2]]
    # TOML has true, nan and inf
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        plain = "0.9" if metric.rises else "1e-4"
        example = {Unit.NONE: plain, Unit.BYTES: '"500 MB"', Unit.SECONDS: '"20 ms"'}[metric.unit]
        units = f", or text that ends with {', '.join(factors)}" if factors else ""
        raise RequestError(
            f"{file}: the threshold {key} is {value!r}; expected a number that is not negative.\n"
            f"Write a number{units}, such as {key} = {example}."
        )
    return float(value)


def refuse_absent_phases(file: Path, thresholds: Sequence[Threshold], manifest: Manifest) -> None:
    """Refuse limits of phases that a model does not have, before anything is measured.

    Args:
        file: The file of the thresholds.
        thresholds: Its content.
        manifest: The manifest of the model's output directory.

    Raises:
        RequestError: A threshold is of such a phase.
    """
    config = manifest.config_before
    # a model whose layers were resized says its type beside the dense config
    model_type = config.get("dense", config).get("model_type", "")
    if not describes(model_type):
        return
    phases = PHASES[find_architecture(model_type).kind]
    for threshold in thresholds:
        if threshold.phase and threshold.phase not in phases:
            raise RequestError(
                f"{file}: {threshold.key} limits {threshold.phase}, which {model_type} does not have.\n"
                f"Give a limit for one of {', '.join(phases)}."
            )


def check_thresholds(thresholds: Sequence[Threshold], values: Mapping[str, Value]) -> list[Check]:
    """Compare values with thresholds; a value that was not measured fails."""
    return [check for threshold in thresholds for check in _check(threshold, values)]


def _check(threshold: Threshold, values: Mapping[str, Value]) -> Iterator[Check]:
    metric = threshold.metric
    wanted = full_name(metric.name, threshold.phase)
    found = {name: value for name, value in values.items() if name == wanted or (name.partition(".")[0] == wanted)}
    if not found:
        measured = [name.partition(".")[2] for name in values if name.startswith(f"{metric.name}.")]
        todo = f"measured are {', '.join(measured)}" if measured else f"amp-export {metric.made_by} measures it"
        yield _check_of(threshold.key, False, f"{wanted} was not measured; {todo}")
    for name, value in found.items():
        yield _compare(threshold, full_name(metric.key, name.partition(".")[2]), value)


def _compare(threshold: Threshold, key: str, value: Value) -> Check:
    metric, limit = threshold.metric, threshold.limit
    show = metric.unit.show
    held, shown = value.value, show(value.value)
    if metric.rises and value.interval is not None:
        held = value.interval[0]
        shown = f"{shown} [{show(value.interval[0])}, {show(value.interval[1])}]"
    # a NaN compares false, so it fails
    holds = held >= limit if metric.rises else held <= limit
    if holds:
        return _check_of(key, True, f"{shown} is at {'least' if metric.rises else 'most'} {show(limit)}")
    gap = abs(held - limit)
    share = f" ({gap / limit:.1%})" if limit else ""
    which = "the lower end of the interval of " if value.interval is not None and metric.rises else ""
    side = "below" if metric.rises else "above"
    return _check_of(key, False, f"{which}{shown} is {side} {show(limit)} by {show(gap)}{share}")


def _check_of(key: str, holds: bool, found: str) -> Check:
    return Check(key, holds, found, Against.THRESHOLDS)
