"""Exports a vision-language model as three graphs: vision encoder, token embedding, and a decoder of embeddings.

Files, inputs and outputs are named as transformers.js 4.3.2 names them, and with it the models on the hub that are
exported for it: `MODEL_SESSION_CONFIG`, src/models/session_config.js; `encode_image`, `encode_text` and
`generic_text_to_text_forward`, src/models/modeling_utils.js. onnxruntime-genai reads names from a file, and wants a
graph that puts images into embeddings: see `genai_vision`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from amp_export.architectures._vision_language import VISION_LANGUAGE
from amp_export.checkpoints.companions import find_companions
from amp_export.checkpoints.loading import load_whole
from amp_export.checkpoints.older_versions import name_tokenizer_class, write_config
from amp_export.checkpoints.source_files import copy_files
from amp_export.checkpoints.vision_language import read_axes, tell_parts
from amp_export.documents import read_object
from amp_export.errors import ModelError, RequestError, UnsupportedModelError
from amp_export.exporters.files import (
    EMBED_TOKENS,
    MERGED_DECODER,
    VISION_ENCODER,
    data_name,
    file_name,
    find_parts,
)
from amp_export.exporters.onnx.builder.embedding import build_embedding
from amp_export.exporters.onnx.builder.entries import Entry
from amp_export.exporters.onnx.builder.layout import lay_out_embedding
from amp_export.exporters.onnx.builder.weights import write_weights
from amp_export.exporters.onnx.exporting import GraphChoices, write_decoder
from amp_export.exporters.onnx.external_data import link_data
from amp_export.exporters.onnx.genai_vision import describe_parts
from amp_export.exporters.onnx.grid_encoders import read_grid_config, write_grid_encoder
from amp_export.exporters.onnx.support import can_build
from amp_export.extras import require_extra
from amp_export.options import Format, Operators, Via

if TYPE_CHECKING:
    from amp_export.architectures import ModelConfig
    from amp_export.architectures._vision_language import ImageInput
    from amp_export.checkpoints.reading import Checkpoint
    from amp_export.exporters.tracing.jobs import Job

_IMAGE_TOKENS = ("image_token_id", "image_token_index")
"""Fields of config.json that name the token in whose places images are."""


@dataclass(frozen=True)
class PartsOf:
    """What the parts are exported from.

    Attributes:
        whole: The vision-language model.
        encoder: An export with the same vision encoder, which is then taken from there; None to trace it.
    """

    whole: Path
    encoder: Path | None = None


def find_obstacle(whole: Path) -> str | None:
    """Return why the parts of a vision-language model cannot be exported, by its type and that of its vision encoder.

    Returns:
        The reason, as a clause; None if nothing is known against it.
    """
    raw = read_object(whole / "config.json", error=ModelError)
    facts = VISION_LANGUAGE[raw["model_type"]]
    if facts.not_exported is not None:
        return facts.not_exported
    vision = raw.get("vision_config")
    encoder = vision.get("model_type") if isinstance(vision, dict) else None
    if not facts.encoders or encoder is None or encoder in facts.encoders:
        return None
    return (
        f"its vision encoder is of the type {encoder}, and only {' or '.join(facts.encoders)} can be traced within it"
    )


def check_parts(parts: PartsOf, config: ModelConfig, via: Via, operators: Operators) -> None:
    """Check that the parts of a vision-language model can be exported, before any work.

    Args:
        parts: The vision-language model.
        config: Config of its language model.
        via: How the decoder's graph is made.
        operators: Its operators.

    Raises:
        UnsupportedModelError: Its type, or its language model, cannot be exported in parts.
        RequestError: An option does not apply to it.
        MissingExtraError: onnxscript is not installed, which tracing needs.
    """
    raw = read_object(parts.whole / "config.json", error=ModelError)
    facts, model_type = VISION_LANGUAGE[raw["model_type"]], raw["model_type"]
    alone = (
        "Export its language model alone, which reads text: prune the model, and name the folder `pruned` of that "
        "output with --model."
    )
    if (reason := find_obstacle(parts.whole)) is not None:
        raise UnsupportedModelError(f"The parts of a {model_type} cannot be exported to ONNX yet: {reason}.\n{alone}")
    if via is not Via.DIRECT:
        why = can_build(config) or "--via trace is given.\nLeave it out."
        raise UnsupportedModelError(
            f"The decoder of a vision-language model is built directly, from embeddings, and here it is not: {why}"
        )
    if facts.sees_images_whole and operators is Operators.ONNXRUNTIME:
        raise RequestError(
            f"--operators onnxruntime has no attention in which all tokens of an image see each other, as in a "
            f"{model_type}.\nLeave it out."
        )
    token = next((raw[name] for name in _IMAGE_TOKENS if name in raw), None)
    if token is not None and token >= config.vocab_size:
        raise UnsupportedModelError(
            f"config.json: the token for images is {token}, but the vocabulary has {config.vocab_size} tokens, so that "
            f"no embedding can be looked up for it.\n{alone}"
        )
    if read_grid_config(parts.whole) is None:
        require_extra("onnxscript", "trace", needed_for="Tracing a vision encoder")


def export_parts(
    checkpoint: Checkpoint,
    folder: Path,
    parts: PartsOf,
    choices: GraphChoices,
    *,
    on_progress: Callable[[int, int], None] | None = None,
) -> None:
    """Export a vision-language model into a folder, with config, processor and tokenizer beside the graphs.

    - `vision_encoder.onnx` maps `pixel_values`, and what else the type has, to `image_features`. It is traced, see
      `exporters.tracing.vision`, or built directly where it takes patches: see `build_grid_encoder`.
    - `embed_tokens.onnx` maps `input_ids` to `inputs_embeds`.
    - `decoder_model_merged.onnx` is the decoder: see `build_graph`.
    - What onnxruntime-genai needs is beside them, where it runs the type: see `genai_vision.describe_parts`.

    Each has its weights beside it. Those of vision encoder and embedding have the graphs' dtype; only the decoder's are
    quantized.

    Args:
        checkpoint: The language model, as a checkpoint of its own.
        folder: Folder to create; an existing folder must be empty.
        parts: The whole, of a type without `not_exported`.
        choices: How the decoder's graph is made.
        on_progress: Called with the number of written layers of the decoder and their total, after each.

    Raises:
        AmpExportError: See `exporting.export` and `tracing.trace`.
    """
    facts = tell_parts(parts.whole).facts
    axes, grids = read_axes(parts.whole, checkpoint.config.head_dim), read_grid_config(parts.whole)
    deep = len(grids.deep_blocks) if grids is not None else 0
    entry = Entry(reads_tokens=False, reads_types=facts.sees_images_whole, axes=axes, deep_layers=deep)
    decoder = folder / file_name(MERGED_DECODER, Format.ONNX)
    inputs = write_decoder(checkpoint, decoder, choices, entry=entry, on_progress=on_progress)
    write_embedding(checkpoint, folder / file_name(EMBED_TOKENS, Format.ONNX), choices, deep_layers=deep)
    vision = folder / file_name(VISION_ENCODER, Format.ONNX)
    if parts.encoder is not None and (found := find_parts(parts.encoder)) is not None:
        link_data(found[0], vision, {data_name(found[0]).name: data_name(vision).name})
    elif grids is not None:
        write_grid_encoder(parts.whole, vision, grids, dtype=choices.dtype, opset=choices.opset)
    else:
        _trace_vision(parts.whole, vision, choices, facts.images)
    describe_parts(checkpoint, folder, parts.whole, choices, inputs=inputs, deep_layers=deep)
    write_config(folder, read_object(parts.whole / "config.json"))
    copy_files(find_companions(parts.whole), folder, base=parts.whole)
    name_tokenizer_class(folder)


def write_embedding(checkpoint: Checkpoint, file: Path, choices: GraphChoices, *, deep_layers: int = 0) -> None:
    """Write the graph of a token embedding, and its weights beside it.

    Args:
        checkpoint: Checkpoint of the decoder.
        file: The graph.
        choices: How the decoder's graph is made; its dtype and opset apply.
        deep_layers: See `Entry`.

    Raises:
        ModelError: A weight is NaN or infinite.
        RequestError: A weight is too large for the dtype.
    """
    config, dtype, weights = checkpoint.config, choices.dtype, data_name(file)
    stored = lay_out_embedding(config, dtype)
    model = build_embedding(
        config, stored, dtype=dtype, opset=choices.opset, data_file=weights.name, deep_layers=deep_layers
    )
    file.write_bytes(model.SerializeToString())
    write_weights(checkpoint, stored, weights, dtype=dtype)


def _trace_vision(whole: Path, file: Path, choices: GraphChoices, images: ImageInput) -> None:
    import torch

    from amp_export.exporters.onnx.traced_files import write
    from amp_export.exporters.onnx.traced_fixes import take_float32
    from amp_export.exporters.onnx.tracing import trace_job
    from amp_export.exporters.tracing.environment import named_errors, quiet
    from amp_export.exporters.tracing.vision import vision_job

    model = load_whole(whole, dtype=getattr(torch, choices.dtype.value), layers=False)
    with named_errors(model), quiet():
        job: Job = vision_job(model, images)
        traced = trace_job(model, job, choices.opset)
    # as processors make them
    take_float32(traced, "pixel_values")
    write({file: traced}, data_name(file))
