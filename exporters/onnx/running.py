"""Runs an exported model on ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from amp_export.exporters.models.kinds import GraphModel, choose_model
from amp_export.exporters.onnx.sessions import CPU_PROVIDER, exported_graphs, open_session, require_runtime
from amp_export.hardware.threads import usable_cores


def run(folder: Path, *, threads: int | None = None, providers: Sequence[str] = (CPU_PROVIDER,)) -> GraphModel:
    """Load an exported model into ONNX Runtime; what kind it is, its files and inputs tell.

    Args:
        folder: What `export` or `trace` wrote.
        threads: How many threads compute one operator; by default one for each core that the process may use.
        providers: ONNX Runtime's execution providers, in order of preference.

    Raises:
        MissingExtraError: onnxruntime is not installed.
        ModelError: The folder holds no graph, or a damaged one.
        RequestError: A provider is not part of the onnxruntime that is installed.
        UnsupportedModelError: The providers lack an operator in the graph's dtype.
    """
    require_runtime()
    threads = threads if threads is not None else usable_cores()
    return choose_model(
        [open_session(graph, threads=threads, providers=providers) for graph in exported_graphs(folder)]
    )
