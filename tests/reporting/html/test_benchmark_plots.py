"""Pictures of benchmarks, by the words in them."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amp_export.options import Phase
from tests.support import sample_reports

pytest.importorskip("matplotlib", reason="matplotlib is not installed")

from amp_export.reporting.html.benchmark_plots import INTERVAL_EDGE, speedup_picture

SPEEDUPS = st.floats(0.02, 50)
SPREADS = st.one_of(st.floats(1, 1e12), st.just(math.inf))
TICK = re.compile(r"\d.*")


@given(speedup=SPEEDUPS, spread=SPREADS)
@settings(max_examples=20)
def test_the_axis_of_speedups_is_readable_however_wide_an_interval_is(speedup: float, spread: float) -> None:
    benchmark = sample_reports.benchmark()
    wide = replace(benchmark.phases[Phase.DECODE], speedup=speedup, interval=(speedup / spread, speedup * spread))
    benchmark = replace(benchmark, phases={**benchmark.phases, Phase.DECODE: wide})
    picture = speedup_picture(benchmark, "speedups")
    words = [element.text or "" for element in ElementTree.fromstring(picture.svg).iter("text")]
    ticks = [float(word) for word in words if TICK.fullmatch(word)]
    largest = max(result.speedup for result in benchmark.phases.values())
    assert len(ticks) >= 2
    assert max(ticks) <= INTERVAL_EDGE * max(1.0, largest) + 0.03
    # a factor of all ticks would be one more word, over the label
    assert len(words) == len(ticks) + len(benchmark.phases) + 1
