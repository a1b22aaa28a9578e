"""The options of the command line, one for each name: what several commands take is the same in all of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from amp_export.options import (
    Allocation,
    EngineRuntime,
    Format,
    HeadPolicy,
    Opset,
    PerLayer,
    Precision,
    Provider,
    TargetName,
    Uniform,
    Via,
)

DEFAULT_MODEL = "demo"
DEFAULT_RATIO = 0.1
DEFAULT_OUTPUT = Path("out")

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
    int | None, typer.Option(metavar="N", help="Keep a multiple of N neurons.  [default: 16, for a GPU 64]")
]
TargetOption = Annotated[
    TargetName, typer.Option("--target", metavar="DEVICE", help=f"What will run it: {', '.join(TargetName)}.")
]
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
OpsetOption = Annotated[
    Opset | None, typer.Option("--opset", help="ONNX operators: 20 is for TensorRT before 10.15 and older runtimes.")
]
DtypeOption = Annotated[
    Precision | None, typer.Option("--dtype", help="Precision of the graph.  [default: float32, for an engine float16]")
]
RuntimeOption = Annotated[
    EngineRuntime | None, typer.Option("--runtime", help="What builds an engine.  [default: what is installed]")
]
MaxBatch = Annotated[
    int,
    typer.Option(
        "--max-batch", min=1, metavar="N", help="The largest batch that an engine or an ExecuTorch program takes."
    ),
]
MaxContext = Annotated[
    int | None,
    typer.Option(
        "--max-context",
        metavar="N",
        help="The most tokens of a text, past and new ones together.  [default: 2048, for ExecuTorch 512, or the "
        "model's context]",
    ),
]
EngineTarget = Annotated[
    TargetName | None, typer.Option("--target", help="The device of an engine.  [default: the GPU in this machine]")
]
WhichExport = Annotated[Format, typer.Option("--to", help="Which export of it.")]
ProviderOption = Annotated[Provider, typer.Option("--provider", help="What computes a graph within ONNX Runtime.")]
Threads = Annotated[int | None, typer.Option(min=1, metavar="N", help="Threads of the runtime.  [default: all cores]")]
AllowPickle = Annotated[
    bool,
    typer.Option("--allow-pickle", help="Read torch pickles where there is no safetensors; runs no code of theirs."),
]
Against = Annotated[
    Path | None, typer.Option(metavar="OTHER", help="Output of another export.  [default: the dense model]")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an earlier result.")]
Json = Annotated[bool, typer.Option("--json", help="Print the report on stdout as JSON, and nothing else.")]


def read_numbers(option: str, text: str) -> tuple[int, ...]:
    """The numbers of an option that takes several, separated by commas.

    Raises:
        RequestError: One of them is no whole number above 0.
    """
    from amp_export.errors import RequestError

    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() and int(word) > 0 for word in words):
        raise RequestError(
            f"{option} is {text!r}; it is one whole number above 0, or several separated by commas.\n"
            f"For example: {option} 1,4,16"
        )
    return tuple(dict.fromkeys(map(int, words)))
