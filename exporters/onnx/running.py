"""Runs an exported model on ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from amp_export.exporters.models.kinds import GraphModel, choose_model
from amp_export.exporters.onnx.sessions import CPU_PROVIDER, exported_graphs, open_session, require_runtime
from amp_export.hardware.threads import usable_cores


def run(
    folder: Path, *, threads: int | None = None, providers: Sequence[str] = (CPU_PROVIDER,), exact: bool = False
) -> GraphModel:
    """Load an exported model into ONNX Runtime; its kind is detected from its files and inputs.

    Args:
        folder: Folder that `export` or `trace` wrote.
        threads: Number of intra-op threads; by default one per core that the process may use.
        providers: Execution providers of ONNX Runtime, in order of preference.
        exact: Whether products with quantized weights take activations as they are, instead of rounding them.

    Raises:
        MissingExtraError: onnxruntime is not installed.
        ModelError: The folder holds no graph, or a damaged one.
        RequestError: The installed onnxruntime lacks a provider, or could not start it.
        UnsupportedModelError: The providers do not support an operator in the graph's dtype.
    """
    require_runtime()
    threads = threads if threads is not None else usable_cores()
    sessions = [
        open_session(graph, threads=threads, providers=providers, exact=exact) for graph in exported_graphs(folder)
    ]
    return choose_model(sessions, folder)
