"""The page of results, from the rows that are there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.pruning_quality.measuring import SHOWN_PROMPTS, Extent, Row, commands
from bench.pruning_quality.methods import DENSE, MAIN, METHODS, SEEDS, Bar, Method

from amp_export.errors import command_line
from amp_export.evaluation.estimates import Estimate
from amp_export.evaluation.measuring import compare, compare_perplexity
from amp_export.evaluation.pairs import Change, Difference, PerplexityDifference

REUSED = "+ scoring"
"""Follows a time in which the model was not scored."""

MARK = r"\*"
"""Marks a verdict that its interval leaves open."""

HEADER = """# Quality after pruning

{model}: what pruning costs in quality, without training unless a row says so. Written by
`python ci/bench/quality.py --data DIR --work DIR{options}`, which runs `amp-export` once for each row, with the
options [below](#commands), and measures the checkpoints in float32 by the rules of [evaluation](../evaluation.md).

- **Calibration.** The split's file has about as much of the first 60 % of WikiText-2's validation text as of
  instruction rows 0 to 1499 (GPTeacher, role play); *other calibration rows* share none with it. *Shipped text* is what
  amp-export takes by default.
- **Perplexity** is measured on the last 40 % of the text, which is like half of the calibration text, and on
  instruction rows 1500 to 1989 with their answers; for *shipped text* both are foreign. Windows have {window} tokens
  and do not overlap{windows}. In *overlapping* ones, which start every {stride} tokens, each
  token has as many before it; the dense model gains more by that.
  Ratios are to the dense model, with 95 % intervals over pairs of windows.
- **Tasks** are zero-shot, {questions}: normalised accuracy, but for WinoGrande plain
  accuracy, in per cent with the standard error. Differences from the dense model are in percentage points, with paired
  95 % intervals; where that contains zero, there is *none* that can be claimed.
- **Bars** are what the project demands: the largest ratio of the perplexity on WikiText-2, and the largest loss of the
  tasks' average. {mark} marks a verdict that could be another one within the interval.
"""

PERPLEXITY = (
    "## Perplexity and bars",
    "| method | removed | WikiText-2 | ratio | overlapping | instructions | ratio | tasks | difference | bar | ratio "
    "| loss |",
    "| --- | ---: | ---: | --- | --- | ---: | --- | ---: | --- | --- | --- | --- |",
)

GENERATION = (
    "## Generated text and time",
    "Greedy texts of at most {new_tokens} tokens after the instructions of rows 1990 to 1999: the share of adjacent\n"
    "pairs of tokens that are distinct, and of sequences of four tokens that repeat an earlier one. *Pruning* is the\n"
    "time of the whole command, *training* that of `recover`; *{reused}* was spared, since a row above scores in the\n"
    "same way. Times are of one run, beside whatever else the machine did.",
    "| method | distinct 2-grams | repeated 4-grams | parameters | pruning | training |",
    "| --- | ---: | ---: | ---: | ---: | ---: |",
)


@dataclass(frozen=True)
class About:
    """What the page says of all rows.

    Attributes:
        model: The model, as the command line takes it.
        extent: How much was measured.
        options: Further options of the script.
    """

    model: str
    extent: Extent
    options: str = ""

    @property
    def name(self) -> str:
        """Name of the model, without its place on a machine."""
        return "SmolLM2-135M-Instruct (`demo`)" if self.model == "demo" else Path(self.model).name


@dataclass(frozen=True)
class Verdict:
    """Whether a number meets a bar.

    Attributes:
        met: Whether it does.
        certain: Whether all of its interval does, or none.
    """

    met: bool
    certain: bool = True

    def __str__(self) -> str:
        said = "met" if self.met else "**not met**"
        return said if self.certain else f"{said} {MARK}"


def write(rows: Mapping[str, Row], about: About) -> str:
    """Return the page.

    Args:
        rows: Rows by the names of their methods, the dense model's among them.
        about: What holds for all of them.
    """
    dense, extent = rows[DENSE.name], about.extent
    present = [(method, rows[method.name]) for method in METHODS if method.name in rows]
    perplexity = dense.instructions
    parts = [
        HEADER.format(
            model=about.name,
            options=about.options,
            window=perplexity.window,
            stride=dense.overlapping.stride,
            windows="" if extent.windows is None else f"; the first {extent.windows} of each text are taken",
            mark=MARK,
            questions="all questions"
            if extent.questions is None
            else f"the first {extent.questions} questions of each",
        ),
        _section(PERPLEXITY, (_perplexity_cells(*each, dense) for each in present)),
        _tasks(present, dense),
        _section(
            GENERATION, (_generation_cells(*each) for each in present), new_tokens=extent.new_tokens, reused=REUSED
        ),
        *([_texts(dense, rows[MAIN.name])] if MAIN.name in rows else []),
        _commands((method for method, _ in present), about),
        _missing(rows),
        _measured_on(rows.values()),
    ]
    return "\n".join(part for part in parts if part)


def judge(bar: Bar, perplexity: PerplexityDifference, average: Difference) -> tuple[Verdict, Verdict]:
    """Return whether perplexity and the tasks' average meet a bar.

    Args:
        bar: The bar.
        perplexity: The ratio to the dense model's perplexity.
        average: The difference of the average from the dense model's, as a share.
    """
    low, high = perplexity.interval
    ratio = Verdict(perplexity.ratio <= bar.ratio, (low <= bar.ratio) == (high <= bar.ratio))
    if bar.points is None:
        return ratio, Verdict(average.change is not Change.LOWER)
    least, (low, high) = -bar.points / 100, average.interval
    return ratio, Verdict(average.value >= least, (low >= least) == (high >= least))


def _perplexity_cells(method: Method, row: Row, dense: Row) -> list[str]:
    differences = compare(row.measured, dense.measured)
    average = row.measured.average
    assert row.measured.perplexity is not None
    assert average is not None
    assert differences.average is not None
    cells = [
        method.title,
        "" if method is DENSE else f"{row.made.removed:.2%}",
        _number(row.measured.perplexity.perplexity),
        _ratio(method, differences.perplexity),
        _ratio(method, compare_perplexity(row.overlapping, dense.overlapping)) or _number(row.overlapping.perplexity),
        _number(row.instructions.perplexity),
        _ratio(method, compare_perplexity(row.instructions, dense.instructions)),
        _accuracy(average),
        "" if method is DENSE else _difference(differences.average),
    ]
    if method.bar is None or differences.perplexity is None:
        return [*cells, *[""] * 3]
    return [*cells, str(method.bar), *map(str, judge(method.bar, differences.perplexity, differences.average))]


def _tasks(present: Iterable[tuple[Method, Row]], dense: Row) -> str:
    names = list(dense.measured.tasks)
    head = (
        "## Tasks",
        f"| method | {' | '.join(names)} |",
        f"| --- |{' --- |' * len(names)}",
    )
    return _section(head, (_task_cells(method, row, dense, names) for method, row in present))


def _task_cells(method: Method, row: Row, dense: Row, names: Iterable[str]) -> Iterator[str]:
    yield method.title
    differences = compare(row.measured, dense.measured)
    for name in names:
        accuracy = _accuracy(row.measured.tasks[name].accuracy)
        difference = _difference(differences.tasks[name].difference)
        yield accuracy if method is DENSE else f"{accuracy}: {difference}"


def _generation_cells(method: Method, row: Row) -> list[str]:
    written, made = row.measured.generation, row.made
    assert written is not None
    times = (
        (made.pruning_seconds, f" {REUSED}" if made.reused_scores else ""),
        (made.recovery_seconds, ""),
    )
    return [
        method.title,
        *("" if each is None else f"{each.value:.3f}" for each in (written.distinct_bigrams, written.repeated_4grams)),
        f"{made.parameters / 1e6:,.1f} M",
        *("" if each is None else f"{each:,.0f} s{more}" for each, more in times),
    ]


def _texts(dense: Row, main: Row) -> str:
    parts = ["## Texts\n\nGreedy, after two prompts that no data set has.\n"]
    for number, prompt in enumerate(SHOWN_PROMPTS):
        parts.append(_quoted("prompt", prompt))
        for method, row in ((DENSE, dense), (MAIN, main)):
            assert row.shown is not None
            parts.append(_quoted(method.title, row.shown.texts[number].text))
    return "\n".join(parts)


def _quoted(who: str, text: str) -> str:
    # what models write is shown as it is, whatever marks it has
    lines = "\n".join(f"    {line}" for line in text.strip().splitlines()) or "    (nothing)"
    return f"{who.capitalize()}:\n\n{lines}\n"


def _commands(methods: Iterable[Method], about: About) -> str:
    files = [Path(f"calibration-{seed}.jsonl") for seed in range(SEEDS)]
    model = "demo" if about.model == "demo" else Path(about.model).name
    rows = (
        [method.title, "<br>".join(f"`{command_line('amp-export', *each)}`" for each in made)]
        for method in methods
        if (made := commands(method, model, Path("out"), files))
    )
    table = _section(("## Commands", "| method | commands |", "| --- | --- |"), rows)
    return "" if table.endswith("| --- | --- |\n") else table


def _missing(rows: Mapping[str, Row]) -> str:
    names = [f"`{method.name}`" for method in METHODS if method.name not in rows]
    return f"Not measured yet: {', '.join(names)}.\n" if names else ""


def _measured_on(rows: Iterable[Row]) -> str:
    rows = list(rows)
    machines = "; ".join(dict.fromkeys(row.machine for row in rows))
    versions = "; ".join(
        dict.fromkeys(", ".join(f"{name} {version}" for name, version in row.packages.items()) for row in rows)
    )
    threads = " or ".join(str(count) for count in sorted({row.threads for row in rows}))
    return f"Measured on {machines}, threads of torch: {threads}, with {versions}.\n"


def _section(head: tuple[str, ...], rows: Iterable[Iterable[str]], **facts: object) -> str:
    *texts, names, rule = head
    body = "".join(f"| {' | '.join(cells)} |\n" for cells in rows)
    text = "".join(f"{each.format(**facts)}\n\n" for each in texts)
    return f"{text}{names}\n{rule}\n{body}"


def _ratio(method: Method, found: PerplexityDifference | None) -> str:
    if method is DENSE or found is None:
        return ""
    low, high = found.interval
    return f"{_number(found.ratio)} [{_number(low)}, {_number(high)}]"


def _accuracy(found: Estimate) -> str:
    error = "" if found.stderr is None else f" ± {100 * found.stderr:.1f}"
    return f"{100 * found.value:.1f}{error}"


def _difference(found: Difference) -> str:
    low, high = (100 * bound for bound in found.interval)
    none = ", none" if found.change is Change.NONE else ""
    return f"{100 * found.value:+.1f} [{low:+.1f}, {high:+.1f}]{none}"


def _number(value: float) -> str:
    """Return a perplexity or a ratio; of one without sense, no digits after the point."""
    return f"{value:.2f}" if value < 1000 else f"{value:,.0f}"
