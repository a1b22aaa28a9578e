"""The language of `--until`: conditions on the numbers of a point, such as `decode_ms<=35 and perplexity<=1.2x`.

    conditions = condition { "and" condition }
    condition  = name ( "<=" | "<" | ">=" | ">" ) number [ "x" ]

A number with an `x` is a multiple of the dense model's number.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from amp_export.errors import RequestError
from amp_export.pruning.settings import RATIO_TOLERANCE
from amp_export.sweeping.measures import LIMITED, MEASURES

OPERATORS: Mapping[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    "<": operator.lt,
    ">=": operator.ge,
    ">": operator.gt,
}

EXAMPLE = "decode_ms<=35 and perplexity<=1.2x"

_TOKEN = re.compile(
    r"(?P<number>(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)(?P<times>\s*x\b)?"
    r"|(?P<word>[^\W\d]\w*)|(?P<operator>[<>=!]+)|(?P<other>\S)"
)


@dataclass(frozen=True)
class Condition:
    """A limit of one number.

    Attributes:
        name: Name of the number.
        operator: How it compares with the limit.
        number: The limit, or what the dense model's number is multiplied by.
        times_dense: Whether it is a multiple.
    """

    name: str
    operator: str
    number: float
    times_dense: bool = False

    def __str__(self) -> str:
        return f"{self.name} {self.operator} {self.number:g}{'x' if self.times_dense else ''}"

    @property
    def eases(self) -> bool:
        """Whether removing more helps to meet it."""
        return MEASURES[self.name].rises == (self.operator in (">=", ">"))

    def limit(self, dense: Mapping[str, float]) -> float:
        """Return the limit, given the dense model's numbers."""
        return self.number * dense[self.name] if self.times_dense else self.number

    def holds(self, numbers: Mapping[str, float], dense: Mapping[str, float]) -> bool:
        """Return whether numbers meet it; one that is NaN or was not measured does not."""
        if self.name not in numbers:
            return False
        value, limit = numbers[self.name], self.limit(dense)
        # the removed share is as near to the ratio that was asked for as widths allow
        is_asked = self.name == "ratio" and self.operator in ("<=", ">=") and abs(value - limit) <= RATIO_TOLERANCE
        return is_asked or OPERATORS[self.operator](value, limit)

    def excess(self, numbers: Mapping[str, float], dense: Mapping[str, float]) -> float:
        """Return by which share of the limit a number misses it: 0 if it holds, infinity if it was not measured."""
        if self.holds(numbers, dense):
            return 0.0
        value = numbers.get(self.name, math.nan)
        if math.isnan(value):
            return math.inf
        limit = self.limit(dense)
        return abs(value - limit) / (abs(limit) or 1.0)


def read_conditions(text: str) -> tuple[Condition, ...]:
    """Return the conditions of a text.

    Raises:
        RequestError: It does not follow the grammar; the message points at the place.
    """
    return _Reader(text).read()


def hold(conditions: Sequence[Condition], numbers: Mapping[str, float], dense: Mapping[str, float]) -> bool:
    """Return whether numbers meet all conditions."""
    return all(each.holds(numbers, dense) for each in conditions)


class _Reader:
    """Reads tokens from left to right."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = list(_TOKEN.finditer(text))
        self.next = 0

    def read(self) -> tuple[Condition, ...]:
        conditions = [self._condition()]
        while self.next < len(self.tokens):
            if self._take("word", "`and` or the end") != "and":
                self.next -= 1
                raise self._refuse("`and` or the end")
            conditions.append(self._condition())
        return tuple(conditions)

    def _condition(self) -> Condition:
        name = self._take("word", "the name of a number")
        if name not in LIMITED:
            self.next -= 1
            raise self._refuse("the name of a number")
        sign = self._take("operator", f"one of {', '.join(OPERATORS)}")
        if sign not in OPERATORS:
            self.next -= 1
            raise self._refuse(f"one of {', '.join(OPERATORS)}")
        number = float(self._take("number", "a number"))
        times_dense = self.tokens[self.next - 1]["times"] is not None
        if not math.isfinite(number):
            self.next -= 1
            raise self._refuse("a number that is not this large")
        if times_dense and name == "ratio":
            self.next -= 1
            raise self._refuse("a number without x, since the dense model's ratio is 0")
        return Condition(name, sign, number, times_dense)

    def _take(self, kind: str, expected: str) -> str:
        """Return the next token if it is of a kind."""
        token = self.tokens[self.next] if self.next < len(self.tokens) else None
        if token is None or token[kind] is None:
            raise self._refuse(expected)
        self.next += 1
        return str(token[kind])

    def _refuse(self, expected: str) -> RequestError:
        """Return an error that points at the next token."""
        token = self.tokens[self.next] if self.next < len(self.tokens) else None
        place = len(self.text.rstrip()) if token is None else token.start()
        found = "the end" if token is None else repr(token[0])
        line = self.text.replace("\t", " ").replace("\n", " ")
        return RequestError(
            f"--until cannot be read at character {place + 1}: expected {expected}, found {found}.\n"
            f"  {line}\n  {' ' * place}^\n"
            f'Write conditions like --until "{EXAMPLE}", where x is times the dense model. Numbers are '
            f"{', '.join(LIMITED)}."
        )
