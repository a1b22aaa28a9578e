"""Calls in ONNX Runtime that its CUDA execution provider can capture as CUDA graphs, and replay.

The provider runs a call as usual, captures it when it runs again, and replays from then on what it captured, with the
addresses and shapes of then. All nodes must be on that provider, apart from those on the CPU that compute shapes.
Sources: pull requests 9978 and 19636 of onnxruntime, and `OrtGraphCaptureNodeAssignmentPolicy`, onnxruntime_ep_c_api.h.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from amp_export.exporters.models.session import FixedCall

if TYPE_CHECKING:
    from onnxruntime import InferenceSession, OrtValue, RunOptions

CAPTURING = {"enable_cuda_graph": "1"}
"""Option of the CUDA execution provider that lets it capture calls."""

CANNOT_CAPTURE = ("cannot use the graph capture feature", "cannot use the CUDA Graph feature")
"""What errors say when a graph cannot be captured: `InferenceSession::Initialize` of ONNX Runtime 1.32 and earlier."""

NOT_CAPTURED = -1
"""Number of a call that is neither captured nor replayed.
Source: `kGraphAnnotationSkip`, inference_session.h, ONNX Runtime 1.32."""

_NUMBER = "gpu_graph_id"
"""Option of a run: the number under which it is captured.
Source: onnxruntime_run_options_config_keys.h, ONNX Runtime 1.32."""


class OnnxFixedCall(FixedCall):
    """A call whose inputs and outputs are bound once.

    Args:
        session: The session.
        binding: Binds all its inputs and outputs.
        owned: The inputs whose contents change, by name, int64.
        number: A number of its own.
    """

    def __init__(self, session: InferenceSession, binding: Any, owned: Mapping[str, OrtValue], *, number: int) -> None:
        self._session, self._binding, self._owned = session, binding, owned
        self._options = run_options(number)

    def run(self, arrays: Mapping[str, Any]) -> None:
        """See `FixedCall.run`."""
        for name, array in arrays.items():
            # ONNX Runtime 1.32 takes the bytes of another dtype as they are
            self._owned[name].update_inplace(array.astype("int64", copy=False))
        self._session.run_with_iobinding(self._binding, self._options)


def run_options(number: int) -> RunOptions:
    """Return the options of runs that are captured under a number."""
    import onnxruntime

    options = onnxruntime.RunOptions()
    options.add_run_config_entry(_NUMBER, str(number))
    return options
