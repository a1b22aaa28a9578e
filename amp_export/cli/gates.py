"""Quality gates: check a report against thresholds and a baseline."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from amp_export.errors import RequestError
from amp_export.options import Format

if TYPE_CHECKING:
    from amp_export.reporting.baselines import Baseline
    from amp_export.reporting.report import Report
    from amp_export.reporting.thresholds import Threshold

ThresholdsOption = Annotated[
    Path | None,
    typer.Option("--thresholds", metavar="FILE", help="TOML file with quality gates, e.g. amp-export.toml."),
]
BaselineOption = Annotated[
    Path | None,
    typer.Option(
        "--baseline", metavar="FILE", help="JSON file with the numbers of an earlier run; fail if one got worse."
    ),
]
UpdateBaseline = Annotated[
    bool, typer.Option("--update-baseline", help="Write the baseline, instead of comparing with it.")
]


class Gates:
    """Quality gates of a report. Their files are read on construction, before anything is measured."""

    def __init__(
        self,
        output: Path | None,
        *,
        to: Format | None = None,
        thresholds: Path | None = None,
        baseline: Path | None = None,
        update_baseline: bool = False,
    ) -> None:
        self.output = output
        self.to = to
        self.thresholds: tuple[Threshold, ...] = ()
        self.baseline: Baseline | None = None
        self.written_baseline: Path | None = None
        if update_baseline and baseline is None:
            raise RequestError("--update-baseline needs a file to write.\nName it with --baseline FILE.")
        if thresholds is not None:
            from amp_export.outputs.manifest import Manifest
            from amp_export.outputs.staging import is_ours
            from amp_export.reporting.thresholds import read_thresholds, refuse_absent_phases

            self.thresholds = read_thresholds(thresholds)
            if output is not None and is_ours(output):
                refuse_absent_phases(thresholds, self.thresholds, Manifest.load(output))
        if baseline is not None:
            if output is None:
                raise RequestError(
                    "--baseline compares an OUT that this tool wrote.\nUse --thresholds for other graphs."
                )
            self._take_baseline(baseline, output, update=update_baseline)

    def _take_baseline(self, file: Path, output: Path, *, update: bool) -> None:
        from amp_export.reporting.baselines import Baseline, check_replaceable

        if update:
            check_replaceable(file)
            self.written_baseline = file
        else:
            self.baseline = Baseline.load(file)
            self.baseline.check_same_model(output, file, to=self._format())

    def _format(self) -> Format:
        from amp_export.outputs.lookup import which_export

        return self.to or (Format.ONNX if self.output is None else which_export(self.output))

    def check(self, report: Report) -> Report:
        """Return the report with the results of its gates, if there are any."""
        from amp_export.reporting.baselines import compare_baseline
        from amp_export.reporting.metrics import measure
        from amp_export.reporting.thresholds import check_thresholds

        if not self.thresholds and self.baseline is None:
            return report
        values = measure(report, self.output and self.output / self._format())
        found = check_thresholds(self.thresholds, values)
        if self.baseline is not None:
            found += compare_baseline(self.baseline, values)
        return replace(report, checks=tuple(found))

    def write_baseline(self, report: Report) -> str | None:
        """Write the new baseline, unless parity or a threshold fails; return a line about it if one was requested."""
        if (file := self.written_baseline) is None:
            return None
        if not (report.holds and report.checks_hold):
            return f"{file} was not written: a run that fails cannot be a baseline."
        from amp_export.reporting.baselines import Baseline

        assert self.output is not None
        Baseline.of(self.output, report, to=self._format()).save(file)
        return f"Written: {file}"
