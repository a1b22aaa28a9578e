"""Options of speculative decoding: flag and help for each field."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from amp_export.cli.shared_options import THREADS
from amp_export.options import Dtype, Format, WeightFormat

DRAFT: Mapping[str, Any] = {
    "to": Annotated[
        Format, typer.Option("--to", help="Format of both models: onnx for onnxruntime-genai, gguf for llama.cpp.")
    ],
    "dtype": Annotated[
        Dtype | None, typer.Option("--dtype", help="Dtype of weights and activations of both.  [default: float32]")
    ],
    "weights": Annotated[
        WeightFormat | None,
        typer.Option(
            "--weights",
            help="Store the weights of the pruned model, which drafts, as integers; those that begin with q are for "
            "--to gguf.  [default: in the dtype]",
        ),
    ],
    "block_size": Annotated[
        int | None,
        typer.Option("--block-size", metavar="N", help="Weights that share a scale, with --weights.  [default: 32]"),
    ],
    "draft_tokens": Annotated[
        int,
        typer.Option(
            "--draft-tokens", metavar="N", help="Tokens to draft before the dense model checks them, up to 16."
        ),
    ],
    "measure": Annotated[
        bool,
        typer.Option(
            "--measure/--no-measure",
            help="Compare texts and speed with the dense model alone, in the runtime of the format.",
        ),
    ],
    "texts": Annotated[int, typer.Option("--texts", metavar="N", help="Texts to measure with.")],
    "new_tokens": Annotated[int, typer.Option("--new-tokens", metavar="N", help="Tokens to generate of each.")],
    "threads": THREADS,
}
