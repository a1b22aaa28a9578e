"""The command `doctor`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from amp_export.cli.options import (
    DEFAULT_MODEL,
    AllocationOption,
    Heads,
    HeadsPerLayer,
    Json,
    MaxBatch,
    MaxContext,
    Model,
    NeuronsPerLayer,
    Snap,
    TargetOption,
    UniformOption,
)
from amp_export.cli.running import examples, run_command
from amp_export.options import Allocation, HeadPolicy, PerLayer, TargetName, Uniform

EXAMPLES = examples(
    "amp-export doctor --model demo --ratio 0.3", "amp-export doctor --model demo --ratio 0.3 --target orin-nano"
)


def doctor(
    model: Model = DEFAULT_MODEL,
    ratio: Annotated[float, typer.Option("--ratio", "-r", metavar="R", help="Share of parameters to remove.")] = 0.3,
    allocation: AllocationOption = Allocation.BALANCED,
    heads: Heads = HeadPolicy.AUTO,
    snap: Snap = None,
    target: TargetOption = TargetName.CPU,
    heads_per_layer: HeadsPerLayer = PerLayer.UNIFORM,
    neurons_per_layer: NeuronsPerLayer = PerLayer.UNIFORM,
    uniform: UniformOption = Uniform.RESIZE,
    max_batch: MaxBatch = 1,
    max_context: MaxContext = None,
    as_json: Json = False,
) -> None:
    """Say what a ratio would keep, which class can express it, what loads it and whether a device has room for it."""

    def work(console: Any) -> None:
        from amp_export.cli.console import ConsoleProgress, print_json
        from amp_export.cli.show_diagnosis import show_diagnosis
        from amp_export.doctor.diagnose import diagnose
        from amp_export.pruning.settings import PlanSettings

        settings = PlanSettings(ratio, allocation, heads, snap, target, heads_per_layer, neurons_per_layer)
        diagnosis = diagnose(
            model,
            settings,
            uniform=uniform,
            max_batch=max_batch,
            max_context=max_context,
            on_status=ConsoleProgress(console).note,
        )
        if as_json:
            print_json(diagnosis.to_json())
        else:
            show_diagnosis(console, diagnosis)

    run_command(work)
