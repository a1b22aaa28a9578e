"""Runs an exported model on ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from amp_export.exporters.onnx.running_decoders import OnnxDecoder
from amp_export.exporters.onnx.running_encoders import OnnxEncoder
from amp_export.exporters.onnx.running_seq2seq import OnnxEncoderDecoder
from amp_export.exporters.onnx.sessions import exported_graphs, open_session, require_runtime
from amp_export.exporters.onnx.threads import usable_cores

OnnxModel = OnnxDecoder | OnnxEncoder | OnnxEncoderDecoder


def run(folder: Path, *, threads: int | None = None, providers: Sequence[str] = ("CPUExecutionProvider",)) -> OnnxModel:
    """Loads an exported model into ONNX Runtime; what kind it is, its files and inputs tell.

    Args:
        folder: What `export` or `trace` wrote.
        threads: How many threads compute one operator; by default one for each core that the process may use.
        providers: ONNX Runtime's execution providers, in order of preference.

    Raises:
        MissingExtraError: onnxruntime is not installed.
        ModelError: The folder holds no graph, or a damaged one.
        RequestError: A provider is not part of the onnxruntime that is installed.
        UnsupportedModelError: The providers lack an operator in the graph's precision.
    """
    require_runtime()
    threads = threads if threads is not None else usable_cores()
    sessions = [open_session(graph, threads=threads, providers=providers) for graph in exported_graphs(folder)]
    if len(sessions) > 1:
        return OnnxEncoderDecoder(*sessions, threads=threads)
    (session,) = sessions
    if any(entry.name.startswith("past_key_values.") for entry in session.get_inputs()):
        return OnnxDecoder(session, threads=threads)
    return OnnxEncoder(session, threads=threads)
