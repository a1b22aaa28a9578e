from __future__ import annotations

import threading
import time

import pytest

from amp_export.hardware import threads
from amp_export.hardware.threads import read_in_threads


def test_results_come_in_the_order_of_the_items_and_from_threads_that_run_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(threads, "usable_cores", lambda: 2)
    both = threading.Barrier(2, timeout=10)

    def read(item: int) -> int:
        both.wait()
        time.sleep(0.01 * (4 - item))
        return item * item

    assert list(read_in_threads(read, range(4))) == [0, 1, 4, 9]


def test_items_that_were_not_begun_are_left_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "usable_cores", lambda: 1)
    begun: list[int] = []

    def read(item: int) -> None:
        begun.append(item)
        if item == 1:
            raise ValueError("the second")
        time.sleep(0.05)

    with pytest.raises(ValueError, match="the second"):
        list(read_in_threads(read, range(100)))
    assert len(begun) < 5


def test_threads_do_not_run_far_ahead_of_what_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "usable_cores", lambda: 2)
    begun: list[int] = []
    results = read_in_threads(begun.append, range(100))

    next(results)
    time.sleep(0.05)

    assert len(begun) <= 3
