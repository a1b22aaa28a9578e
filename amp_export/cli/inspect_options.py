"""Options of what is found out about a model: flag and help for each field."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

ArchitectureOption = Annotated[
    Path | None,
    typer.Option(
        "--architecture",
        metavar="FILE",
        help="Facts about the model's type, from amp-export inspect.  [default: found out, if none describe it]",
    ),
]

INSPECT: Mapping[str, Any] = {
    "facts": Annotated[
        Path | None,
        typer.Option(
            "--facts",
            "-o",
            metavar="FILE",
            help="Python file to write the facts to.  [default: of types that nothing describes, one in the cache]",
        ),
    ],
    "architecture": Annotated[
        Path | None,
        typer.Option("--architecture", metavar="FILE", help="Prove the facts in a file, instead of finding them out."),
    ],
    "overwrite": Annotated[bool, typer.Option("--overwrite", help="Replace the file of facts.")],
}
