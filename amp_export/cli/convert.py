"""The whole way, which is what `amp-export --to` runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from amp_export._version import __version__
from amp_export.cli.options import (
    DEFAULT_MODEL,
    DEFAULT_OUTPUT,
    DEFAULT_RATIO,
    AllocationOption,
    AllowPickle,
    Calibration,
    DtypeOption,
    Heads,
    HeadsPerLayer,
    Json,
    MaxBatch,
    MaxContext,
    MaybeModel,
    NeuronsPerLayer,
    OpsetOption,
    Output,
    Overwrite,
    PlanOption,
    Ratio,
    RuntimeOption,
    ScoresOption,
    Snap,
    Threads,
    UniformOption,
    ViaOption,
)
from amp_export.cli.running import examples, run_and_show
from amp_export.options import Allocation, Format, HeadPolicy, PerLayer, TargetName, Uniform, Via

if TYPE_CHECKING:
    from amp_export.reporting.report import Report

EXAMPLES = examples(
    "amp-export --to onnx --model demo --ratio 0.1 --output out",
    "amp-export --to onnx --model ./my-llama --ratio 0.3 --calibration prompts.jsonl -o out",
    "amp-export doctor --model demo --ratio 0.3",
)


def _print_version(show: bool) -> None:
    if show:
        typer.echo(f"amp-export {__version__}")
        raise typer.Exit


def convert(
    context: typer.Context,
    to: Annotated[Format | None, typer.Option("--to", help="Run the whole way and export to this format.")] = None,
    model: MaybeModel = None,
    ratio: Ratio = None,
    output: Output = DEFAULT_OUTPUT,
    allocation: AllocationOption = Allocation.BALANCED,
    heads: Heads = HeadPolicy.AUTO,
    snap: Snap = None,
    target: Annotated[
        TargetName | None, typer.Option("--target", help="The device that shapes should suit, and an engine is for.")
    ] = None,
    heads_per_layer: HeadsPerLayer = PerLayer.UNIFORM,
    neurons_per_layer: NeuronsPerLayer = PerLayer.UNIFORM,
    uniform: UniformOption = Uniform.RESIZE,
    calibration: Calibration = None,
    scores: ScoresOption = None,
    plan: PlanOption = None,
    dtype: DtypeOption = None,
    opset: OpsetOption = None,
    via: ViaOption = Via.AUTO,
    runtime: RuntimeOption = None,
    max_batch: MaxBatch = 1,
    max_context: MaxContext = None,
    threads: Threads = None,
    allow_pickle: AllowPickle = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
    _show_version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Prune a transformer with AMP, export it, prove the export, and measure what was gained.

    With --to it runs the whole way; the steps are also commands of their own.
    """
    if context.invoked_subcommand is not None:
        return
    if to is None:
        sources = (context.get_parameter_source(name) for name in context.params)
        if any(source is not None and source.name == "COMMANDLINE" for source in sources):
            context.fail("Missing option '--to', which runs the whole way, or a command, which runs one step.")
        typer.echo(context.get_help())
        return

    def work(console: Any) -> Report:
        from amp_export.api.convert import ConvertOptions
        from amp_export.api.convert import convert as run
        from amp_export.cli.console import ConsoleProgress
        from amp_export.exporting.engines import EngineOptions
        from amp_export.pruning.settings import PlanSettings

        chosen_model = model or DEFAULT_MODEL
        chosen_ratio = ratio
        if model is None:
            console.print(f"No --model given: taking {DEFAULT_MODEL}, SmolLM2-135M-Instruct.")
        if ratio is None and plan is None:
            chosen_ratio = DEFAULT_RATIO
            console.print(f"No --ratio given: taking {DEFAULT_RATIO}.")
        settings = None
        if chosen_ratio is not None:
            shapes_for = target or TargetName.CPU
            settings = PlanSettings(
                chosen_ratio, allocation, heads, snap, shapes_for, heads_per_layer, neurons_per_layer
            )
        options = ConvertOptions(
            precision=dtype,
            opset=opset,
            via=via,
            engine=EngineOptions(target if to is Format.TENSORRT else None, runtime, max_batch, max_context),
            calibration=calibration,
            scores=scores,
            plan=plan,
            uniform=uniform,
            allow_pickle=allow_pickle,
            threads=threads,
            overwrite=overwrite,
        )
        return run(
            chosen_model,
            output=output,
            settings=settings,
            to=to,
            options=options,
            progress=ConsoleProgress(console),
        )

    run_and_show(work, as_json=as_json, written=output)
