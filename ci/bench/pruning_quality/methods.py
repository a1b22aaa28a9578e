"""The methods that are measured: what the command line is asked for, and what is expected of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

Options = Mapping[str, str | bool]
"""Options of a command by name; True and False stand for `--name` and `--no-name`."""

OURS: Options = {
    "criterion": "obs",
    "allocation": "kl",
    "heads": "auto",
    "snap": "16",
    "heads-per-layer": "global",
    "neurons-per-layer": "global",
    "fitting-tokens": "65536",
}
"""What we recommend where layers may differ; all rows of ours are made from it."""

ONE_WIDTH: Options = {**OURS, "snap": "8", "heads-per-layer": "uniform", "neurons-per-layer": "uniform"}
"""One step of 16 neurons in all layers is so much that the ratio would be missed."""

NOT_COMPENSATED: Options = {**OURS, "compensate": False}

UNIFORM: Options = {
    "allocation": "balanced",
    "heads": "auto",
    "snap": "16",
    "heads-per-layer": "uniform",
    "neurons-per-layer": "uniform",
    "fitting-tokens": "49152",
    "compensate": False,
}
"""What other criteria are compared with: every layer keeps the same, and nothing is updated."""

FLAP: Options = {
    "criterion": "flap",
    "allocation": "flap",
    "heads": "auto",
    "snap": "1",
    "fitting-tokens": "49152",
}
"""What FLAP chooses, as published: its layers differ, and it has no steps of neurons."""

DISTILLATION: Options = {"method": "distill", "minutes": "10"}

SEEDS = 2
"""Calibration files that are made of different rows."""


@dataclass(frozen=True)
class Bar:
    """What a row has to meet.

    Attributes:
        ratio: Largest ratio of the WikiText perplexity to the dense model's.
        points: Largest loss of the tasks' average, in percentage points; None if no loss may be claimed at all, by the
            95 % interval of the paired difference.
    """

    ratio: float
    points: float | None = None

    def __str__(self) -> str:
        loss = "no difference" if self.points is None else f"{self.points:g} points"
        return f"{self.ratio:.2f} x, {loss}"


@dataclass(frozen=True, kw_only=True)
class Method:
    """A row of the tables.

    Attributes:
        name: Its name on the command line.
        title: Its name on the page.
        pruning: Options of `amp-export prune`; none for the dense model.
        seed: The calibration file of the split; None for the text that is shipped with amp-export.
        scores_of: Name of a method before this one that scores the model in the same way, so that its scores are used
            again if they are kept.
        recovery: Options of `amp-export recover`; none if the pruned model is not trained.
        bar: What it has to meet, or None.
    """

    name: str
    title: str
    pruning: Options = field(default_factory=dict)
    seed: int | None = 0
    scores_of: str | None = None
    recovery: Options = field(default_factory=dict)
    bar: Bar | None = None


def _ours(
    name: str,
    title: str,
    options: Options,
    *,
    bar: Bar,
    ratio: str = "0.2",
    seed: int | None = 0,
    like: str | None = None,
) -> Method:
    return Method(name=name, title=title, pruning={"ratio": ratio, **options}, seed=seed, scores_of=like, bar=bar)


def _other(name: str, title: str, options: Options, *, like: str | None = None) -> Method:
    return Method(name=name, title=title, pruning={"ratio": "0.2", **options}, scores_of=like)


DENSE = Method(name="dense", title="dense")

MAIN = _ours("ours-20", "ours, 20 %", OURS, bar=Bar(1.30, 1.5))
"""The row whose texts are shown next to the dense model's."""

SHIPPED = _ours("ours-20-shipped", "ours, 20 %, shipped text", OURS, seed=None, bar=Bar(1.50, 1.5))

METHODS = (
    DENSE,
    MAIN,
    _ours("ours-20-seed-1", "ours, 20 %, other calibration rows", OURS, seed=1, bar=Bar(1.30, 1.5)),
    _ours("ours-20-one-width", "ours, 20 %, one width", ONE_WIDTH, bar=Bar(1.42, 2.5), like=MAIN.name),
    _ours("ours-30", "ours, 30 %", OURS, ratio="0.3", bar=Bar(1.60, 4.0), like=MAIN.name),
    SHIPPED,
    _ours(
        "ours-20-one-width-shipped",
        "ours, 20 %, one width, shipped text",
        ONE_WIDTH,
        seed=None,
        bar=Bar(1.65, 2.5),
        like=SHIPPED.name,
    ),
    _ours(
        "ours-30-shipped",
        "ours, 30 %, shipped text",
        OURS,
        ratio="0.3",
        seed=None,
        bar=Bar(1.90, 4.0),
        like=SHIPPED.name,
    ),
    Method(
        name="ours-20-distilled",
        title="ours, 20 %, then 10 minutes of distillation",
        pruning=MAIN.pruning,
        scores_of=MAIN.name,
        recovery=DISTILLATION,
        bar=Bar(1.20),
    ),
    _other("ours-20-not-compensated", "ours, 20 %, without compensation", NOT_COMPENSATED, like=MAIN.name),
    _other(
        "ours-20-balanced", "ours, 20 %, without allocation by KL", {**OURS, "allocation": "balanced"}, like=MAIN.name
    ),
    _other("ours-20-wanda", "ours, 20 %, by Wanda's criterion", {**OURS, "criterion": "wanda"}),
    _other("amp", "AMP as published, 20 %", {"criterion": "amp", "allocation": "paper", "compensate": False}),
    _other("flap", "FLAP with its own allocation, 20 %, without its biases", {**FLAP, "compensate": False}),
    _other("flap-compensated", "FLAP's choice and allocation, our compensation, 20 %", FLAP, like="flap"),
    _other("wanda", "Wanda's criterion, 20 %", {"criterion": "wanda", **UNIFORM}),
    _other("magnitude", "magnitude, 20 %", {"criterion": "magnitude", **UNIFORM}),
    _other("random", "random, 20 %", {"criterion": "random", **UNIFORM}),
)


def words(options: Options) -> list[str]:
    """Return options as words of a command."""
    found: list[str] = []
    for name, value in options.items():
        if isinstance(value, bool):
            found.append(f"--{name}" if value else f"--no-{name}")
        else:
            found += [f"--{name}", value]
    return found
