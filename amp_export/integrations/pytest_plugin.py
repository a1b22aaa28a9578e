"""A pytest plugin to assert parity of exported graphs in tests.

    def test_graph(amp_parity):
        amp_parity("out")

pytest loads this module in every run if amp-export is installed, so heavy imports are delayed until a test needs them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from amp_export.parity.results import ParityReport

MARKER = "amp_parity"


@dataclass(frozen=True)
class AmpParity:
    """The value of the fixture `amp_parity`: call it to assert parity.

    Attributes:
        defaults: Arguments of the marker, used unless a call overrides them.
    """

    defaults: Mapping[str, Any]

    def __call__(
        self,
        output: str | Path | None = None,
        *,
        checkpoint: str | Path | None = None,
        graph: str | Path | None = None,
        cases: str | Path | None = None,
        threads: int | None = None,
    ) -> ParityReport:
        """Fail the test, with a table of all cases, if a graph does not match its checkpoint.

        No files are written. Paths are relative to the working directory.

        Args:
            output: An output directory of `amp-export`, whose export is compared with its checkpoint.
            checkpoint: The checkpoint to compare with; required with `graph`, by default the output's checkpoint.
            graph: Instead of `output`: the folder of an export, such as `out/onnx`, or the file of a third-party graph.
            cases: A file of cases, as for `amp-export validate --cases`.
            threads: Threads of the runtime; by default one per core.

        Returns:
            The parity report.
        """
        __tracebackhide__ = True
        given = {"output": output, "checkpoint": checkpoint, "graph": graph, "cases": cases, "threads": threads}
        arguments = {**self.defaults, **{name: value for name, value in given.items() if value is not None}}
        from amp_export.errors import AmpExportError

        try:
            report = _compare(**arguments)
        except AmpExportError as error:
            # the error is in the test or its files, so this package's stack trace would not help
            found = str(error)
        else:
            if report.holds:
                return report
            found = failure_text(report)
        pytest.fail(found, pytrace=False)


def _compare(
    output: str | Path | None = None,
    checkpoint: str | Path | None = None,
    graph: str | Path | None = None,
    cases: str | Path | None = None,
    threads: int | None = None,
) -> ParityReport:
    from amp_export.checkpoints.reading import open_checkpoint
    from amp_export.errors import RequestError
    from amp_export.outputs.lookup import exported_checkpoint, which_export
    from amp_export.outputs.manifest import Manifest
    from amp_export.parity.case_files import read_cases
    from amp_export.parity.comparison import compare, compare_third_party
    from amp_export.progress import Silent
    from amp_export.verb_options import ValidateOptions

    if output is not None and graph is None:
        graph = Path(output) / which_export(Path(output))
        checkpoint = checkpoint or exported_checkpoint(Path(output), Manifest.load(Path(output)))
    elif output is not None or graph is None or checkpoint is None:
        raise RequestError(
            "amp_parity takes an output directory of amp-export, or a graph and its checkpoint.\n"
            'Call amp_parity("out"), or amp_parity(checkpoint="my-model", graph="model.onnx").'
        )
    checkpoint = Path(checkpoint)
    if Path(graph).is_file():
        options = ValidateOptions(cases=Path(cases) if cases is not None else None, threads=threads)
        return compare_third_party(Path(graph), checkpoint, options)
    chosen = read_cases(Path(cases), open_checkpoint(checkpoint).config) if cases is not None else None
    return compare(checkpoint, Path(graph), threads=threads, cases=chosen, progress=Silent())


def failure_text(report: ParityReport) -> str:
    """Return the message of a failing test: a table of all cases and the tolerances."""
    head = ("case", "largest error", "tolerance", "mean error", "tolerance", "top-1", "holds")
    rows: list[tuple[str, ...]] = [head]
    for case in report.cases:
        name = case.name if case.output == "logits" else f"{case.name}, {case.output}"
        tolerance, mean_tolerance = report.tolerances(case)
        numbers = (case.max_error, tolerance, case.mean_error, mean_tolerance)
        shown = (f"{number:.3g}" for number in numbers)
        rows.append((name, *shown, f"{case.top1_agreement:.1%}", "yes" if case.holds else "NO"))
    lines = [
        f"The graph ({report.dtype}) does not compute what its checkpoint computes "
        f"(PyTorch in {report.reference_dtype}).",
        *_table(rows),
        f"The tolerance is {report.noise_factor:g} times PyTorch's own {report.dtype} noise.",
    ]
    if report.greedy is not None and not report.greedy.holds:
        lines.append(f"Greedy decoding: the first {report.greedy.common} of {report.greedy.steps} tokens agree.")
    if report.rounded is not None and not report.rounded.holds:
        failing = ", ".join(case.name for case in report.rounded.cases if not case.holds)
        lines.append(f"With activations rounded to int8, as the runtime multiplies, these fail: {failing}.")
    lines.append("To find the first value that differs: amp-export validate OUT --explain")
    return "\n".join(lines)


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return aligned rows; all columns but the first are right-aligned."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    ]


@pytest.fixture
def amp_parity(request: pytest.FixtureRequest) -> AmpParity:
    """Assert parity of a graph with its checkpoint: `amp_parity("out")`."""
    defaults: dict[str, Any] = {}
    # from the farthest marker, such as a module's, to the nearest, which takes precedence
    for marker in reversed(list(request.node.iter_markers(MARKER))):
        if len(marker.args) > 1:
            pytest.fail(
                f"The marker {MARKER} takes one positional argument and keyword arguments, not {marker.args}.",
                pytrace=False,
            )
        defaults |= {**({"output": marker.args[0]} if marker.args else {}), **marker.kwargs}
    if unknown := defaults.keys() - _compare.__annotations__.keys():
        pytest.fail(f"The marker {MARKER} does not know {', '.join(sorted(unknown))}.", pytrace=False)
    return AmpParity(defaults)


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker."""
    config.addinivalue_line(
        "markers",
        f"{MARKER}(output, checkpoint=, graph=, cases=, threads=): arguments for the fixture {MARKER}; every test with "
        "the fixture has the marker.",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test that uses the fixture, so that `-m` can select or deselect these slower tests."""
    for item in items:
        if MARKER in getattr(item, "fixturenames", ()):
            item.add_marker(MARKER)
