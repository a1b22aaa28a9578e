"""report.md, for pull requests: the findings, one table, and details in collapsed sections."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from amp_export.parity.results import ParityReport
from amp_export.reporting.checks import Check
from amp_export.reporting.findings import headline
from amp_export.reporting.report import Report
from amp_export.reporting.summary import summary_rows, verdict_lines
from amp_export.reporting.wording import case_name


def to_markdown(report: Report) -> str:
    """Return the text of report.md."""
    lines = [f"# amp-export: {plain(report.model)}", "", f"**{plain(headline(report))}**", ""]
    rows = list(summary_rows(report))
    if rows:
        lines += ["| | dense | pruned | change |", "| --- | ---: | ---: | ---: |"]
        lines += [table_row(row.label, row.dense, row.pruned, row.change) for row in rows]
        lines.append("")
    lines += [f"- {plain(line)}" for line in verdict_lines(report)]
    lines += [f"- **{plain(check.text)}**" for check in report.checks or () if not check.holds]
    if report.checks:
        lines += ["", "<details><summary>Thresholds and baseline, number by number</summary>", ""]
        lines += [*_check_lines(report.checks), "", "</details>"]
    if report.parity is not None:
        lines += ["", "<details><summary>Parity, case by case</summary>", "", *_parity_lines(report.parity)]
        lines += ["", "</details>"]
    versions = ", ".join(f"{name} {found}" for name, found in (report.packages or {}).items())
    lines += ["", f"Versions: {versions}."]
    return "\n".join(lines) + "\n"


def _parity_lines(parity: ParityReport) -> Iterator[str]:
    yield "| case | positions | error: largest | mean | noise: largest | mean | top-1 | holds |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: | ---: | --- |"
    for case in parity.cases:
        numbers = (case.max_error, case.mean_error, case.noise, case.mean_noise)
        errors = ("" if number is None else f"{number:.2g}" for number in numbers)
        line = table_row(case_name(case), str(case.positions), *errors, f"{case.top1_agreement:.1%}")
        yield f"{line} {'yes' if case.holds else '**no**'} |"


def _check_lines(checks: Sequence[Check]) -> Iterator[str]:
    yield "| number | checked against | found | holds |"
    yield "| --- | --- | --- | --- |"
    for check in checks:
        yield f"{table_row(check.name, check.against, check.found)} {'yes' if check.holds else '**no**'} |"


def table_row(*cells: str) -> str:
    """Return a row of a table."""
    return f"| {' | '.join(map(plain, cells))} |"


def plain(text: str) -> str:
    """Escape text for Markdown: names come from users, and a bar or a tag would break the page."""
    return " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")
