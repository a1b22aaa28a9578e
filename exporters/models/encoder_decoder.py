"""An encoder-decoder that runs three graphs, and the values passed between them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from amp_export.exporters.models.caches import past_of
from amp_export.exporters.models.session import floating_dtype

if TYPE_CHECKING:
    from amp_export.exporters.models.session import Floats, Integers, Session

STATES = "last_hidden_state"
MASK = "encoder_attention_mask"


@dataclass(frozen=True)
class EncodedSource:
    """The encoder's output, which stays in the runtime.

    Attributes:
        states: The encoder's states, [batch_size, positions, hidden_size].
        mask: Which positions are not padding, for models with a mask.
    """

    states: Any
    mask: Any


@dataclass(frozen=True)
class WrittenPast:
    """The KV caches of self-attention and cross-attention, which stay in the runtime.

    Attributes:
        values: Their tensors, by the name of the later graph's input.
    """

    values: Mapping[str, Any]


class GraphEncoderDecoder:
    """A loaded encoder-decoder.

    Attributes:
        inputs: For each input of the encoder the sizes of its axes; dynamic axes have names.
        num_layers: Number of decoder layers.
        dtype: Dtype of weights, activations and KV cache.
        threads: Number of intra-op threads.
        description: Name and version of the runtime.
        limits: The largest batch and context of encoder and decoder; None if there is no limit.
    """

    def __init__(self, encoder: Session, first: Session, later: Session) -> None:
        self._sessions: tuple[Session, ...] = (encoder, first, later)
        self._has_mask = MASK in later.inputs
        self.inputs: Mapping[str, tuple[int | str, ...]] = {name: port.axes for name, port in encoder.inputs.items()}
        self.num_layers = sum(name.endswith(".decoder.key") for name in later.inputs)
        self.dtype = floating_dtype(STATES, encoder.outputs[STATES])
        self.threads, self.description, self.limits = encoder.threads, encoder.description, encoder.limits

    def encode(self, inputs: Mapping[str, Any]) -> EncodedSource:
        """Run the encoder.

        Args:
            inputs: Arrays by name: `input_ids` and `attention_mask`, `input_features`, or `input_values` and
                `attention_mask`; others are ignored.

        Raises:
            ValueError: The model is closed, or an input is missing.
        """
        encoder, *_ = self._open()
        names = [name for name in (STATES, MASK) if name in encoder.outputs]
        found = dict(zip(names, encoder.run(names, encoder.choose_inputs(inputs), keep=names), strict=True))
        if self._has_mask and MASK not in found:
            found[MASK] = encoder.to_value(inputs["attention_mask"])
        return EncodedSource(found[STATES], found.get(MASK))

    def states(self, source: EncodedSource) -> Floats:
        """Return the encoder's states as float32 [batch_size, positions, hidden_size]."""
        encoder, *_ = self._open()
        return encoder.to_float32(source.states)

    def decode(
        self, input_ids: Integers, source: EncodedSource, past: WrittenPast | None = None
    ) -> tuple[Floats, WrittenPast]:
        """Compute the logits of new tokens.

        Args:
            input_ids: The new tokens, int64 [batch_size, sequence_length].
            source: The encoder's output.
            past: The KV cache that the previous call returned; None for the first call.

        Returns:
            Logits, float32 [batch_size, sequence_length, vocab_size], and the KV cache for the next call.

        Raises:
            ValueError: The model is closed.
        """
        _, first, later = self._open()
        session = first if past is None else later
        given = {"input_ids": session.to_value(input_ids)}
        if source.mask is not None:
            given[MASK] = source.mask
        if "encoder_hidden_states" in session.inputs:
            given["encoder_hidden_states"] = source.states
        given |= past.values if past is not None else {}
        names = list(session.outputs)
        logits, *present = session.run(names, given, keep=names[1:])
        renamed = map(past_of, names[1:])
        # the later graph does not return the cross-attention keys and values: those of the first call are kept
        kept = {} if past is None else past.values
        values = {**kept, **dict(zip(renamed, present, strict=True))}
        return session.to_float32(logits), WrittenPast(values)

    def close(self) -> None:
        """Free the weights."""
        self._sessions = ()

    def _open(self) -> tuple[Session, ...]:
        if not self._sessions:
            raise ValueError("This model is closed.")
        return self._sessions
