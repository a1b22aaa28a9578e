"""Third-party graphs, whose inputs and outputs are recognized by the names that other exporters give them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from amp_export.architectures import PATCH_MASK, SPATIAL_SHAPES, Kind, cache_tensors
from amp_export.errors import ModelError, RequestError
from amp_export.exporters.files import DECODER, DECODER_WITH_PAST, ENCODER, GRAPH
from amp_export.exporters.models.caches import is_past
from amp_export.exporters.models.encoder import GraphEncoder
from amp_export.exporters.models.encoder_decoder import STATES, GraphEncoderDecoder
from amp_export.exporters.models.ports import check_encoder_decoder
from amp_export.exporters.onnx.external_data import check_graph
from amp_export.exporters.onnx.sessions import CPU_PROVIDER, OnnxSession, load_graph, require_runtime
from amp_export.exporters.onnx.third_party_decoders import ThirdPartyDecoder, cache_key
from amp_export.hardware.threads import usable_cores

if TYPE_CHECKING:
    from onnxruntime import OrtValue

    from amp_export.checkpoints.reading import Checkpoint
    from amp_export.exporters.models.session import Session

READ = (
    *("input_ids", "attention_mask", "token_type_ids", "input_features", "input_values"),
    *("pixel_values", PATCH_MASK, SPATIAL_SHAPES),
)
"""Supported inputs of encoders."""

WRITTEN = ("input_ids", "encoder_attention_mask", "encoder_hidden_states")
"""Supported inputs of the decoder of an encoder-decoder, besides the KV cache."""

LOGITS = "logits"

RESULTS = (LOGITS, STATES, "pooler_output", "image_embeds", "text_embeds")
"""Outputs of encoders that are compared, named as in transformers."""

PREFILL, DECODE = "prefill.onnx", "decode.onnx"
"""Files that transformers.exporters writes for generation: a graph for prefill, and one for decode."""


class ThirdPartySession(OnnxSession):
    """A third-party graph, whose input sizes may be fixed."""

    def run(
        self, outputs: Sequence[str], values: Mapping[str, OrtValue], *, keep: Collection[str] = ()
    ) -> list[OrtValue]:
        """See `Session.run`.

        Raises:
            RequestError: The graph does not run on these values.
        """
        try:
            return super().run(outputs, values, keep=keep)
        except Exception as error:  # onnxruntime's errors have no other base class in common
            shapes = (f"{name} {value.shape()}" for name, value in values.items() if cache_key(name) is None)
            raise RequestError(
                f"The graph does not run on {', '.join(shapes)}: {error}\nGive cases of shapes that it supports with "
                "--cases."
            ) from error


def open_third_party(
    path: Path, checkpoint: Checkpoint, *, threads: int | None = None, provider: str = CPU_PROVIDER
) -> ThirdPartyDecoder | GraphEncoder | GraphEncoderDecoder:
    """Load third-party graphs.

    Args:
        path: See `third_party_files`.
        checkpoint: Checkpoint that they were exported from; it gives the kind of model.
        threads: Number of intra-op threads; by default one per core.
        provider: Execution provider of ONNX Runtime.

    Raises:
        MissingExtraError: onnxruntime is not installed.
        ModelError: A graph is missing or damaged, or its weights are outside its folder.
        RequestError: An input or output is not recognized, or the provider is not available.
        UnsupportedModelError: A decoder's graph has no KV cache, or a dtype is not supported.
    """
    require_runtime()
    threads = threads if threads is not None else usable_cores()
    config = checkpoint.config
    files = third_party_files(path, config.architecture.kind)
    for file in files:
        check_graph(file)
    sessions = [
        ThirdPartySession(load_graph(file, threads=threads, providers=[provider]), threads=threads) for file in files
    ]
    if config.architecture.kind is Kind.ENCODER:
        return _open_encoder(sessions[0])
    if config.architecture.kind is Kind.ENCODER_DECODER:
        return _open_encoder_decoder(sessions, path)
    return ThirdPartyDecoder(sessions[0], sessions[-1], cache_tensors(config, checkpoint.widths))


def _open_encoder(session: Session) -> GraphEncoder:
    known = [name for name, port in session.outputs.items() if port.float_dtype is not None and name in RESULTS]
    _check_known(session, READ)
    if not known:
        raise RequestError(
            f"The graph returns {', '.join(session.outputs)}, but needs to return one of these as floating-point "
            "numbers: "
            f"{', '.join(RESULTS)}.\nRename its outputs after the model's outputs."
        )
    return GraphEncoder(session, outputs=known)


def _open_encoder_decoder(sessions: Sequence[Session], path: Path) -> GraphEncoderDecoder:
    encoder, first, later = sessions
    _check_known(encoder, READ)
    for session in (first, later):
        _check_known(session, WRITTEN)
    for session, output in ((encoder, STATES), (first, LOGITS), (later, LOGITS)):
        if next(iter(session.outputs)) != output:
            raise RequestError(
                f"A graph returns {', '.join(session.outputs)}, but its first output must be {output}.\nExport it "
                "with Optimum, whose names and order are supported."
            )
    check_encoder_decoder(sessions, path)
    return GraphEncoderDecoder(encoder, first, later)


def _check_known(session: Session, known: Collection[str]) -> None:
    unknown = [name for name in session.inputs if name not in known and not is_past(name)]
    if unknown:
        raise RequestError(
            f"The graph has unknown inputs: {', '.join(unknown)}.\nKnown inputs are {', '.join(known)}: rename them, "
            "or export with Optimum or transformers."
        )


def third_party_files(path: Path, kind: Kind) -> list[Path]:
    """Return the graphs of a model, in order of execution.

    Args:
        path: The graph, or its folder: with `model.onnx`, or, for a decoder, `prefill.onnx` and `decode.onnx`; for an
            encoder-decoder with three graphs, named as in Optimum.
        kind: Kind of the model.

    Raises:
        ModelError: A graph is missing.
    """
    if kind is Kind.ENCODER_DECODER:
        found = [path / name for name in (ENCODER, DECODER, DECODER_WITH_PAST)]
    elif path.is_dir():
        both = [path / PREFILL, path / DECODE]
        takes_both = kind is Kind.DECODER and all(file.is_file() for file in both)
        found = both if takes_both else [path / GRAPH]
    else:
        found = [path]
    if missing := [file for file in found if not file.is_file()]:
        raise ModelError(f"There is no {missing[0]}.\nGive the path of the graph or of its folder.")
    return found
