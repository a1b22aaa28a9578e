"""The command `report`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from amp_export.cli.checks import Checks, ThresholdsOption
from amp_export.cli.options import Json, OutArgument
from amp_export.cli.running import examples, run_and_show

if TYPE_CHECKING:
    from amp_export.reporting import Report

EXAMPLES = examples("amp-export report out", "amp-export report out --thresholds amp-export.toml")


def report(output: OutArgument, thresholds: ThresholdsOption = None, as_json: Json = False) -> None:
    """Show the report of an output directory again."""

    def work(_: Any) -> Report:
        from amp_export.reporting import Report

        return Report.load(output)

    run_and_show(work, as_json=as_json, written=None, checks=lambda: Checks(output, thresholds=thresholds))
