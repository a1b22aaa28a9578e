"""Options of the commands that run several steps; they hold those of each step."""

from __future__ import annotations

from dataclasses import dataclass, field

from amp_export.options import CriterionName
from amp_export.verb_options.exporting import ExportOptions
from amp_export.verb_options.measuring import BenchmarkOptions
from amp_export.verb_options.pruning import PruneOptions


@dataclass(frozen=True, kw_only=True)
class ConvertOptions:
    """The options of `convert`, which runs all steps.

    Attributes:
        prune: Options of `prune`.
        export: Options of `export`.
        threads: Threads of the runtime that validates and benchmarks; by default one per core.
        rounds: Interleaved rounds of the benchmark: see `BenchmarkOptions`.
        time_limit: Seconds after which the benchmark adds no launches.
    """

    prune: PruneOptions = field(default_factory=PruneOptions)
    export: ExportOptions = field(default_factory=ExportOptions)
    threads: int | None = None
    rounds: int = BenchmarkOptions.rounds
    time_limit: float = BenchmarkOptions.time_limit


@dataclass(frozen=True, kw_only=True)
class CompareOptions:
    """The options of `compare`.

    Attributes:
        criteria: Criteria of importance to prune by.
        ratios: Shares of all parameters to remove.
        prune: Options of `prune` for every point, without `ratio`, `plan` and `scores`; its criterion is not used.
        ray: Address of a Ray cluster that makes the points; by default, this process makes them.
    """

    criteria: tuple[CriterionName, ...]
    ratios: tuple[float, ...]
    prune: PruneOptions = field(default_factory=PruneOptions)
    ray: str | None = None


@dataclass(frozen=True, kw_only=True)
class SweepOptions:
    """The options of `sweep`. One of `ratios`, `until` and `draft` is required.

    Attributes:
        ratios: Shares of all parameters to remove; by default, whole percents that are legal for the model.
        until: Conditions to search the ratio for, such as `decode_ms<=35 and perplexity<=1.2x`; `docs/sweep.md` has the
            grammar. Without them, all ratios are measured.
        draft: Whether to measure every point as a draft for the dense model, too; without `ratios` and `until`, the
            ratio of the fastest is searched.
        prune: Options of `prune` for every point, without `ratio`, `plan` and `scores`.
        export: Options of `export` for every point and the dense model.
        benchmark: Options of `benchmark` for every point, without `against` and `to`.
        ray: Address of a Ray cluster that makes the points, which are timed here; by default, this process makes them.
    """

    ratios: tuple[float, ...] = ()
    until: str | None = None
    draft: bool = False
    prune: PruneOptions = field(default_factory=PruneOptions)
    export: ExportOptions = field(default_factory=ExportOptions)
    benchmark: BenchmarkOptions = field(default_factory=BenchmarkOptions)
    ray: str | None = None
