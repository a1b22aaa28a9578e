"""An exported folder's files: models in OpenVINO's format, and what is written in them about their graphs.

The format keeps the names of inputs and outputs, but not those of axes: they lie in the model as text.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from amp_export.documents import convert, parse_json, to_json
from amp_export.errors import ModelError
from amp_export.exporters.files import exported_files
from amp_export.exporters.onnx.descriptions import GraphDescription
from amp_export.extras import require_extra
from amp_export.options import Format

if TYPE_CHECKING:
    import openvino

DESCRIPTION = ["amp_export", "graph"]
"""Where it lies in the model's `rt_info`."""


def describe(model: openvino.Model, graph: GraphDescription) -> None:
    """Write into a model what is known of the graph that it was converted from."""
    model.set_rt_info(to_json(graph), DESCRIPTION)


def description_of(model: openvino.Model, file: Path) -> GraphDescription:
    """Read what is written in a model.

    Raises:
        ModelError: Nothing is, or it is damaged.
    """
    try:
        text = str(model.get_rt_info(DESCRIPTION).astype(str))
        content = parse_json(text, source=str(file), error=ModelError)
        return convert(content, GraphDescription, source=str(file), error=ModelError)
    except (RuntimeError, TypeError, ValueError) as error:
        raise ModelError(f"{file} is not a model that amp-export wrote: {error}\nExport it again.") from error


def require_runtime() -> None:
    """Import OpenVINO, so that its absence is known before any work is done.

    Raises:
        MissingExtraError: It is not installed.
    """
    require_extra("openvino", "openvino", needed_for="OpenVINO")


def is_openvino(folder: Path) -> bool:
    """Return whether a folder is one of models in OpenVINO's format."""
    return any(folder.glob("openvino_*.xml"))


def read_model(file: Path) -> openvino.Model:
    """Read a model, or an ONNX graph.

    Raises:
        ModelError: It is damaged, or OpenVINO lacks an operator of it.
    """
    import openvino

    try:
        return openvino.Core().read_model(file)
    except RuntimeError as error:
        raise ModelError(f"OpenVINO cannot read {file}: {last_line(error)}\nExport it again.") from error


def read_description(folder: Path) -> GraphDescription:
    """Return what is known of the graph of a folder that is run last.

    Raises:
        MissingExtraError: OpenVINO is not installed.
        ModelError: The folder holds no model, or a damaged one.
    """
    require_runtime()
    file = exported_files(folder, Format.OPENVINO)[-1]
    return description_of(read_model(file), file)


def last_line(error: Exception) -> str:
    """Return what an error of OpenVINO's says; the lines before name its own source files."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
