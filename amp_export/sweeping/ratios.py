"""Lists of ratios as they are written on a command line: `0.1,0.2` and `0.1:0.5:0.1`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from decimal import Decimal

from amp_export.errors import RequestError

MOST_RATIOS = 100
"""Most ratios of one list: each is a checkpoint that is computed and kept."""

_NUMBER = re.compile(r"[0-9]*\.?[0-9]+|[0-9]+\.")


def read_ratios(text: str) -> tuple[float, ...]:
    """Return the ratios of a list, ascending, each once.

    The parts between commas are ratios, or ranges of the form START:END:STEP, which include END if a step leads there.

    Args:
        text: The list, such as `0.05,0.1:0.5:0.1`.

    Raises:
        RequestError: A part is neither, or is not between 0 and 1, or the list is too long.
    """
    found = sorted({ratio for part in text.split(",") for ratio in _read_part(text, part.strip())})
    if len(found) > MOST_RATIOS:
        raise RequestError(
            f"--ratios {text} has {len(found)} ratios, and each is a model to compute and keep.\n"
            f"Give at most {MOST_RATIOS}, with a larger step."
        )
    return tuple(map(float, found))


def _read_part(text: str, part: str) -> Iterator[Decimal]:
    words = [word.strip() for word in part.split(":")]
    if len(words) not in (1, 3) or not all(map(_NUMBER.fullmatch, words)):
        raise RequestError(
            f"--ratios is {text!r}, and {part!r} is neither a ratio nor a range of ratios.\n"
            "Give ratios between 0 and 1, such as --ratios 0.1,0.2, or START:END:STEP, such as --ratios 0.1:0.5:0.1."
        )
    # as decimals: in binary, three steps of 0.1 from 0.1 lead beyond 0.4
    start, *rest = map(Decimal, words)
    end, step = rest or (start, Decimal(1))
    for ratio in (start, end):
        if not 0 < ratio < 1:
            raise RequestError(
                f"--ratios is {text!r}, and {ratio} is not between 0 and 1, exclusive.\n"
                "A ratio is the share of all parameters to remove, such as 0.3."
            )
    if start > end or step == 0:
        problem = f"{part!r} begins at {start} and ends before it, at {end}" if start > end else f"{part!r} never moves"
        smaller, larger = sorted((start, end))
        raise RequestError(
            f"--ratios is {text!r}, and {problem}.\nA range is START:END:STEP: --ratios {smaller}:{larger}:"
            f"{step or Decimal('0.1')}"
        )
    if (end - start) / step > 10 * MOST_RATIOS:
        raise RequestError(f"--ratios is {text!r}, and a step of {step} makes too many ratios.\nGive a larger step.")
    for number in range(int((end - start) / step) + 1):
        yield start + number * step
