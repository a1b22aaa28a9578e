"""How a report says names and numbers, the same in every form that it is written in."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any


def case_name(case: Mapping[str, Any]) -> str:
    """A parity case, and which output it is of where a model returns something else than logits."""
    output = case.get("output", "logits")
    return str(case["name"]) if output == "logits" else f"{case['name']}, {output}"


def worst_error(cases: Sequence[Mapping[str, Any]]) -> float:
    """The largest error of all cases; one that is not a number is larger than any."""
    errors = [float(case["max_error"]) for case in cases]
    return math.nan if any(map(math.isnan, errors)) else max(errors)


def count_failed(cases: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
    """How many cases fail, and how many there are; the outputs of one case are one."""
    failed = {case["name"] for case in cases if not case["holds"]}
    return len(failed), len({case["name"] for case in cases})


def in_how_many(failed: int, total: int, what: str = "cases") -> str:
    """In how many something fails or, where it fails in none, holds: in 1 of 3 cases."""
    return f"in {failed or total} of {total} {what}"


def holds_in_how_many(failed: int, total: int) -> str:
    """The same with what it does: holds in 3 of 3 cases, or FAILS in 1 of 3 cases."""
    return f"{'FAILS' if failed else 'holds'} {in_how_many(failed, total)}"


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
