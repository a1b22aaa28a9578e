"""An encoder, with or without a classification head, that runs a graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from amp_export.errors import UnsupportedModelError

if TYPE_CHECKING:
    from amp_export.exporters.models.session import Floats, Session
    from amp_export.options import Dtype


class GraphEncoder:
    """A loaded encoder.

    Attributes:
        inputs: For each input the sizes of its axes; dynamic axes have names.
        outputs: The floating-point outputs.
        outputs_by_token: The outputs with one entry per token on their second axis.
        dtype: Dtype of its weights, activations and outputs.
        threads: Number of intra-op threads.
        description: Name and version of the runtime.
        limits: The largest batch and context; None if there is no limit.
    """

    def __init__(self, session: Session, *, outputs: Sequence[str] | None = None) -> None:
        """Take a graph, and its outputs to return; by default all floating-point outputs."""
        self._session: Session | None = session
        self.inputs: Mapping[str, tuple[int | str, ...]] = {name: port.axes for name, port in session.inputs.items()}
        found: dict[str, Dtype] = {
            name: port.float_dtype
            for name, port in session.outputs.items()
            if port.float_dtype is not None and (outputs is None or name in outputs)
        }
        if not found:
            raise UnsupportedModelError("The graph returns no floating-point numbers, so it is not an encoder.")
        self.outputs = tuple(found)
        tokens = session.inputs["input_ids"].axes[1:2] if "input_ids" in session.inputs else ()
        # only a dynamic axis shows that it counts tokens
        is_named = tokens and isinstance(tokens[0], str)
        self.outputs_by_token = frozenset(
            name for name in found if is_named and session.outputs[name].axes[1:2] == tokens
        )
        self.dtype = found[self.outputs[0]]
        self.threads, self.description, self.limits = session.threads, session.description, session.limits

    def forward(self, inputs: Mapping[str, Any]) -> dict[str, Floats]:
        """Compute the outputs.

        Args:
            inputs: Arrays by name, such as `input_ids` or `pixel_values`; arrays that the graph does not take are
                ignored.

        Returns:
            The outputs by name, float32.

        Raises:
            ValueError: The encoder is closed, or an input is missing.
        """
        session = self._session
        if session is None:
            raise ValueError("This encoder is closed.")
        found = session.run(self.outputs, session.choose_inputs(inputs))
        return {name: session.to_float32(value) for name, value in zip(self.outputs, found, strict=True)}

    def close(self) -> None:
        """Free the weights."""
        self._session = None
