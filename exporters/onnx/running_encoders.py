"""An encoder, or a model with a head for classification, on ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from amp_export.errors import UnsupportedModelError
from amp_export.exporters.onnx.sessions import PRECISIONS, choose_inputs, describe_runtime, to_float32

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

    from amp_export.exporters.onnx.sessions import Floats

TOKENS_AXIS = "sequence_length"
"""The name of the axis along which tokens lie."""


class OnnxEncoder:
    """An encoder, loaded and ready. `run` makes one.

    Attributes:
        inputs: For each input the sizes of its axes; a name stands for a size that varies.
        outputs: The outputs that are floating-point numbers.
        outputs_by_token: Those of them that have one entry for each token, on their second axis.
        precision: The dtype of its weights, activations and outputs.
        threads: How many threads compute one operator.
        description: Name and version of the runtime.
    """

    def __init__(self, session: InferenceSession, *, threads: int) -> None:
        self._session: InferenceSession | None = session
        self._entries = session.get_inputs()
        self.inputs: Mapping[str, tuple[int | str, ...]] = {entry.name: tuple(entry.shape) for entry in self._entries}
        floats = [entry for entry in session.get_outputs() if entry.type in PRECISIONS]
        if not floats:
            raise UnsupportedModelError("The graph returns no floating-point numbers: it is no encoder's.")
        self.outputs = tuple(entry.name for entry in floats)
        self.outputs_by_token = frozenset(entry.name for entry in floats if TOKENS_AXIS in entry.shape[1:2])
        self.precision = PRECISIONS[floats[0].type]
        self.threads = threads
        self.description = describe_runtime(session)

    def forward(self, inputs: Mapping[str, Any]) -> dict[str, Floats]:
        """Computes the outputs.

        Args:
            inputs: Arrays by name, such as `input_ids` or `pixel_values`; others than the graph's are left out.

        Returns:
            The outputs by name, float32.

        Raises:
            ValueError: The encoder was closed, or an input is missing.
        """
        if self._session is None:
            raise ValueError("This encoder was closed.")
        values = choose_inputs(self._entries, dict(inputs))
        found = self._session.run_with_ort_values(list(self.outputs), values)
        return {name: to_float32(value) for name, value in zip(self.outputs, found, strict=True)}

    def close(self) -> None:
        """Frees the weights."""
        self._session = None
