"""An encoder with a decoder on ONNX Runtime: three graphs, and what passes between them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from amp_export.exporters.onnx.sessions import PRECISIONS, choose_inputs, describe_runtime, to_float32, to_value

if TYPE_CHECKING:
    from onnxruntime import InferenceSession, OrtValue

    from amp_export.exporters.onnx.sessions import Floats, Integers


@dataclass(frozen=True)
class Source:
    """What the encoder made of its input, which stays in the runtime.

    Attributes:
        states: The encoder's states, [batch_size, positions, hidden_size].
        mask: Which of them are real, for models that tell.
    """

    states: OrtValue
    mask: OrtValue | None


@dataclass(frozen=True)
class WrittenPast:
    """The keys and values of all tokens written so far, and of the source, which stay in the runtime.

    Attributes:
        values: By the name of the later graph's input that takes it.
    """

    values: Mapping[str, OrtValue]


class OnnxEncoderDecoder:
    """An encoder with a decoder, loaded and ready. `run` makes one.

    Attributes:
        inputs: For each input of the encoder the sizes of its axes; a name stands for a size that varies.
        num_layers: How many layers the decoder has.
        precision: The dtype of weights, activations, keys and values.
        threads: How many threads compute one operator.
        description: Name and version of the runtime.
    """

    def __init__(
        self, encoder: InferenceSession, first: InferenceSession, later: InferenceSession, *, threads: int
    ) -> None:
        self._sessions: tuple[InferenceSession, ...] = (encoder, first, later)
        self._entries = encoder.get_inputs()
        self._later_inputs = {entry.name for entry in later.get_inputs()}
        self._has_mask = "encoder_attention_mask" in self._later_inputs
        self.inputs: Mapping[str, tuple[int | str, ...]] = {entry.name: tuple(entry.shape) for entry in self._entries}
        self.num_layers = sum(name.endswith(".decoder.key") for name in self._later_inputs)
        self.precision = PRECISIONS[encoder.get_outputs()[0].type]
        self.threads = threads
        self.description = describe_runtime(encoder)

    def encode(self, inputs: Mapping[str, Any]) -> Source:
        """Computes the states of what is read.

        Args:
            inputs: Arrays by name: `input_ids` and `attention_mask`, or `input_features`; others are left out.

        Raises:
            ValueError: The model was closed, or an input is missing.
        """
        encoder, *_ = self._open()
        (states,) = encoder.run_with_ort_values(["last_hidden_state"], choose_inputs(self._entries, dict(inputs)))
        return Source(states, to_value(inputs["attention_mask"]) if self._has_mask else None)

    def states(self, source: Source) -> Floats:
        """The encoder's states as float32 [batch_size, positions, hidden_size]."""
        return to_float32(source.states)

    def decode(
        self, input_ids: Integers, source: Source, past: WrittenPast | None = None
    ) -> tuple[Floats, WrittenPast]:
        """Computes the logits of new tokens.

        Args:
            input_ids: The new tokens, int64 [batch_size, sequence_length].
            source: What is read.
            past: What the call before returned; None at the start of what is written.

        Returns:
            Logits, float32 [batch_size, sequence_length, vocab_size], and the past for the next call.

        Raises:
            ValueError: The model was closed.
        """
        _, first, later = self._open()
        session = first if past is None else later
        given = {"input_ids": to_value(input_ids)}
        if source.mask is not None:
            given["encoder_attention_mask"] = source.mask
        given |= {"encoder_hidden_states": source.states} if past is None else past.values
        names = [entry.name for entry in session.get_outputs()]
        logits, *present = session.run_with_ort_values(names, given)
        renamed = (name.replace("present", "past_key_values") for name in names[1:])
        # the later graph does not return the source's keys and values: those of the first call stay
        kept = {} if past is None else past.values
        values = {**kept, **dict(zip(renamed, present, strict=True))}
        return to_float32(logits), WrittenPast(values)

    def close(self) -> None:
        """Frees the weights."""
        self._sessions = ()

    def _open(self) -> tuple[InferenceSession, ...]:
        if not self._sessions:
            raise ValueError("This model was closed.")
        return self._sessions
