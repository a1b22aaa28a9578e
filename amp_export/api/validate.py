"""The verb `validate`: does the exported graph compute what the pruned PyTorch model computes?

The tolerance is not a constant. PyTorch itself runs the model in a higher precision, and several times in the graph's
(`noise.py`); how far those are off is the noise of this model's arithmetic. A graph that is right is about as far off.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from amp_export.checkpoints.reading import open_checkpoint
from amp_export.errors import UnsupportedModelError
from amp_export.options import Format, Provider
from amp_export.outputs.lookup import exported_checkpoint, require_export
from amp_export.outputs.manifest import Manifest
from amp_export.parity.case_files import read_cases
from amp_export.parity.comparison import compare, with_explanation
from amp_export.parity.results import ParityReport
from amp_export.progress import Progress, Silent
from amp_export.reporting.files import open_report, update_report

if TYPE_CHECKING:
    pass


def validate(
    output: Path,
    *,
    to: Format = Format.ONNX,
    reference: Path | None = None,
    cases: Path | None = None,
    explain: bool = False,
    threads: int | None = None,
    provider: Provider = Provider.CPU,
    progress: Progress | None = None,
) -> ParityReport:
    """Checks parity of what an output directory holds, and writes the result into its report.

    Args:
        output: What `export` or the whole run wrote.
        to: Which export of it to check.
        reference: The checkpoint that was exported; by default the one the manifest names.
        cases: A file of cases, as `parity_files.read_cases` takes it; by default those of the model's kind.
        explain: Whether to look within graph and model for where they part.
        threads: Threads of the runtime; by default one for each core.
        provider: What computes a graph within ONNX Runtime.
        progress: Where to show what is going on.

    Returns:
        The result, whether parity holds or not.

    Raises:
        OutputError: `output` holds no graph, or its checkpoint is gone.
        UnsupportedModelError: It is to be looked within, and nothing there can be told to be one of the model's values.
    """
    from amp_export.exporters.onnx.sessions import exported_graphs
    from amp_export.parity.explain.explanation import plan_taps

    manifest = Manifest.load(output)
    earlier = open_report(output, manifest)
    if explain and to is not Format.ONNX:
        raise UnsupportedModelError("--explain looks into ONNX graphs.\nLeave it out, or give --to onnx.")
    require_export(output, manifest, to)
    checkpoint = reference or exported_checkpoint(output, manifest)
    graph, progress = output / to, progress or Silent()
    chosen = read_cases(cases, open_checkpoint(checkpoint).config) if cases is not None else None
    tap_plan = plan_taps(checkpoint, exported_graphs(graph)) if explain else None
    report = compare(checkpoint, graph, threads=threads, provider=provider, progress=progress, cases=chosen)
    if tap_plan is not None:
        report = with_explanation(report, tap_plan, chosen, progress=progress)
    update_report(output, earlier, manifest, parity=report, progress=progress)
    return report
