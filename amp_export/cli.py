"""The command line: it parses, makes one call, and shows the result. Parameters carry the names of the function's."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from amp_export import __version__
from amp_export.errors import AmpExportError
from amp_export.exporters import Precision
from amp_export.options import Allocation, Format, HeadPolicy, PerLayer, TargetName, Uniform, Via

if TYPE_CHECKING:
    from amp_export.reporting import Report

DEFAULT_MODEL = "demo"
DEFAULT_RATIO = 0.1
DEFAULT_OUTPUT = Path("out")

app = typer.Typer(
    name="amp-export",
    no_args_is_help=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    # plain help loads in half the time
    rich_markup_mode=None,
)

Model = Annotated[
    str, typer.Option("--model", "-m", metavar="MODEL", help="A hub id, a checkpoint directory, a .gguf file, or demo.")
]
MaybeModel = Annotated[
    str | None,
    typer.Option("--model", "-m", metavar="MODEL", help="A hub id, a checkpoint directory, a .gguf file, or demo."),
]
Ratio = Annotated[
    float | None, typer.Option("--ratio", "-r", metavar="R", help="Share of all parameters to remove, 0 to 1.")
]
Output = Annotated[Path, typer.Option("--output", "-o", metavar="OUT", help="Where the result goes.")]
OutArgument = Annotated[Path, typer.Argument(metavar="OUT", help="What an earlier command wrote.")]
AllocationOption = Annotated[
    Allocation, typer.Option(help="Meet the budget, or follow the paper's rule to the letter.")
]
Heads = Annotated[
    HeadPolicy, typer.Option(help="Heads that may go: whole key/value groups, within each, the better, or none.")
]
Snap = Annotated[
    int | None, typer.Option(metavar="N", help="Keep a multiple of N neurons.  [default: 16, on GPU targets 64]")
]
TargetOption = Annotated[TargetName, typer.Option("--target", help="The kind of device the shapes should suit.")]
HeadsPerLayer = Annotated[
    PerLayer, typer.Option("--heads-per-layer", help="The same in every layer, or by importance among all layers.")
]
NeuronsPerLayer = Annotated[
    PerLayer, typer.Option("--neurons-per-layer", help="The same in every layer, or by importance among all layers.")
]
UniformOption = Annotated[
    Uniform, typer.Option("--uniform", help="What no stock config can say is resized at load, or padded with zeros.")
]
Calibration = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="What to score on: prompts (.txt, .jsonl), or images or sounds (.npz)."),
]
ScoresOption = Annotated[Path | None, typer.Option("--scores", metavar="FILE", help="Scores of an earlier run.")]
PlanOption = Annotated[Path | None, typer.Option("--plan", metavar="FILE", help="A plan, instead of a ratio.")]
ViaOption = Annotated[Via, typer.Option("--via", help="Build the graph directly, or trace the model.")]
DtypeOption = Annotated[Precision, typer.Option("--dtype", help="Precision of the exported graph.")]
Threads = Annotated[int | None, typer.Option(min=1, metavar="N", help="Threads of the runtime.  [default: all cores]")]
AllowPickle = Annotated[
    bool,
    typer.Option("--allow-pickle", help="Read torch pickles where there is no safetensors; runs no code of theirs."),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an earlier result.")]
Json = Annotated[bool, typer.Option("--json", help="Print the report on stdout as JSON, and nothing else.")]


def _examples(*commands: str) -> str:
    """The end of a help page; the mark at its start keeps the lines as they are."""
    return "\n".join(("\b", "Examples:" if len(commands) > 1 else "Example:", *(f"  {each}" for each in commands)))


def _version(show: bool) -> None:
    if show:
        typer.echo(f"amp-export {__version__}")
        raise typer.Exit


@app.callback(
    invoke_without_command=True,
    epilog=_examples(
        "amp-export --to onnx --model demo --ratio 0.1 --output out",
        "amp-export --to onnx --model ./my-llama --ratio 0.3 --calibration prompts.jsonl -o out",
        "amp-export doctor --model demo --ratio 0.3",
    ),
)
def convert(
    context: typer.Context,
    to: Annotated[Format | None, typer.Option("--to", help="Run the whole way and export to this format.")] = None,
    model: MaybeModel = None,
    ratio: Ratio = None,
    output: Output = DEFAULT_OUTPUT,
    allocation: AllocationOption = Allocation.BALANCED,
    heads: Heads = HeadPolicy.AUTO,
    snap: Snap = None,
    target: TargetOption = TargetName.CPU,
    heads_per_layer: HeadsPerLayer = PerLayer.UNIFORM,
    neurons_per_layer: NeuronsPerLayer = PerLayer.UNIFORM,
    uniform: UniformOption = Uniform.RESIZE,
    calibration: Calibration = None,
    scores: ScoresOption = None,
    plan: PlanOption = None,
    dtype: DtypeOption = Precision.FLOAT32,
    via: ViaOption = Via.AUTO,
    threads: Threads = None,
    allow_pickle: AllowPickle = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
    _show_version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
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
        from amp_export.budgets import PlanSettings
        from amp_export.console import ConsoleProgress
        from amp_export.converting import ConvertOptions
        from amp_export.converting import convert as run

        chosen_model = model or DEFAULT_MODEL
        chosen_ratio = ratio
        if model is None:
            console.print(f"No --model given: taking {DEFAULT_MODEL}, SmolLM2-135M-Instruct.")
        if ratio is None and plan is None:
            chosen_ratio = DEFAULT_RATIO
            console.print(f"No --ratio given: taking {DEFAULT_RATIO}.")
        settings = None
        if chosen_ratio is not None:
            settings = PlanSettings(chosen_ratio, allocation, heads, snap, target, heads_per_layer, neurons_per_layer)
        options = ConvertOptions(
            precision=dtype,
            via=via,
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

    _run_and_show(work, as_json=as_json, written=output)


@app.command(epilog=_examples("amp-export doctor --model demo --ratio 0.3"))
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
    as_json: Json = False,
) -> None:
    """Say what a ratio would keep, which class can express it and what loads it, before anything heavy runs."""

    def work(console: Any) -> None:
        from amp_export.budgets import PlanSettings
        from amp_export.console import ConsoleProgress, print_json, show_diagnosis
        from amp_export.doctoring import diagnose

        settings = PlanSettings(ratio, allocation, heads, snap, target, heads_per_layer, neurons_per_layer)
        diagnosis = diagnose(model, settings, uniform=uniform, on_status=ConsoleProgress(console).note)
        if as_json:
            print_json(diagnosis.to_json())
        else:
            show_diagnosis(console, diagnosis)

    _run(work)


@app.command(
    epilog=_examples(
        "amp-export prune --model demo --ratio 0.1 --output out",
        "amp-export prune --model demo --plan out/plan.json --output out2",
    )
)
def prune(
    output: Output,
    model: Model = DEFAULT_MODEL,
    ratio: Ratio = None,
    allocation: AllocationOption = Allocation.BALANCED,
    heads: Heads = HeadPolicy.AUTO,
    snap: Snap = None,
    target: TargetOption = TargetName.CPU,
    heads_per_layer: HeadsPerLayer = PerLayer.UNIFORM,
    neurons_per_layer: NeuronsPerLayer = PerLayer.UNIFORM,
    uniform: UniformOption = Uniform.RESIZE,
    calibration: Calibration = None,
    scores: ScoresOption = None,
    plan: PlanOption = None,
    allow_pickle: AllowPickle = False,
    overwrite: Overwrite = False,
) -> None:
    """Score, plan, slice and rewrite: writes scores, plan and a checkpoint that plain transformers loads."""

    def work(console: Any) -> None:
        from amp_export.console import ConsoleProgress
        from amp_export.pruning import prune as run

        result = run(
            model,
            output=output,
            ratio=ratio,
            allocation=allocation,
            heads=heads,
            snap=snap,
            target=target,
            heads_per_layer=heads_per_layer,
            neurons_per_layer=neurons_per_layer,
            uniform=uniform,
            calibration=calibration,
            scores=scores,
            plan=plan,
            allow_pickle=allow_pickle,
            overwrite=overwrite,
            progress=ConsoleProgress(console),
        )
        console.print(f"{result.plan.achieved:.2%} removed. {result.reload}.", soft_wrap=True)
        if result.quality is not None:
            quality = result.quality
            console.print(f"Perplexity {quality.dense:.2f} -> {quality.pruned:.2f} on {quality.text}.", soft_wrap=True)
        for note in result.notes:
            console.print(f"Note: {note}", soft_wrap=True)
        console.print(f"Written: {result.folder}", soft_wrap=True)

    _run(work)


@app.command(epilog=_examples("amp-export export --model out/pruned --to onnx --output out"))
def export(
    output: Output,
    model: Model = DEFAULT_MODEL,
    to: Annotated[Format, typer.Option("--to", help="The format to export to.")] = Format.ONNX,
    dtype: DtypeOption = Precision.FLOAT32,
    via: ViaOption = Via.AUTO,
    allow_pickle: AllowPickle = False,
    overwrite: Overwrite = False,
) -> None:
    """Export any checkpoint, pruned or not."""

    def work(console: Any) -> None:
        from amp_export.console import ConsoleProgress
        from amp_export.exporting import export as run

        result = run(
            model,
            output=output,
            to=to,
            precision=dtype,
            via=via,
            allow_pickle=allow_pickle,
            overwrite=overwrite,
            progress=ConsoleProgress(console),
        )
        console.print(f"Written: {result.folder} ({result.bytes_on_disk / 1e6:.0f} MB)", soft_wrap=True)

    _run(work)


@app.command(epilog=_examples("amp-export validate out"))
def validate(
    output: OutArgument,
    reference: Annotated[Path | None, typer.Option(metavar="CHECKPOINT", help="What was exported.")] = None,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Check that an exported graph computes what its checkpoint computes; exit code 1 if it does not."""

    def work(console: Any) -> Report:
        from amp_export.console import ConsoleProgress
        from amp_export.reporting import Report
        from amp_export.validation import validate as run

        run(output, reference=reference, threads=threads, progress=ConsoleProgress(console))
        return Report.load(output)

    _run_and_show(work, as_json=as_json, written=output)


