"""Options of what an export is: flag and help for each field."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from amp_export.cli.shared_options import ALLOW_PICKLE, TARGET_NAMES
from amp_export.options import (
    Dtype,
    EngineRuntime,
    Format,
    Layout,
    Logits,
    Operators,
    Opset,
    RoundingMethod,
    TargetName,
    Via,
    WeightFormat,
)

MAX_BATCH = Annotated[
    int, typer.Option("--max-batch", min=1, metavar="N", help="Largest batch of an engine or an ExecuTorch program.")
]
MAX_CONTEXT = Annotated[
    int | None,
    typer.Option(
        "--max-context",
        metavar="N",
        help="Longest sequence of an engine or an ExecuTorch program, KV cache and new tokens together.  [default: "
        "2048, for ExecuTorch 512, or the model's context if shorter]",
    ),
]

EXPORT: Mapping[str, Any] = {
    "to": Annotated[Format, typer.Option("--to", help="Format to export to.")],
    "dtype": Annotated[
        Dtype | None,
        typer.Option("--dtype", help="Dtype of weights and activations.  [default: float32, for an engine float16]"),
    ],
    "opset": Annotated[
        Opset | None,
        typer.Option(
            "--opset", help="ONNX opset; 20 is for TensorRT before 10.15 and older runtimes, 24 for --static-cache."
        ),
    ],
    "operators": Annotated[
        Operators,
        typer.Option(
            "--operators",
            help="Operators of an ONNX graph: those of the standard, or fused ones of ONNX Runtime, which are "
            "faster there, and take no padding.",
        ),
    ],
    "logits": Annotated[
        Logits,
        typer.Option(
            "--logits",
            help="Compute the logits of all tokens, or of the last one, which makes prompts faster in runtimes that "
            "cannot choose: engines and OpenVINO.",
        ),
    ],
    "static_cache": Annotated[
        int | None,
        typer.Option(
            "--static-cache",
            metavar="N",
            help="Give the KV cache of an ONNX graph a fixed length of N tokens, into which each call writes: for "
            "devices that want fixed shapes.  [default: it grows]",
        ),
    ],
    "weights": Annotated[
        WeightFormat | None,
        typer.Option(
            "--weights",
            help="Store the weights of linear layers as integers with a scale for each block, or for TensorRT as fp8; "
            "those that begin with q are for --to gguf.  [default: in the dtype of the graph]",
        ),
    ],
    "block_size": Annotated[
        int | None,
        typer.Option(
            "--block-size",
            metavar="N",
            help="Weights that share a scale, with --weights.  [default: 32, for an engine 128]",
        ),
    ],
    "average_bits": Annotated[
        float | None,
        typer.Option(
            "--average-bits",
            metavar="BITS",
            help="With --weights int4, give 8 bits to the weights that matter most, up to this average, such as 4.3.",
        ),
    ],
    "rounding": Annotated[
        RoundingMethod,
        typer.Option(
            "--rounding",
            help="With --weights int4, round each weight to the nearest, or on text so that others make up for it.",
        ),
    ],
    "layout": Annotated[
        Layout,
        typer.Option(
            "--layout",
            help="Names and places of the files of an ONNX graph: side by side, or as transformers.js takes them in "
            "the browser and in Node.",
        ),
    ],
    "via": Annotated[Via, typer.Option("--via", help="Build the graph directly, or trace the model.")],
    "target": Annotated[
        TargetName | None,
        typer.Option(
            "--target",
            metavar="DEVICE",
            help=f"Device of a TensorRT engine: {TARGET_NAMES}.  [default: the GPU in this machine]",
        ),
    ],
    "runtime": Annotated[
        EngineRuntime | None,
        typer.Option("--runtime", help="TensorRT variant that builds the engine.  [default: the one installed]"),
    ],
    "max_batch": MAX_BATCH,
    "max_context": MAX_CONTEXT,
    "allow_pickle": ALLOW_PICKLE,
}
