"""Exports a vision-language model as three graphs: vision encoder, token embedding, and a decoder of embeddings.

Files, inputs and outputs are named as transformers.js 4.3.2 names them, and with it the models on the hub that are
exported for it: `MODEL_SESSION_CONFIG`, src/models/session_config.js; `encode_image`, `encode_text` and
`generic_text_to_text_forward`, src/models/modeling_utils.js. onnxruntime-genai 0.18 has none of these types but Gemma 3,
whose decoder it gives no types of tokens, so that images would be read causally: `IsVLM`, src/models/model_type.h;
src/models/multi_modal.cpp.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from amp_export.checkpoints.companions import find_companions
from amp_export.checkpoints.loading import load_whole
from amp_export.checkpoints.older_versions import name_tokenizer_class, write_config
from amp_export.checkpoints.source_files import copy_files
from amp_export.checkpoints.vision_language import tell_parts
from amp_export.documents import read_object
from amp_export.exporters.files import EMBED_TOKENS, MERGED_DECODER, data_name, file_name
from amp_export.exporters.onnx.builder.embedding import build_embedding
from amp_export.exporters.onnx.builder.entries import Entry
from amp_export.exporters.onnx.builder.layout import lay_out_embedding
from amp_export.exporters.onnx.builder.weights import write_weights
from amp_export.exporters.onnx.exporting import GraphChoices, write_decoder
from amp_export.options import Format

if TYPE_CHECKING:
    from amp_export.architectures._vision_language import ImageInput
    from amp_export.checkpoints.reading import Checkpoint
    from amp_export.exporters.tracing.jobs import Job


@dataclass(frozen=True)
class PartsOf:
    """What the parts are exported from.

    Attributes:
        whole: The vision-language model.
        reads_images: Whether its vision encoder is exported; without it, the parts read text alone.
    """

    whole: Path
    reads_images: bool = True


def export_parts(
    checkpoint: Checkpoint,
    folder: Path,
    parts: PartsOf,
    choices: GraphChoices,
    *,
    on_progress: Callable[[int, int], None] | None = None,
) -> None:
    """Export a vision-language model into a folder, with config, processor and tokenizer beside the graphs.

    - `vision_encoder.onnx` maps `pixel_values`, and `pixel_attention_mask` if the type has one, to `image_features`. It
      is traced: see `exporters.tracing.vision`.
    - `embed_tokens.onnx` maps `input_ids` to `inputs_embeds`.
    - `decoder_model_merged.onnx` is the decoder: see `build_graph`.

    Each has its weights beside it. Those of vision encoder and embedding have the graphs' dtype; only the decoder's are
    quantized.

    Args:
        checkpoint: The language model, as a checkpoint of its own.
        folder: Folder to create; an existing folder must be empty.
        parts: The whole, of a type without `not_exported`, and which of its parts are wanted.
        choices: How the decoder's graph is made.
        on_progress: Called with the number of written layers of the decoder and their total, after each.

    Raises:
        AmpExportError: See `exporting.export` and `tracing.trace`.
    """
    facts = tell_parts(parts.whole).facts
    entry = Entry.EMBEDDINGS_AND_TYPES if facts.sees_images_whole else Entry.EMBEDDINGS
    decoder = folder / file_name(MERGED_DECODER, Format.ONNX)
    write_decoder(checkpoint, decoder, choices, entry=entry, on_progress=on_progress)
    _write_embedding(checkpoint, folder, choices)
    if parts.reads_images:
        _trace_vision(parts.whole, folder, choices, facts.images)
    write_config(folder, read_object(parts.whole / "config.json"))
    copy_files(find_companions(parts.whole), folder, base=parts.whole)
    name_tokenizer_class(folder)


def _write_embedding(checkpoint: Checkpoint, folder: Path, choices: GraphChoices) -> None:
    file, stored = folder / file_name(EMBED_TOKENS, Format.ONNX), lay_out_embedding(checkpoint.config, choices.dtype)
    weights = data_name(file)
    model = build_embedding(checkpoint.config, stored, dtype=choices.dtype, opset=choices.opset, data_file=weights.name)
    file.write_bytes(model.SerializeToString())
    write_weights(checkpoint, stored, weights, dtype=choices.dtype)


def _trace_vision(whole: Path, folder: Path, choices: GraphChoices, images: ImageInput) -> None:
    import torch

    from amp_export.exporters.onnx.traced_files import write
    from amp_export.exporters.onnx.tracing import trace_job
    from amp_export.exporters.tracing.environment import named_errors, quiet
    from amp_export.exporters.tracing.vision import vision_job

    model = load_whole(whole, dtype=getattr(torch, choices.dtype.value))
    with named_errors(model), quiet():
        job: Job = vision_job(model, images)
        traced = trace_job(model, job, choices.opset)
    write({folder / job.file: traced}, data_name(folder / job.file))
