"""Settings of GGUF files, resolved and checked before anything is written."""

from __future__ import annotations

from typing import TYPE_CHECKING

from amp_export.errors import RequestError, UnsupportedModelError
from amp_export.exporters.gguf.blocks import BLOCK, QUANTIZED
from amp_export.exporters.gguf.routes import KEPT_HEADS, needs_all_heads, refuse_route
from amp_export.exporters.onnx.quantization import Quantization
from amp_export.options import Dtype, Format, Logits, RoundingMethod, Via
from amp_export.verb_options import ExportOptions

if TYPE_CHECKING:
    from amp_export.architectures import ModelConfig
    from amp_export.checkpoints.reading import Checkpoint


def choose_gguf(checkpoint: Checkpoint, options: ExportOptions) -> tuple[Dtype, Quantization | None]:
    """Return the dtype and the quantization of a GGUF file.

    Raises:
        RequestError: An option is for other formats, or blocks do not divide the weights.
        UnsupportedModelError: llama.cpp has no architecture for the checkpoint.
        MissingExtraError: The library gguf is not installed.
    """
    from amp_export.exporters import gguf
    from amp_export.exporters.gguf.exporting import check, choose_kind

    _check_options(options)
    gguf.require_writer()
    dtype = options.dtype or Dtype.FLOAT32
    check(checkpoint, choose_kind(dtype, options.weights))
    return dtype, Quantization(options.weights, BLOCK) if options.weights is not None else None


def check_formats(options: ExportOptions) -> None:
    """Refuse the blocks of GGUF files for other formats.

    Raises:
        RequestError: They are asked for.
    """
    if options.weights in QUANTIZED and options.to is not Format.GGUF:
        raise RequestError(
            f"--weights {options.weights} are blocks of GGUF files, not of --to {options.to}.\nGive --weights int8 or "
            "int4, or --to gguf."
        )


def check_plan(config: ModelConfig, to: Format, *, differ: bool, fewer_heads: bool) -> None:
    """Refuse a plan that a GGUF file cannot express, before the model is pruned by it.

    Args:
        config: Config of the dense model.
        to: Format of the export.
        differ: Whether layers may keep different widths.
        fewer_heads: Whether they may keep fewer query heads.

    Raises:
        UnsupportedModelError: llama.cpp has no architecture for the result; the message names a plan that has one.
    """
    if to is not Format.GGUF:
        return
    if (reason := refuse_route(config, differ=differ)) is not None:
        raise UnsupportedModelError(reason)
    if fewer_heads and needs_all_heads(config):
        family = config.architecture.model_type
        raise UnsupportedModelError(f"llama.cpp computes a {family} only with all its query heads.\n{KEPT_HEADS}")


def _check_options(options: ExportOptions) -> None:
    """Raise RequestError if an option has no meaning for GGUF files.

    Raises:
        RequestError: One is given.
    """
    given = {
        "--opset": options.opset is not None,
        "--logits last": options.logits is not Logits.ALL,
        "--via": options.via is not Via.AUTO,
        "--block-size": options.block_size is not None,
        "--average-bits": options.average_bits is not None,
        "--rounding gptq": options.rounding is not RoundingMethod.NEAREST,
        "--target": options.target is not None,
        "--runtime": options.runtime is not None,
        "--max-batch": options.max_batch != 1,
        "--max-context": options.max_context is not None,
    }
    if named := [name for name, is_given in given.items() if is_given]:
        raise RequestError(f"{' and '.join(named)} would have no effect with --to gguf.\nLeave it out.")
    known = ", ".join(QUANTIZED)
    if options.weights is not None and options.weights not in QUANTIZED:
        raise RequestError(
            f"--weights {options.weights} is for graphs, and GGUF files have blocks of their own.\nGive one of {known}."
        )
    if options.weights is not None and options.dtype is not None:
        raise RequestError(
            f"--weights {options.weights} and --dtype {options.dtype} both say how a GGUF file stores weights.\n"
            "Give one of them."
        )
