"""A decoder whose steps have fixed shapes and addresses, so that a CUDA graph can be replayed for each token."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from amp_export.errors import RequestError
from amp_export.exporters.models.caches import is_state, past_of
from amp_export.exporters.models.decoder import GraphDecoder, Past, pad_mask
from amp_export.exporters.models.ports import LOGITS, LOGITS_TO_KEEP

if TYPE_CHECKING:
    from amp_export.exporters.models.session import FixedCall, Floats, Integers, Session


class ReplayingDecoder(GraphDecoder):
    """A decoder of one graph, whose calls with one token of each text are the same call again and again.

    Inputs, outputs and the KV cache of such a call lie in memory that is allocated once for each batch size and length.
    The attention mask covers all the cache's room, with zeros for what is to come, as in onnxruntime-genai's graph
    capture (its pull request 271). A prompt is an ordinary call.

    One batch of texts is read at a time: `reserve` hands out the same memory whenever it is asked for the same shape.
    """

    def __init__(self, session: Session) -> None:
        """Take a session.

        Raises:
            RequestError: It fills no cache in place, or has states, which a prompt would have to start anew.
        """
        super().__init__(session)
        if not session.fills_cache or any(map(is_state, self._past_inputs)):
            raise RequestError(
                "Steps of fixed shapes were asked for, and this decoder has states, or a KV cache that grows.\n"
                "Export a decoder without states, with --operators onnxruntime or --static-cache N."
            )
        self._caches: dict[tuple[int, int], Past] = {}
        self._calls: dict[tuple[int, int], tuple[FixedCall, Any]] = {}

    def forward(
        self,
        input_ids: Integers,
        attention_mask: Integers,
        position_ids: Integers,
        past: Past | None = None,
        *,
        logits_to_keep: int = 0,
    ) -> tuple[Floats, Past]:
        """See `Decoder.forward`."""
        logits, after = super().forward(input_ids, attention_mask, position_ids, past, logits_to_keep=logits_to_keep)
        # the next call writes to the same memory
        return logits.copy(), after

    def reserve(self, batch_size: int, tokens: int) -> Past:
        """See `Decoder.reserve`: the cache of another text of the same shape is overwritten."""
        key = batch_size, self._fixed_length or tokens
        if key not in self._caches:
            past = super().reserve(batch_size, tokens)
            assert past is not None, "the session fills caches in place"
            self._caches[key] = past
        return self._caches[key]

    def close(self) -> None:
        """Free the weights and the caches."""
        super().close()
        self._calls.clear()
        self._caches.clear()

    def _compute(
        self,
        input_ids: Integers,
        attention_mask: Integers,
        position_ids: Integers,
        past: Past | None,
        *,
        logits_to_keep: int,
        stays: bool = False,
    ) -> tuple[Any, Past]:
        """See `GraphDecoder`."""
        batch_size, new_tokens = input_ids.shape
        if past is None or past.room is None or not past.length or new_tokens > 1:
            return super()._compute(
                input_ids, attention_mask, position_ids, past, logits_to_keep=logits_to_keep, stays=stays
            )
        key = batch_size, past.room
        if key not in self._caches or past.values is not self._caches[key].values:
            raise RequestError(
                f"A batch of {batch_size} was given, and the KV cache is for another: steps have fixed shapes.\n"
                "Reserve a cache for each batch size."
            )
        given = {"input_ids": input_ids, **self._describe_tokens(attention_mask, position_ids, past)}
        given["attention_mask"] = pad_mask(given["attention_mask"], past.room)
        if key not in self._calls:
            self._calls[key] = self._fix_call(given, past)
        call, logits = self._calls[key]
        call.run(given)
        return logits, replace(past, length=past.length + 1)

    def _fix_call(self, given: dict[str, Integers], past: Past) -> tuple[FixedCall, Any]:
        """Return the call for a batch size and a length, and the value that its logits are written to."""
        import numpy as np

        session = self._open()
        port = session.outputs[LOGITS]
        vocab_size = port.axes[-1]
        assert isinstance(vocab_size, int), "a graph that fills its cache is ours"
        assert port.float_dtype is not None, "logits are floating-point numbers"
        logits = session.new_value((len(given["input_ids"]), 1, vocab_size), port.float_dtype)
        if LOGITS_TO_KEEP in session.options:
            given = {**given, LOGITS_TO_KEEP: np.array(1)}
        into = {name: past.values[past_of(name)] for name in self._outputs[1:]}
        return session.fix_call(given, past.values, {LOGITS: logits, **into}), logits
