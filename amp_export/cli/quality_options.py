"""Options of the commands that show how well a model writes: flag and help for each field."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from amp_export.cli.shared_options import ALLOW_PICKLE, PROVIDER, THREADS
from amp_export.options import Format

EVALUATE: Mapping[str, Any] = {
    "tasks": Annotated[
        list[str] | None,
        typer.Option(
            "--tasks",
            metavar="TASK",
            help="A file of questions (.jsonl), a task of the LM Evaluation Harness by its name, or its .yaml "
            "file; may be given several times.",
        ),
    ],
    "perplexity": Annotated[
        Path | None, typer.Option("--perplexity", metavar="FILE", help="Text to measure perplexity on (.txt).")
    ],
    "prompts": Annotated[
        Path | None,
        typer.Option(
            "--generate", metavar="FILE", help="Prompts (.txt, .jsonl) to write text after, and count repetition."
        ),
    ],
    "to": Annotated[
        Format | None,
        typer.Option("--to", help="Evaluate this export of OUT in its runtime.  [default: the checkpoint, in PyTorch]"),
    ],
    "against": Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Model or OUT to compare with.  [default: the dense model of an OUT]"),
    ],
    "limit": Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Take only the first N questions, windows and prompts of each file."),
    ],
    "window": Annotated[
        int | None,
        typer.Option(metavar="N", help="Tokens of a window.  [default: 1024, or what the models take if less]"),
    ],
    "stride": Annotated[
        int | None,
        typer.Option(metavar="N", help="Tokens from one window's start to the next.  [default: half of the window]"),
    ],
    "new_tokens": Annotated[
        int, typer.Option("--new-tokens", min=1, metavar="N", help="Most tokens to write after a prompt.")
    ],
    "few_shot": Annotated[
        int | None,
        typer.Option(
            "--few-shot",
            min=0,
            metavar="N",
            help="Examples before each question of the harness' tasks.  [default: what each task says]",
        ),
    ],
    "allow_pickle": ALLOW_PICKLE,
}
"""The options of `evaluate`."""

GENERATE: Mapping[str, Any] = {
    "prompt": Annotated[
        list[str] | None,
        typer.Option(
            "--prompt", "-p", metavar="TEXT", help="Text to go on from, - for stdin; may be given several times."
        ),
    ],
    "prompts": Annotated[
        Path | None, typer.Option("--prompts", metavar="FILE", help="File of prompts (.txt, .jsonl).")
    ],
    "chat": Annotated[
        bool, typer.Option("--chat", help="A prompt is what a user says, in the tokenizer's chat template.")
    ],
    "to": Annotated[
        Format | None,
        typer.Option(
            "--to",
            help="Run this export of OUT in its runtime.  [default: the first that OUT has, or else its checkpoint, in "
            "PyTorch]",
        ),
    ],
    "against": Annotated[
        str | None,
        typer.Option(
            metavar="MODEL", help="Model or OUT to show beside it; dense is the dense model that OUT was made from."
        ),
    ],
    "new_tokens": Annotated[
        int, typer.Option("--new-tokens", "-n", min=1, metavar="N", help="Most tokens to generate after a prompt.")
    ],
    "stop": Annotated[
        list[str] | None,
        typer.Option("--stop", metavar="TEXT", help="String to stop before; may be given several times."),
    ],
    "temperature": Annotated[
        float,
        typer.Option("--temperature", "-t", metavar="T", help="Divisor of the logits; 0 takes the most likely token."),
    ],
    "top_k": Annotated[int | None, typer.Option("--top-k", metavar="K", help="Draw from the K most likely tokens.")],
    "top_p": Annotated[
        float | None,
        typer.Option("--top-p", metavar="P", help="Draw from the most likely tokens that have the probability P."),
    ],
    "min_p": Annotated[
        float | None,
        typer.Option("--min-p", metavar="P", help="Draw from tokens at least P times as likely as the most likely."),
    ],
    "repetition_penalty": Annotated[
        float,
        typer.Option("--repetition-penalty", metavar="X", help="Make tokens less likely that the text has already."),
    ],
    "seed": Annotated[int, typer.Option("--seed", min=0, metavar="N", help="Seed of what is drawn.")],
    "batch_size": Annotated[
        int, typer.Option("--batch-size", min=1, metavar="N", help="Most prompts to run together.")
    ],
    "threads": THREADS,
    "provider": PROVIDER,
    "allow_pickle": ALLOW_PICKLE,
}
"""The options of `generate`."""
