"""Options that `compare` and `sweep` share."""

from __future__ import annotations

from typing import Annotated

import typer

_RATIOS = "Shares of all parameters to remove: a list, or a range START:END:STEP."
Ratios = Annotated[str, typer.Option("--ratios", metavar="R,...", help=_RATIOS)]
MaybeRatios = Annotated[
    str | None,
    typer.Option("--ratios", metavar="R,...", help=f"{_RATIOS}  [default with --until or --draft: whole percents]"),
]
ResumePoints = Annotated[
    bool, typer.Option("--resume", help="Keep the points of an earlier run with the same options, and make the others.")
]
Ray = Annotated[
    str | None,
    typer.Option(
        "--ray",
        metavar="ADDRESS",
        help="Make points on a Ray cluster: HOST:PORT, auto, or local to start one.  [default: one by one, here]",
    ),
]
