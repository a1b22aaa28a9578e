"""How a report says names and numbers, the same in every form that it is written in."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any


def case_name(case: Mapping[str, Any]) -> str:
    """A parity case, and which output it is of where a model returns something else than logits."""
    output = case.get("output", "logits")
    return str(case["name"]) if output == "logits" else f"{case['name']}, {output}"


def worst_error(cases: Sequence[Mapping[str, Any]]) -> float:
    """The largest error of all cases; one that is not a number is larger than any."""
    errors = [float(case["max_error"]) for case in cases]
    return math.nan if any(map(math.isnan, errors)) else max(errors)


def by_graph(explanation: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """An explanation in parts, one for each graph that was looked into: layers of two graphs have the same numbers."""
    first = explanation["first"]
    for graph in dict.fromkeys(point.get("graph") for point in explanation["points"]):
        points = [point for point in explanation["points"] if point.get("graph") == graph]
        yield {**explanation, "graph": graph, "points": points, "first": first if first in points else None}


def explanation_title(part: Mapping[str, Any]) -> str:
    """What a part of an explanation is of."""
    graph = part.get("graph")
    return f"Within{f' {graph}' if graph else ''}, in the case {part['case']}"


def phase_label(phase: str, prompt_tokens: int) -> str:
    """A phase and what it is of: an image or a sound has no tokens."""
    if phase == "decode":
        return f"Decode after {prompt_tokens}" if prompt_tokens else "Decode"
    return f"{phase.capitalize()}, {prompt_tokens} tokens" if prompt_tokens else f"{phase.capitalize()}, one sample"


def change(before: float, after: float) -> str:
    """By what share something grew or shrank."""
    return f"{(after - before) / before:+.1%}" if before else ""


def megabytes(count: float) -> str:
    """A size."""
    return f"{count / 1e6:.0f} MB"


def milliseconds(seconds: float) -> str:
    """A time."""
    return f"{seconds * 1e3:.1f} ms"


def joules(energy: float) -> str:
    """An energy."""
    return f"{energy:.3g} J"
