"""Checks of `--static-cache`, which gives the KV cache of a graph a fixed length."""

from __future__ import annotations

from typing import TYPE_CHECKING

from amp_export.errors import RequestError
from amp_export.options import Format, Layout, Operators, Opset
from amp_export.verb_options import ExportOptions

if TYPE_CHECKING:
    from amp_export.architectures import ModelConfig


def check_static_cache(length: int, options: ExportOptions, config: ModelConfig, *, in_parts: bool) -> None:
    """Check that a decoder's graph can have a KV cache of a fixed length.

    Args:
        length: The length, in tokens.
        options: The other options.
        config: Config of the model.
        in_parts: Whether it is the language model within a vision-language model whose parts are exported.

    Raises:
        RequestError: It cannot.
    """
    asked = f"--static-cache {length}"
    if options.to is not Format.ONNX:
        raise RequestError(f"{asked} is for ONNX graphs, not for --to {options.to}.\nGive --to onnx, or leave it out.")
    if options.operators is not Operators.STANDARD:
        raise RequestError(
            f"{asked} is for the operators of the standard; those of ONNX Runtime write into a cache of any length.\n"
            f"Leave one of {asked} and --operators {options.operators} out."
        )
    if options.opset is not None and options.opset.version < Opset.OPSET_24.version:
        raise RequestError(
            f"{asked} needs TensorScatter, which opset {options.opset} does not have.\nLeave --opset out, or give "
            f"--opset {Opset.OPSET_24}."
        )
    if options.layout is not Layout.FLAT:
        raise RequestError(
            f"{asked} adds the input write_indices, which {options.layout} does not give.\nLeave one of {asked} and "
            f"--layout {options.layout} out."
        )
    if in_parts:
        raise RequestError(
            f"{asked} is for decoders of tokens, and this model is exported in parts.\nLeave it out, or export the "
            "language model alone."
        )
    if config.architecture.keeps_states:
        raise RequestError(
            f"{asked} is for caches of keys and values, and that of a {config.architecture.model_type} holds states, "
            "too.\nLeave it out."
        )
    if not 1 <= length <= (config.context or length):
        raise RequestError(
            f"{asked} is out of range: the model has positions for {config.context} tokens.\n"
            f"Give 1 to {config.context}."
        )
