"""Options that several commands have."""

from __future__ import annotations

from typing import Annotated

import typer

from amp_export.options import Provider, TargetName

THREADS = Annotated[int | None, typer.Option(min=1, metavar="N", help="Threads of the runtime.  [default: all cores]")]
PROVIDER = Annotated[Provider, typer.Option("--provider", help="ONNX Runtime execution provider.")]
ALLOW_PICKLE = Annotated[
    bool,
    typer.Option("--allow-pickle", help="Read torch pickles if there is no safetensors file; their code is never run."),
]

TARGET_NAMES = ", ".join(TargetName)
