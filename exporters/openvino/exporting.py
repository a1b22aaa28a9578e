"""Converts a folder with ONNX graphs to a folder with models in OpenVINO's format."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from amp_export.checkpoints.companions import find_companions
from amp_export.checkpoints.hashing import directory_size
from amp_export.checkpoints.source_files import copy_files
from amp_export.exporters.files import file_name
from amp_export.exporters.onnx.descriptions import describe_graph
from amp_export.exporters.onnx.genai import GENAI_CONFIG
from amp_export.exporters.onnx.sessions import exported_graphs
from amp_export.exporters.openvino.models import describe, read_model, require_runtime
from amp_export.options import Format

OF_GRAPHS = (".onnx", ".onnx_data")
"""Endings of files that are not copied."""


@dataclass(frozen=True)
class OpenvinoExport:
    """Converted graphs.

    Attributes:
        folder: Folder of the models.
        models: The files in order of execution; the weights of each are next to it.
        bytes_on_disk: Size of all files in the folder.
    """

    folder: Path
    models: tuple[Path, ...]
    bytes_on_disk: int


def export(
    graph_folder: Path, folder: Path, *, on_progress: Callable[[int, int], None] | None = None
) -> OpenvinoExport:
    """Convert exported graphs and copy config and tokenizer. Weights keep their dtype.

    Uses OpenVINO's own reader: its Python converter does the same, but sends telemetry.

    Args:
        graph_folder: Folder that `exporters.onnx` wrote.
        folder: Folder to create.
        on_progress: Called with the number of converted graphs and their total, after each.

    Raises:
        MissingExtraError: OpenVINO is not installed.
        ModelError: There is no graph, or OpenVINO does not support one of its operators.
    """
    require_runtime()
    import openvino

    graphs = exported_graphs(graph_folder)
    folder.mkdir(parents=True, exist_ok=True)
    models = []
    for number, graph in enumerate(graphs, start=1):
        model = read_model(graph)
        describe(model, describe_graph(graph))
        models.append(folder / file_name(graph.stem, Format.OPENVINO))
        openvino.save_model(model, models[-1], compress_to_fp16=False)
        if on_progress is not None:
            on_progress(number, len(graphs))
    beside = {file for file in graph_folder.iterdir() if file.is_file() and file.suffix not in OF_GRAPHS}
    copied = {file for file in beside if file.name != GENAI_CONFIG} | set(find_companions(graph_folder))
    copy_files(sorted(copied), folder, base=graph_folder)
    return OpenvinoExport(folder, tuple(models), directory_size(folder))
