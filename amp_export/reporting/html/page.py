"""report.html, and other self-contained pages: made from results and the files next to them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from amp_export.extras import require_extra
from amp_export.outputs.manifest import Manifest
from amp_export.reporting.findings import Finding, Standing, findings, headline
from amp_export.reporting.html import svg as palette
from amp_export.reporting.html.elements import PageSection
from amp_export.reporting.html.sections import page_sections
from amp_export.reporting.report import Report

if TYPE_CHECKING:
    from markupsafe import Markup

SIGNS = {
    Standing.HOLDS: "✓",
    Standing.FAILS: "✗",
    Standing.MEASURED: "",
    Standing.NOT_MEASURED: "?",
    Standing.NOT_CHECKED: "?",
}
"""Sign for the status of a finding, for readers who do not see its colour."""


LONG_WORD = 24
"""Words with at least this many characters may be broken."""


def require_renderer() -> None:
    """Raise an error if the page cannot be rendered here.

    Raises:
        MissingExtraError: Jinja2 or Matplotlib is not installed.
    """
    # this import is cheap: heavy parts of matplotlib load when something is drawn
    for module in ("jinja2", "matplotlib"):
        require_extra(module, "report", needed_for="The page with pictures")


def _keep_together(text: str) -> Markup:
    """Return text in which short words, such as 9.2e-05 and --snap, are not broken at a hyphen."""
    from markupsafe import Markup, escape

    words = (
        Markup('<span class="together">{}</span>').format(word)
        if "-" in word and len(word) < LONG_WORD
        else escape(word)
        for word in text.split(" ")
    )
    return Markup(" ").join(words)


def to_html(report: Report, manifest: Manifest, output: Path) -> str:
    """Return the text of report.html; the same input gives the same bytes.

    Args:
        report: The report.
        manifest: The output's manifest.
        output: The output directory, for the scores and the plan.

    Raises:
        MissingExtraError: Jinja2 or Matplotlib is not installed.
    """
    require_renderer()
    return render_page(
        title=report.model,
        kind="report",
        headline=headline(report),
        findings=list(findings(report)),
        sections=list(page_sections(report, manifest, output)),
        version=manifest.amp_export,
        numbers="report.json",
    )


def render_page(
    *,
    title: str,
    kind: str,
    headline: str,
    findings: Sequence[Finding],
    sections: Sequence[PageSection],
    version: str,
    numbers: str,
) -> str:
    """Return the text of a page; the same input gives the same bytes.

    Args:
        title: Its title.
        kind: A word for what it is, which stands above the title.
        headline: The outcome in one line.
        findings: The outcome, number by number.
        sections: What it consists of.
        version: Version of this package that made it.
        numbers: Name of the file with the same numbers.

    Raises:
        MissingExtraError: Jinja2 or Matplotlib is not installed.
    """
    require_renderer()
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("amp_export.reporting.html"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["together"] = _keep_together
    return environment.get_template("report.html.jinja").render(
        title=title,
        kind=kind,
        headline=headline,
        findings=findings,
        sections=sections,
        version=version,
        numbers=numbers,
        palette=palette,
        signs=SIGNS,
    )
