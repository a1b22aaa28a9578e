"""Runs an exported model on OpenVINO, on the CPU."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amp_export.errors import UnsupportedModelError
from amp_export.exporters.files import exported_files
from amp_export.exporters.models.kinds import GraphModel, choose_model
from amp_export.exporters.models.session import Session, widen_bfloat16
from amp_export.exporters.openvino.models import description_of, last_line, read_model, require_runtime
from amp_export.hardware.threads import usable_cores
from amp_export.options import Dtype, Format

if TYPE_CHECKING:
    import openvino

    from amp_export.exporters.models.session import Floats


def run(folder: Path, *, threads: int | None = None) -> GraphModel:
    """Load an exported model into OpenVINO; its kind is detected from its files and inputs.

    Args:
        folder: Folder that `export` wrote.
        threads: Number of intra-op threads; by default one per core that the process may use.

    Raises:
        MissingExtraError: OpenVINO is not installed.
        ModelError: The folder holds no model, or a damaged one.
        UnsupportedModelError: OpenVINO cannot run it on this CPU.
    """
    require_runtime()
    threads = threads if threads is not None else usable_cores()
    files = exported_files(folder, Format.OPENVINO)
    return choose_model([OpenvinoSession(file, threads=threads) for file in files], folder)


class OpenvinoSession(Session):
    """A model on OpenVINO."""

    def __init__(self, file: Path, *, threads: int) -> None:
        import openvino
        from openvino.properties import hint, inference_num_threads, num_streams

        model = read_model(file)
        described = description_of(model, file)
        self.inputs, self.outputs, self.context = described.inputs, described.outputs, described.context
        self.threads = threads
        self.description = f"OpenVINO {openvino.__version__.partition('-')[0]}"
        settings = {
            # otherwise CPUs with bfloat16 units compute float32 in bfloat16
            hint.execution_mode(): hint.ExecutionMode.ACCURACY,
            hint.performance_mode(): hint.PerformanceMode.LATENCY,
            # respect the CPU affinity of the process
            hint.enable_cpu_pinning(): False,
            num_streams(): 1,
            inference_num_threads(): threads,
        }
        try:
            self._model = openvino.Core().compile_model(model, "CPU", settings)
        except RuntimeError as error:
            raise UnsupportedModelError(
                f"OpenVINO cannot run {file} on this CPU: {last_line(error)}\nExport in float32, or with --to onnx."
            ) from error

    def to_value(self, array: Any, dtype: Dtype | None = None) -> openvino.Tensor:
        """See `Session.to_value`."""
        import numpy as np
        import openvino

        if dtype is not Dtype.BFLOAT16:
            return openvino.Tensor(np.ascontiguousarray(array if dtype is None else array.astype(dtype.value)))
        import ml_dtypes

        value = openvino.Tensor(openvino.Type.bf16, list(array.shape))
        _bits(value)[...] = array.astype(ml_dtypes.bfloat16).view(np.uint16)
        return value

    def to_float32(self, value: openvino.Tensor) -> Floats:
        """See `Session.to_float32`."""
        import numpy as np
        import openvino

        floats: Floats
        if value.element_type != openvino.Type.bf16:
            floats = value.data.astype(np.float32, copy=False)
            return floats
        return widen_bfloat16(_bits(value))

    def run(
        self, outputs: Sequence[str], values: Mapping[str, openvino.Tensor], *, keep: Collection[str] = ()
    ) -> list[openvino.Tensor]:
        """See `Session.run`."""
        del keep  # the CPU computes, so all outputs stay in place
        # a request reuses its output buffers: a new one, which costs 0.4 ms, does not overwrite earlier outputs
        request = self._model.create_infer_request()
        for name, value in values.items():
            request.set_tensor(name, value)
        request.infer()
        return [request.get_tensor(name) for name in outputs]


def _bits(value: openvino.Tensor) -> Any:
    """Return the memory of a bfloat16 tensor, which OpenVINO returns as float16, since numpy has no bfloat16."""
    import numpy as np

    return value.data.view(np.uint16)
