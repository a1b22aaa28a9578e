"""Turns messages of parsers and builders into errors with advice for the user."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amp_export.errors import AmpExportError, ModelError, RequestError, UnsupportedModelError

if TYPE_CHECKING:
    from amp_export.exporters.tensorrt.flavors import TensorRtFlavor

SHOWN = 5
"""Largest number of operators, or reasons, that an error names."""

_ADVICE: Sequence[tuple[str, str]] = (
    (r"HW-specific datatypes: fp8", "It has no units for fp8. Export with --weights int4."),
    (
        r"not supported by a dedicated kernel|is_decomposable",
        "It has no kernel for this attention. Export with --opset 20, which spells attention out in basic operators.",
    ),
    (
        r"out of memory|OutOfMemory|could not allocate|insufficient memory",
        "The build ran out of memory. Give a smaller --max-batch or --max-context, or build on a larger machine.",
    ),
    (
        r"[Nn]o space left|Failed to write|write error",
        "The disk is full. Free some space, or give another --output.",
    ),
    (
        r"Cuda Runtime|CUDA driver|cudaError",
        "The GPU's driver does not respond. Check nvidia-smi; TensorRT's support matrix lists the driver that it "
        "needs.",
    ),
    (
        "MyelinCheckException",
        "The builder hit an internal error on these operators. Export with older ones: --opset 20.",
    ),
    (
        r"profile|kMIN|kMAX|kOPT",
        "The shapes do not fit the graph. Give another --max-batch or --max-context.",
    ),
)
"""Patterns in a builder's messages, with advice; the first match counts."""


def explain_parse(graph: Path, runtime: TensorRtFlavor, errors: Sequence[Any]) -> AmpExportError:
    """Return the error for a graph that could not be parsed, which names the unsupported operators.

    Args:
        graph: File of the graph.
        runtime: TensorRT variant that parsed it.
        errors: The parser's `ParserError`s.
    """
    if not errors:
        return ModelError(f"{graph} is not a graph that {runtime.label} can read.\nExport it again.")
    nodes = list(
        dict.fromkeys(f"{error.node_operator()} at {error.node_name() or 'an unnamed node'}" for error in errors)
    )
    shown = "; ".join(nodes[:SHOWN]) + (f"; and {len(nodes) - SHOWN} more" if len(nodes) > SHOWN else "")
    opset = _opset(graph)
    if runtime.newest_opset is not None and opset is not None and opset > runtime.newest_opset:
        advice = (
            f"The graph has opset {opset}, but the newest supported is {runtime.newest_opset}: export with --opset 20."
        )
    else:
        reasons = {error.desc() for error in errors} - {"false", ""}
        advice = "\n".join(
            [*sorted(reasons)[:SHOWN], "Export the model with amp-export, whose graphs do not use this operator."]
        )
    return UnsupportedModelError(f"{runtime.label} does not support {shown}.\n{advice}")


def explain_build(graph: Path, runtime: TensorRtFlavor, messages: Sequence[str]) -> AmpExportError:
    """Return the error for an engine that could not be built.

    Args:
        graph: File of the graph.
        runtime: TensorRT variant that built it.
        messages: Its error messages, without warnings.
    """
    said = "\n".join(messages)
    advice = next((advice for pattern, advice in _ADVICE if re.search(pattern, said)), "")
    first = _shorten(messages[0]) if messages else "It gave no reason."
    return RequestError(f"{runtime.label} could not build an engine from {graph}.\n{first}\n{advice}".rstrip())


def _opset(graph: Path) -> int | None:
    import onnx

    model = onnx.load(graph, load_external_data=False)
    return next((entry.version for entry in model.opset_import if entry.domain == ""), None)


def _shorten(message: str, limit: int = 300) -> str:
    line = " ".join(message.split())
    return line if len(line) <= limit else f"{line[:limit]}…"