@app.command(epilog=_examples("amp-export benchmark out"))
def benchmark(
    output: OutArgument,
    against: Annotated[
        Path | None, typer.Option(metavar="OTHER", help="Output of another export.  [default: the dense model]")
    ] = None,
    rounds: Annotated[int, typer.Option(min=2, help="Interleaved rounds.")] = 20,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Measure the gain of a pruned graph over the dense one, interleaved, with a confidence interval."""

    def work(console: Any) -> Report:
        from amp_export.benchmarking import benchmark as run
        from amp_export.console import ConsoleProgress
        from amp_export.reporting import Report

        run(output, against=against, rounds=rounds, threads=threads, progress=ConsoleProgress(console))
        return Report.load(output)

    _run_and_show(work, as_json=as_json, written=output)


@app.command(epilog=_examples("amp-export report out"))
def report(output: OutArgument, as_json: Json = False) -> None:
    """Show the report of an output directory again."""

    def work(_: Any) -> Report:
        from amp_export.reporting import Report

        return Report.load(output)

    _run_and_show(work, as_json=as_json, written=None)


def _run_and_show(work: Callable[[Any], Report], *, as_json: bool, written: Path | None) -> None:
    def show(console: Any) -> None:
        from amp_export.console import print_json, show_report

        report = work(console)
        if as_json:
            print_json(report.to_json())
        else:
            show_report(console, report)
            if written is not None:
                console.print(f"Written: {written}", soft_wrap=True)
        if report.parity is not None and not report.holds:
            raise typer.Exit(1)

    _run(show)


def _run(work: Callable[[Any], None]) -> None:
    """Runs a command; a mistake of the user's ends in a message and an exit code, not in a stack trace."""
    from amp_export.console import show_error, stderr_console

    console = stderr_console()
    try:
        work(console)
    except AmpExportError as error:
        show_error(console, str(error))
        raise typer.Exit(error.exit_code) from error
    except KeyboardInterrupt:
        show_error(console, "Interrupted; nothing was written.")
        # 128 + SIGINT, as shells report it
        raise typer.Exit(130) from None


def main() -> None:
    """The entry point."""
    # tokenizers warns when a process forks after its threads started; the reload proof does
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    app()
