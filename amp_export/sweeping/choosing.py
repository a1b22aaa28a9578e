"""Choose a point: by bisection over ratios, and by the Pareto front."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from amp_export.sweeping.conditions import Condition, hold
from amp_export.sweeping.points import PointResult


def bisect(count: int, holds: Callable[[int], bool]) -> int:
    """Return the first of 0 to `count` at which something holds, or `count`, if it goes on to hold once it does."""
    low, high = 0, count
    while low < high:
        middle = (low + high) // 2
        if holds(middle):
            high = middle
        else:
            low = middle + 1
    return low


def find_peak(count: int, value: Callable[[int], float]) -> int:
    """Return the place of the largest value, from 0 to `count - 1`, if values rise up to it and fall after it.

    Between two places, one on either side of which the peak must lie, the search goes on by numbers of Fibonacci, so
    that one of the two is asked for again. Source: J. Kiefer, Sequential minimax search for a maximum, Proceedings of
    the American Mathematical Society 4 (1953).

    Args:
        count: Number of places, at least 1.
        value: The value at a place; called at most once for each, for about 1.44 log2(count) of them.
    """
    found: dict[int, float] = {}

    def at(place: int) -> float:
        if place >= count:
            return -math.inf
        if place not in found:
            found[place] = value(place)
        return found[place]

    before, shorter, longer = -1, 1, 1
    while shorter + longer <= count:
        shorter, longer = longer, shorter + longer
    # the peak is one of the shorter + longer - 1 places after `before`
    while longer > 1:
        if at(before + shorter) < at(before + longer):
            before += shorter
        shorter, longer = longer - shorter, shorter
    return before + 1


def search(count: int, conditions: Sequence[Condition], measure: Callable[[int], PointResult]) -> None:
    """Measure the points among which `choose` finds the one that is wanted.

    It is the smallest ratio that meets all conditions that a larger ratio helps to meet; if there are none, it is the
    largest ratio that meets the others.

    Args:
        count: Number of points, ordered by ratio.
        conditions: The conditions.
        measure: Measures a point, given its number; called at most once for each, for about log2(count) of them.
    """
    found: dict[int, PointResult] = {}

    def at(number: int) -> PointResult:
        if number not in found:
            found[number] = measure(number)
        return found[number]

    if helped := [each for each in conditions if each.eases]:
        bisect(count, lambda number: hold(helped, at(number).numbers, at(number).dense))
    else:
        bisect(count, lambda number: not hold(conditions, at(number).numbers, at(number).dense))


def choose(results: Sequence[PointResult], conditions: Sequence[Condition]) -> PointResult | None:
    """Return the point with the least loss of quality among those that meet all conditions; None if none does.

    Without a condition that a larger ratio helps to meet, it is the largest ratio instead, since the dense model would
    meet the others best.
    """
    meeting = [each for each in results if hold(conditions, each.numbers, each.dense)]
    if any(each.eases for each in conditions):
        return min(meeting, key=lambda each: (each.loss, each.ratio), default=None)
    return max(meeting, key=lambda each: each.ratio, default=None)


def closest(results: Sequence[PointResult], conditions: Sequence[Condition]) -> PointResult | None:
    """Return the point whose worst miss of a limit, relative to it, is the smallest."""

    def worst(each: PointResult) -> float:
        return max((condition.excess(each.numbers, each.dense) for condition in conditions), default=0.0)

    return min(results, key=lambda each: (worst(each), each.ratio), default=None)


def pareto_front(points: Mapping[str, tuple[float, float]]) -> tuple[str, ...]:
    """Return the points that no other point is at least as good as in both numbers and better in one.

    Args:
        points: Two numbers of each point, of which less is better; points with NaN are never on the front.

    Returns:
        Their names, ordered by the first number, then by the second; of equal points, all.
    """
    known = {name: pair for name, pair in points.items() if not any(map(math.isnan, pair))}
    order = sorted(known, key=lambda name: known[name])
    front: list[str] = []
    for name in order:
        # those before it are as good in the first number
        if not front or known[name][1] < known[front[-1]][1] or known[name] == known[front[-1]]:
            front.append(name)
    return tuple(front)
