"""Files of an exported folder: models in OpenVINO's format, with metadata about their graphs.

The format keeps the names of inputs and outputs, but not those of axes: these are stored as text in the model.
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
"""Path of the metadata in the model's `rt_info`."""


def describe(model: openvino.Model, graph: GraphDescription) -> None:
    """Write metadata of the original graph into a model."""
    model.set_rt_info(to_json(graph), DESCRIPTION)


def description_of(model: openvino.Model, file: Path) -> GraphDescription:
    """Read the metadata of a model.

    Raises:
        ModelError: The metadata is missing or damaged.
    """
    try:
        text = str(model.get_rt_info(DESCRIPTION).astype(str))
        content = parse_json(text, source=str(file), error=ModelError)
        return convert(content, GraphDescription, source=str(file), error=ModelError)
    except (RuntimeError, TypeError, ValueError) as error:
        raise ModelError(f"{file} is not a model that amp-export wrote: {error}\nExport it again.") from error


def require_runtime() -> None:
    """Import OpenVINO, so that it fails early if it is not installed.

    Raises:
        MissingExtraError: It is not installed.
    """
    require_extra("openvino", "openvino", needed_for="OpenVINO")


def is_openvino(folder: Path) -> bool:
    """Return whether a folder holds models in OpenVINO's format."""
    return any(folder.glob("openvino_*.xml"))


def read_model(file: Path) -> openvino.Model:
    """Read a model, or an ONNX graph.

    Raises:
        ModelError: It is damaged, or OpenVINO does not support one of its operators.
    """
    import openvino

    try:
        return openvino.Core().read_model(file)
    except RuntimeError as error:
        raise ModelError(f"OpenVINO cannot read {file}: {last_line(error)}\nExport it again.") from error


def read_description(folder: Path) -> GraphDescription:
    """Return the metadata of the last graph of a folder.

    Raises:
        MissingExtraError: OpenVINO is not installed.
        ModelError: The folder holds no model, or a damaged one.
    """
    require_runtime()
    file = exported_files(folder, Format.OPENVINO)[-1]
    return description_of(read_model(file), file)


def last_line(error: Exception) -> str:
    """Return the last line of OpenVINO's error; the lines before it name its own source files."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
