"""The table of all points of a directory, which is also its file for programs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from amp_export._version import __version__
from amp_export.documents import read_json, to_json
from amp_export.options import CriterionName
from amp_export.sweeping.choosing import pareto_front
from amp_export.sweeping.measures import MEASURES
from amp_export.sweeping.points import Point, PointResult

COSTS = {"decode_ms": "decoding time", "prefill_ms": "prefill time", "size_mb": "size"}
"""What a point costs, which is weighed against perplexity."""

SHOWN = {
    "compare": ("ratio", "parameters", "perplexity", "kl", "top1_agreement"),
    "sweep": (
        *("ratio", "parameters", "perplexity", "size_mb", "prefill_ms", "decode_ms"),
        *("draft_accepted", "draft_speedup"),
    ),
}
"""Numbers that the table of a command shows; its file has all."""


@dataclass(frozen=True)
class Choice:
    """What became of conditions.

    Attributes:
        until: The conditions.
        point: Name of the point that meets them, or of the one that comes closest; None if nothing was measured.
        met: Whether it meets them.
        held: Whether each condition holds for that point.
        parity: Whether parity holds for the export of the chosen point; None if no point meets the conditions.
    """

    until: str
    point: str | None
    met: bool
    held: Mapping[str, bool]
    parity: bool | None = None

    @property
    def holds(self) -> bool:
        """Whether the conditions are met, by an export whose parity holds."""
        return self.met and self.parity is not False


@dataclass(frozen=True)
class PointTable:
    """The content of compare.json and sweep.json.

    Attributes:
        command: The command that made it.
        model: The model as the user named it.
        sha256: SHA-256 of its weights and config: see `hash_weights`.
        request: The options that all points share, as JSON has them.
        points: The points, by criterion and ratio.
        fronts: For each cost, the names of the points on the Pareto front of perplexity and that cost. Both are
            multiples of the dense model's, because a machine may be slower while one point is timed than another.
        choice: What became of conditions; None without them.
        packages: Versions of the packages that computed it.
        schema: Version of this format.
        amp_export: Version of this package that wrote it.
    """

    SCHEMA: ClassVar[int] = 1

    command: str
    model: str
    sha256: str
    request: Mapping[str, Any]
    points: tuple[PointResult, ...] = ()
    fronts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    choice: Choice | None = None
    packages: Mapping[str, str] = field(default_factory=dict)
    schema: int = SCHEMA
    amp_export: str = __version__

    @classmethod
    def load(cls, file: Path) -> PointTable:
        """Read a table.

        Raises:
            OutputError: It is missing, damaged, or from a newer version.
        """
        return read_json(file, cls, newest=cls.SCHEMA)

    @property
    def judged(self) -> PointResult | None:
        """The point that meets the conditions, or that comes closest."""
        name = None if self.choice is None else self.choice.point
        return next((each for each in self.points if each.name == name), None)

    @property
    def fastest_draft(self) -> PointResult | None:
        """The point with which the dense model generates fastest when it drafts; None if none was measured so."""
        measured = [each for each in self.points if "draft_speedup" in each.numbers]
        return max(measured, key=lambda each: each.numbers["draft_speedup"], default=None)

    @property
    def notes(self) -> tuple[str, ...]:
        """What makes numbers hard to compare."""
        machines = {each.machine for each in self.points if each.machine is not None}
        found = []
        if machines and len(self.points) > 1:
            found.append(
                "Each point was timed beside the dense model; the table shows its times beside the first point."
            )
        if len(machines) > 1:
            found.append(f"Times were measured on different machines: {'; '.join(sorted(machines))}.")
        return tuple(found)

    @property
    def holds(self) -> bool:
        """Whether conditions are met, if there are any."""
        return self.choice is None or self.choice.holds

    def to_json(self) -> str:
        """Return the text of its file."""
        return to_json(self)


def order(points: Sequence[Point]) -> tuple[Point, ...]:
    """Return points by criterion, in the order of `CriterionName`, and by ratio; each once."""
    criteria = list(CriterionName)
    return tuple(sorted(set(points), key=lambda point: (criteria.index(point.criterion), point.asked)))


def find_fronts(results: Sequence[PointResult]) -> dict[str, tuple[str, ...]]:
    """Return the Pareto front of perplexity and each cost that was measured."""
    fronts = {}
    for cost in COSTS:
        pairs = {
            each.name: (each.times_dense(cost), each.times_dense("perplexity"))
            for each in results
            if cost in each.numbers and "perplexity" in each.numbers
        }
        if pairs:
            fronts[cost] = pareto_front(pairs)
    return fronts


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        name: The number that it shows.
        times_dense: Whether it shows the quotient of the pruned model's number and the dense model's.
    """

    name: str
    times_dense: bool = False

    @property
    def heading(self) -> str:
        """Its heading."""
        return "x dense" if self.times_dense else MEASURES[self.name].heading

    def show(self, result: PointResult) -> str:
        """Return the cell of a point."""
        if self.name not in result.numbers:
            return "" if self.times_dense else "not measured"
        if self.times_dense:
            return f"{result.times_dense(self.name):.2f}"
        return MEASURES[self.name].show(result.numbers[self.name])

    def show_dense(self, dense: Mapping[str, float]) -> str:
        """Return the cell of the dense model."""
        return "" if self.times_dense or self.name not in dense else MEASURES[self.name].show(dense[self.name])


def columns(table: PointTable) -> tuple[Column, ...]:
    """Return the columns of the numbers that were measured."""
    measured = [name for name in SHOWN[table.command] if any(name in each.numbers for each in table.points)]
    compared = {"perplexity", next((name for name in ("decode_ms", "prefill_ms") if name in measured), None)}
    return tuple(
        Column(name, times_dense)
        for name in measured
        for times_dense in ((False, True) if name in compared else (False,))
    )


def headings(table: PointTable) -> tuple[str, ...]:
    """Return the headings of a table: the point, what is to say of it, and its numbers."""
    return ("Point", "", *(column.heading for column in columns(table)))


def rows(table: PointTable) -> Iterator[tuple[str, ...]]:
    """Yield the cells of each row: the dense model first, if there are points."""
    shown = columns(table)
    if table.points:
        yield "dense", "", *(column.show_dense(table.points[0].dense) for column in shown)
    for each in table.points:
        yield each.name, ", ".join(_marks(table, each)), *(column.show(each) for column in shown)


def _marks(table: PointTable, result: PointResult) -> Iterator[str]:
    """Yield what a point is."""
    choice = table.choice
    if choice is not None and choice.point == result.name:
        yield "chosen" if choice.met else "closest"
    if any(result.name in front for front in table.fronts.values()):
        yield "front"
    if result == table.fastest_draft:
        yield "fastest draft"
