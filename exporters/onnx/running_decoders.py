"""A decoder on ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from amp_export.exporters.onnx.sessions import (
    CPU_PROVIDER,
    PRECISIONS,
    describe_runtime,
    empty_value,
    to_float32,
    to_value,
)

if TYPE_CHECKING:
    from onnxruntime import InferenceSession, OrtValue

    from amp_export.exporters.onnx.sessions import Floats, Integers


@dataclass(frozen=True)
class Past:
    """The keys and values of all tokens so far, which stay in the runtime.

    Attributes:
        length: How many tokens, padding counted.
        values: By the name of the graph's input that takes it.
    """

    length: int
    values: Mapping[str, OrtValue]


def check_mask(shape: Sequence[int], batch_size: int, *, past_length: int, sequence_length: int) -> None:
    """Refuses an attention mask that does not cover the past and the new tokens.

    Raises:
        ValueError: It has another shape.
    """
    needed = [batch_size, past_length + sequence_length]
    if list(shape) != needed:
        raise ValueError(
            f"attention_mask has the shape {list(shape)}; {past_length} tokens of past and "
            f"{sequence_length} new ones need {needed}."
        )


class OnnxDecoder:
    """A decoder, loaded and ready. `run` makes one.

    Attributes:
        num_layers: How many decoder layers it has.
        precision: The dtype of its weights, activations, keys and values.
        threads: How many threads compute one operator.
        description: Name and version of the runtime.
    """

    def __init__(self, session: InferenceSession, *, threads: int) -> None:
        self._session: InferenceSession | None = session
        self._inputs = {entry.name for entry in session.get_inputs()}
        self._outputs = [output.name for output in session.get_outputs()]
        self._past_inputs = [entry for entry in session.get_inputs() if entry.name.startswith("past_key_values.")]
        self.num_layers = len(self._past_inputs) // 2
        self.precision = PRECISIONS[self._past_inputs[0].type]
        self.threads = threads
        self.description = describe_runtime(session)
        # keys and values stay where they are computed; logits are looked at, and go to the processor
        self._device = "cpu" if session.get_providers()[0] == CPU_PROVIDER else "cuda"

    def forward(
        self, input_ids: Integers, attention_mask: Integers, position_ids: Integers, past: Past | None = None
    ) -> tuple[Floats, Past]:
        """Computes the logits of new tokens.

        Args:
            input_ids: The new tokens, int64 [batch_size, sequence_length].
            attention_mask: 1 for tokens and 0 for padding, int64 [batch_size, past length + sequence_length].
            position_ids: The place of each new token in its text, int64 [batch_size, sequence_length].
            past: What the call before returned; None at the start of a text.

        Returns:
            Logits, float32 [batch_size, sequence_length, vocab_size], and the past for the next call.

        Raises:
            ValueError: The decoder was closed, or the attention mask does not cover the past and the new tokens.
        """
        if self._session is None:
            raise ValueError("This decoder was closed.")
        batch_size, sequence_length = input_ids.shape
        past = past if past is not None else self._empty_past(batch_size)
        check_mask(attention_mask.shape, batch_size, past_length=past.length, sequence_length=sequence_length)
        given = {"input_ids": input_ids, "attention_mask": attention_mask, "position_ids": position_ids}
        # some traced decoders take no position_ids
        values = {name: to_value(array) for name, array in given.items() if name in self._inputs}
        logits, *present = self._run(self._session, {**values, **past.values})
        names = [name.replace("present", "past_key_values") for name in self._outputs[1:]]
        return to_float32(logits), Past(
            length=past.length + sequence_length, values=dict(zip(names, present, strict=True))
        )

    def _run(self, session: InferenceSession, values: Mapping[str, OrtValue]) -> list[OrtValue]:
        binding = session.io_binding()
        for name, value in values.items():
            binding.bind_ortvalue_input(name, value)
        logits, *present = self._outputs
        binding.bind_output(logits, "cpu")
        for name in present:
            binding.bind_output(name, self._device)
        session.run_with_iobinding(binding)
        found: list[OrtValue] = binding.get_outputs()
        return found

    def close(self) -> None:
        """Frees the weights."""
        self._session = None

    def _empty_past(self, batch_size: int) -> Past:
        values = {}
        for entry in self._past_inputs:
            _, heads, _, head_dim = entry.shape
            values[entry.name] = empty_value((batch_size, heads, 0, head_dim), self.precision)
        return Past(length=0, values=values)
