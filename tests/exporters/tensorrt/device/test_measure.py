from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from amp_export.exporters.tensorrt.device import measure as module
from amp_export.exporters.tensorrt.device.bundle import open_bundle
from amp_export.exporters.tensorrt.device.measure import measure
from amp_export.exporters.tensorrt.device.processes import Setup
from tests.support.shared import Bundled

VERIFIED = {subject: {"peak_memory_bytes": 10**9, "gpu_memory_bytes": None} for subject in ("dense", "pruned")}


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """What is done to the processes, in order; a round of the dense graph takes twice as long."""
    done: list[tuple[str, str]] = []

    @contextlib.contextmanager
    def start(_: Setup, subject: str) -> Iterator[Any]:
        seconds = 0.002 if subject == "dense" else 0.001

        def ask(task: dict[str, Any]) -> dict[str, Any]:
            done.append(("round", subject))
            decode = [seconds] * task["decode_tokens"]
            return {
                "phases": {"prefill": [10 * seconds], "decode": decode},
                "spans": {"prefill": [0.0, 1.0], "decode": [1.0, 2.0]},
                "peak_memory_bytes": 5,
            }

        done.append(("start", subject))
        yield SimpleNamespace(subject=subject, ask=ask, ready={"load_seconds": 0.5})
        done.append(("stop", subject))

    monkeypatch.setattr(module, "start_worker", start)
    return done


def run(bundled: Bundled, tmp_path: Any, power: Any = None) -> dict[str, Any]:
    setup = Setup(open_bundle(bundled.unpack(tmp_path)), "onnxruntime")
    return measure(setup, VERIFIED, power, rounds=8)


def test_both_graphs_take_turns_and_each_is_the_first_as_often(
    bundled: Bundled, tmp_path: Any, calls: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "available_memory", lambda: 2 * 10**9)
    result = run(bundled, tmp_path)
    assert (result["interleaved"], result["rounds"], result["warm_up_rounds"]) == ("by round", 8, 8)
    starts = [subject for what, subject in calls if what == "start"]
    assert starts == ["dense", "pruned", "pruned", "dense"] * 2
    # two rounds to settle, then two that count, the second in the other order
    launch = [subject for what, subject in calls[: calls.index(("stop", "pruned"))] if what == "round"]
    assert launch == ["dense", "pruned"] * 3 + ["pruned", "dense"]
    phases = result["phases"]
    assert phases["decode"]["dense"]["median"] / phases["decode"]["pruned"]["median"] == pytest.approx(2)
    assert phases["prefill"]["dense"]["tokens_per_second"] == pytest.approx(112 / 0.02)
    assert result["dense"]["joules_per_decoded_token"] is None


def test_where_memory_is_short_the_graphs_are_loaded_one_after_the_other(
    bundled: Bundled,
    tmp_path: Any,
    calls: list[tuple[str, str]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(module, "available_memory", lambda: 2 * 10**9 - 1)
    result = run(bundled, tmp_path)
    assert result["interleaved"] == "by launch"
    assert "Both graphs together need 2.0 GB" in capsys.readouterr().out
    loaded = 0
    for what, _ in calls:
        loaded += {"start": 1, "stop": -1, "round": 0}[what]
        assert loaded <= 1
    assert [subject for what, subject in calls if what == "start"] == ["dense", "pruned", "pruned", "dense"] * 2


def test_energy_is_power_while_decoding_times_seconds_a_token(
    bundled: Bundled, tmp_path: Any, calls: list[tuple[str, str]]
) -> None:
    asked = []

    def mean_watts(spans: Any) -> float:
        asked.append(list(spans))
        return 5.0

    result = run(bundled, tmp_path, SimpleNamespace(mean_watts=mean_watts))
    assert asked[0] == [(1.0, 2.0)] * 8
    assert result["dense"]["decode_watts"] == 5.0
    assert result["dense"]["joules_per_decoded_token"] == pytest.approx(5.0 * 0.002)
    assert result["pruned"]["joules_per_decoded_token"] == pytest.approx(5.0 * 0.001)
