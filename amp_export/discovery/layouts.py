"""The layout of a projection's rows, from what each of them does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from amp_export.architectures import Layout, PrunedUnit
from amp_export.discovery.probing import Role, Row

_UNITS = {
    Role.QUERY: PrunedUnit.QUERY_HEADS,
    Role.KEY: PrunedUnit.KEY_VALUE_HEADS,
    Role.VALUE: PrunedUnit.KEY_VALUE_HEADS,
    Role.NEURON: PrunedUnit.NEURONS,
}


_GATED = (Role.QUERY, Role.NEURON)
"""A query head, and the gates of its output, each of which changes one entry at its own token, as a neuron does."""


@dataclass(frozen=True)
class Heads:
    """The heads of an attention.

    Attributes:
        query_heads: Number of query heads.
        key_value_heads: Number of key/value heads.
        head_dim: Width of a head.
    """

    query_heads: int
    key_value_heads: int
    head_dim: int

    @property
    def query_group(self) -> int:
        """Query heads that share a key/value head."""
        return self.query_heads // self.key_value_heads


@dataclass(frozen=True)
class Rows:
    """What the rows of a projection are.

    Attributes:
        units: Units of its parts.
        layout: Their order.
        widths: How many times the width of a head the rows of each head are: 2 for a query and the gate of its output.
    """

    units: tuple[PrunedUnit, ...]
    layout: Layout = Layout.BLOCKS
    widths: int = 1


def count_heads(rows: Sequence[Row | None], columns: int) -> Heads | None:
    """Return the heads of an attention, given all rows of its inputs; None if these do not make any.

    Args:
        rows: The rows of its input projections.
        columns: Number of inputs of its output projection.
    """
    queries = [row for row in rows if row is not None and row.role is Role.QUERY]
    values = sum(row is not None and row.role is Role.VALUE for row in rows)
    if not queries or not values:
        return None
    head_dim = max(len(row.columns) for row in queries)
    counts = (columns % head_dim, values % head_dim, columns % values)
    return Heads(columns // head_dim, values // head_dim, head_dim) if not any(counts) else None


def lay_heads(rows: Sequence[Row | None], heads: Heads) -> Rows | None:
    """Return what the rows of an attention's input are; None if they are in no order that is known."""
    places = [_place(row, heads) if row is not None else None for row in rows]
    roles = [row.role for row in rows if row is not None]
    runs = tuple(role for role, _ in groupby(roles))
    for layout, order in ((Layout.BLOCKS, _blocks(runs, heads)), (Layout.GROUPS, _groups(heads))):
        expected = list(order)
        if len(expected) == len(places) and all(map(_agree, places, expected)):
            units = runs if layout is Layout.BLOCKS else (Role.QUERY, Role.KEY, Role.VALUE)
            return Rows(tuple(_UNITS[role] for role in units), layout)
    for roles_of_head in (_GATED, (Role.NEURON,)):
        gated = list(_by_head(roles_of_head, heads))
        if len(gated) == len(places) and all(map(_agree, places, gated)):
            return Rows((PrunedUnit.QUERY_HEADS,), widths=len(roles_of_head))
    return None


def lay_neurons(rows: Sequence[Row | None], columns: int) -> Rows | None:
    """Return what the rows of an MLP's input are; None if they are in no order that is known.

    Args:
        rows: The rows.
        columns: Number of inputs of its output projection: one per neuron.
    """
    if len(rows) % columns or not all(row is None or row.role is Role.NEURON for row in rows):
        return None
    parts = len(rows) // columns
    for layout in (Layout.BLOCKS, Layout.INTERLEAVED):
        neurons = (number % columns if layout is Layout.BLOCKS else number // parts for number in range(len(rows)))
        if all(row is None or row.columns == (neuron,) for row, neuron in zip(rows, neurons, strict=True)):
            return Rows((PrunedUnit.NEURONS,) * parts, layout)
    return None


Place = tuple[Role, int, int | None]
"""Role, head, and entry of the head, which is known of values only."""


def _place(row: Row, heads: Heads) -> Place | None:
    """Return the place of a row."""
    first, last = row.columns[0] // heads.head_dim, row.columns[-1] // heads.head_dim
    if row.role is Role.QUERY:
        return (Role.QUERY, first, None) if first == last else None
    if row.role is Role.NEURON:
        return Role.NEURON, first, row.columns[0] % heads.head_dim
    if first // heads.query_group != last // heads.query_group:
        return None
    entry = row.columns[0] % heads.head_dim
    if row.role is Role.KEY:
        return Role.KEY, first // heads.query_group, None
    same = all(column % heads.head_dim == entry for column in row.columns)
    return (Role.VALUE, first // heads.query_group, entry) if same else None


def _agree(place: Place | None, expected: Place) -> bool:
    """Return whether a row is where it is expected."""
    return place is not None and place[:2] == expected[:2] and place[2] in (None, expected[2])


def _blocks(roles: Sequence[Role], heads: Heads) -> Iterator[Place]:
    """Yield the places of all of one unit, then of all of the next."""
    for role in roles:
        count = heads.query_heads if role is Role.QUERY else heads.key_value_heads
        yield from ((role, head, entry) for head in range(count) for entry in range(heads.head_dim))


def _by_head(roles: Sequence[Role], heads: Heads) -> Iterator[Place]:
    """Yield the places of all of one query head, then of all of the next."""
    for head in range(heads.query_heads):
        yield from ((role, head, entry) for role in roles for entry in range(heads.head_dim))


def _groups(heads: Heads) -> Iterator[Place]:
    """Yield the places of the query heads of a group, its key and its value, group by group."""
    group, head_dim = heads.query_group, heads.head_dim
    for key_value_head in range(heads.key_value_heads):
        queries = range(key_value_head * group, (key_value_head + 1) * group)
        yield from ((Role.QUERY, head, entry) for head in queries for entry in range(head_dim))
        yield from ((role, key_value_head, entry) for role in (Role.KEY, Role.VALUE) for entry in range(head_dim))
