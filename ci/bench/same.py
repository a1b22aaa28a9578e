"""Compare a model with itself, again and again: how often is a difference claimed, where there is none?

The exit code is 1 if a difference is claimed in more than a tenth of the comparisons of the demo model's graph.

    python ci/bench/same.py [--model MODEL] [--benchmarks N] [--min-effect E] [--time-limit SECONDS]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from amp_export import export
from amp_export.benchmarking.comparison import benchmark_models
from amp_export.benchmarking.sampling import Sampling

MOST_CLAIMS = 0.1


def main() -> int:
    """Run the benchmarks, and print each and the count of claims."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--benchmarks", type=int, default=20)
    parser.add_argument("--min-effect", type=float, default=0.01)
    parser.add_argument("--time-limit", type=float, default=0.0, help="default: 0, for the pilot launches only")
    asked = parser.parse_args()
    claims = phases = 0
    with tempfile.TemporaryDirectory() as scratch:
        graph = export(asked.model, Path(scratch) / "out").folder
        for number in range(asked.benchmarks):
            sampling = Sampling(min_effect=asked.min_effect, time_limit=asked.time_limit, seed=number)
            report = benchmark_models(graph, graph, sampling=sampling)
            for phase, result in report.phases.items():
                low, high = result.interval
                claims += result.conclusion.is_significant
                phases += 1
                print(
                    f"{number + 1:3} {phase:8} x {result.speedup:.3f} [{low:.3f}, {high:.3f}] in {report.launches} "
                    f"launches: {result.conclusion}",
                    flush=True,
                )
    print(f"A difference is claimed in {claims} of {phases} comparisons of the model with itself.")
    return int(claims > MOST_CLAIMS * phases)


if __name__ == "__main__":
    sys.exit(main())
