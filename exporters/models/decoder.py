"""The interface of decoders in any runtime, and a decoder that runs a graph."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from amp_export.errors import RequestError
from amp_export.exporters.models.caches import (
    WRITE_INDICES,
    cache_shape,
    count_layers,
    fixed_length,
    grows,
    is_past,
    past_of,
)
from amp_export.exporters.models.ports import LOGITS_TO_KEEP, kept_logits
from amp_export.exporters.models.session import floating_dtype
from amp_export.options import Dtype, Logits

if TYPE_CHECKING:
    from amp_export.exporters.models.session import Floats, Integers, Port, Session


@dataclass(frozen=True)
class Past:
    """The cache of keys, values and states, which stays in the runtime.

    Attributes:
        length: Number of cached tokens, including padding.
        values: Its tensors, by the name of the graph's input.
        room: Number of tokens that it has room for, and is filled with in place; None if each call returns a new one.
    """

    length: int
    values: Mapping[str, Any]
    room: int | None = None


class Decoder(ABC):
    """A loaded decoder; the caller passes its KV cache in and out.

    Attributes:
        num_layers: Number of decoder layers.
        dtype: Dtype of its weights, activations and KV cache.
        threads: Number of intra-op threads; 0 on a GPU.
        description: Name and version of the runtime.
        max_batch: The largest batch; None if there is no limit.
        max_context: The longest context; None if only the model limits it.
        one_at_a_time: Whether it takes only one token at a time after the prompt.
        takes_padding: Whether texts of a batch may be padded on the left, or between prompt and further tokens. If not,
            a batch of several texts also takes one token at a time after the prompts.
        logits: Tokens of a call whose logits it computes.
        activation_block: Number of activations that are rounded to int8 with one scale before a product with quantized
            weights; None if they are not.
    """

    num_layers: int
    dtype: Dtype
    threads: int
    description: str
    max_batch: int | None = None
    max_context: int | None = None
    one_at_a_time: bool = False
    takes_padding: bool = True
    logits: Logits = Logits.ALL
    activation_block: int | None = None

    @abstractmethod
    def forward(
        self,
        input_ids: Integers,
        attention_mask: Integers,
        position_ids: Integers,
        past: Any = None,
        *,
        logits_to_keep: int = 0,
    ) -> tuple[Floats, Any]:
        """Compute the logits of new tokens.

        Args:
            input_ids: The new tokens, int64 [batch_size, sequence_length].
            attention_mask: 1 for tokens and 0 for padding, int64 [batch_size, past length + sequence_length].
            position_ids: The position of each new token, int64 [batch_size, sequence_length].
            past: The KV cache that the previous call returned; None for the first call.
            logits_to_keep: Number of last tokens whose logits are wanted; 0 for all. A graph may compute no others.

        Returns:
            Logits, float32 [batch_size, sequence_length or `logits_to_keep`, vocab_size], and the KV cache for the next
            call.

        Raises:
            RequestError: The model was not exported for these shapes, or only for the last logits.
            ValueError: The decoder is closed, or the attention mask does not cover the cached and the new tokens.
        """

    def advance(self, input_ids: Integers, attention_mask: Integers, position_ids: Integers, past: Any = None) -> Any:
        """Compute the logits of the last token and leave them where they are; otherwise as `forward`.

        Returns:
            The KV cache for the next call.
        """
        _, after = self.forward(input_ids, attention_mask, position_ids, past, logits_to_keep=1)
        return after

    def reserve(self, batch_size: int, tokens: int) -> Any:
        """Return an empty KV cache for the first call, which further calls fill in place instead of copying it.

        A cache that was passed to a call is then only good for the next one: it is the one that the call returns.

        Args:
            batch_size: Number of texts.
            tokens: Largest number of tokens of a text, new ones included.

        Returns:
            The cache, or None if the runtime returns a new one from each call.
        """
        del batch_size, tokens

    @abstractmethod
    def close(self) -> None:
        """Free the weights."""


def check_mask(shape: Sequence[int], batch_size: int, *, past_length: int, sequence_length: int) -> None:
    """Refuse an attention mask that does not cover the cached and the new tokens.

    Raises:
        ValueError: It has another shape.
    """
    needed = [batch_size, past_length + sequence_length]
    if list(shape) != needed:
        raise ValueError(
            f"attention_mask has the shape {list(shape)}; {past_length} cached and {sequence_length} new tokens need "
            f"{needed}."
        )


def check_positions(position_ids: Integers, context: int | None) -> None:
    """Check that a graph has positions for all tokens; runtimes fail at an index, or read past the end of a table.

    Raises:
        RequestError: A text is too long.
    """
    # ONNX Runtime 1.32 also refuses more new tokens than its rotary tables have rows, although some are padding
    longest = max(int(position_ids.max(initial=-1)) + 1, position_ids.shape[-1])
    if context is not None and longest > context:
        raise RequestError(
            f"A text of {longest} tokens was given, but the graph has positions for {context}.\nGive texts of at most "
            f"{context} tokens, prompt and output together; or export a checkpoint whose config.json allows longer "
            "ones: max_position_embeddings, or the factor of a YaRN scaling."
        )


def check_room(tokens: int, cache_length: int) -> None:
    """Check that a KV cache of fixed length has room for all tokens.

    Raises:
        RequestError: It has not.
    """
    if tokens > cache_length:
        raise RequestError(
            f"A text of {tokens} tokens was given, padding included, but the graph's KV cache has room for "
            f"{cache_length}.\nGive shorter texts, or export with a larger --static-cache."
        )


def pad_mask(attention_mask: Integers, length: int) -> Integers:
    """Return an attention mask with zeros for the tokens to come, up to a length."""
    import numpy as np

    return np.pad(attention_mask, ((0, 0), (0, length - attention_mask.shape[1])))


def check_logits(kept: Logits, wanted: int, sequence_length: int) -> None:
    """Check that a decoder computes the logits that are wanted.

    Args:
        kept: Tokens whose logits it computes.
        wanted: Number of last tokens whose logits are wanted; 0 for all.
        sequence_length: Number of tokens of the call.

    Raises:
        RequestError: Those of several tokens are wanted, and it computes those of the last one.
    """
    if kept is Logits.LAST and (wanted or sequence_length) > 1:
        raise RequestError(
            "The logits of several tokens of a text are needed, and this decoder computes those of the last one.\n"
            "Export it with --logits all."
        )


class GraphDecoder(Decoder):
    """A decoder of one graph for prefill and decode."""

    def __init__(self, session: Session) -> None:
        self._session: Session | None = session
        self._past_inputs = {name: port for name, port in session.inputs.items() if is_past(name)}
        self._outputs = list(session.outputs)
        self.num_layers = count_layers(session.inputs)
        self.dtype = floating_dtype(*next(iter(self._past_inputs.items())))
        self.threads, self.description = session.threads, session.description
        self.takes_padding, self.activation_block = session.takes_padding, session.activation_block
        self.logits = kept_logits(session.outputs)
        self.max_context = self._fixed_length = fixed_length(session.inputs)
        if session.limits is not None:
            self.max_batch, self.max_context = session.limits.max_batch, session.limits.max_context

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
        logits, past = self._compute(input_ids, attention_mask, position_ids, past, logits_to_keep=logits_to_keep)
        return self._open().to_float32(logits)[:, -logits_to_keep:], past

    def advance(
        self, input_ids: Integers, attention_mask: Integers, position_ids: Integers, past: Past | None = None
    ) -> Past:
        """See `Decoder.advance`."""
        _, after = self._compute(input_ids, attention_mask, position_ids, past, logits_to_keep=1, stays=True)
        return after

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
        """Return the logits as the runtime's value, which stays on the device if wanted, and the KV cache."""
        new, position_ids = self._enter(input_ids, position_ids)
        return self._step(new, attention_mask, position_ids, past, logits_to_keep=logits_to_keep, stays=stays)

    def _enter(self, input_ids: Integers, position_ids: Integers) -> tuple[Mapping[str, Any], Integers]:
        """Return what stands for the new tokens, values by name, and their positions as the graph takes them."""
        return {"input_ids": self._open().to_value(input_ids)}, position_ids

    def _step(
        self,
        new: Mapping[str, Any],
        attention_mask: Integers,
        position_ids: Integers,
        past: Past | None,
        *,
        logits_to_keep: int,
        stays: bool = False,
    ) -> tuple[Any, Past]:
        """Run the graph on what stands for the new tokens, values by name; otherwise as `_compute`."""
        import numpy as np

        # there may be an axis for positions of several kinds before those of tokens
        session, (batch_size, sequence_length) = self._open(), position_ids.shape[-2:]
        past = past if past is not None else self._empty_past(session, batch_size)
        check_logits(self.logits, logits_to_keep, sequence_length)
        given = self._describe_tokens(attention_mask, position_ids, past)
        values = {name: session.to_value(array) for name, array in given.items()}
        values |= new
        if LOGITS_TO_KEEP in session.options:
            values[LOGITS_TO_KEEP] = session.to_value(np.array(logits_to_keep, np.int64))
        length = past.length + sequence_length
        kept = self._outputs[1:]
        names = list(map(past_of, kept))
        staying = self._outputs if stays else kept
        if past.room is not None:
            into = {name: past.values[source] for name, source in zip(kept, names, strict=True)}
            (logits,) = session.run_into(self._outputs[:1], {**values, **past.values}, into, keep=staying)
            return logits, replace(past, length=length)
        logits, *present = session.run(self._outputs, {**values, **past.values}, keep=staying)
        return logits, Past(length, dict(zip(names, present, strict=True)))

    def _describe_tokens(self, attention_mask: Integers, position_ids: Integers, past: Past) -> dict[str, Integers]:
        """Check a call, and return what the graph takes beside the new tokens: mask, positions, places in the cache."""
        import numpy as np

        session, (batch_size, sequence_length) = self._open(), position_ids.shape[-2:]
        check_mask(attention_mask.shape, batch_size, past_length=past.length, sequence_length=sequence_length)
        length = past.length + sequence_length
        check_positions(position_ids, session.context)
        given = {"attention_mask": attention_mask, "position_ids": position_ids}
        if self._fixed_length is not None:
            check_room(length, self._fixed_length)
            given["attention_mask"] = pad_mask(attention_mask, self._fixed_length)
            given[WRITE_INDICES] = np.full(batch_size, past.length)
        if past.room is not None and length > past.room:
            raise ValueError(f"The KV cache has room for {past.room} tokens, and {length} were given.")
        # some traced decoders have no position_ids
        return {name: array for name, array in given.items() if name in session.inputs}

    def reserve(self, batch_size: int, tokens: int) -> Past | None:
        """See `Decoder.reserve`."""
        session = self._session
        if session is None or not session.fills_cache:
            return None
        # keys and values without tokens are not read, while a state and a cache of fixed length are read as a whole
        values = {
            name: session.new_value(shape, floating_dtype(name, port), zeros=not grows(port))
            for name, port, shape in self._cache_shapes(batch_size, tokens)
        }
        return Past(length=0, values=values, room=self._fixed_length or tokens)

    def close(self) -> None:
        """Free the weights."""
        self._session = None

    def _open(self) -> Session:
        if self._session is None:
            raise ValueError("This decoder is closed.")
        return self._session

    def _empty_past(self, session: Session, batch_size: int) -> Past:
        import numpy as np

        values = {
            name: session.to_value(np.zeros(shape, np.float32), port.float_dtype)
            for name, port, shape in self._cache_shapes(batch_size, 0)
        }
        return Past(length=0, values=values)

    def _cache_shapes(self, batch_size: int, tokens: int) -> Iterator[tuple[str, Port, tuple[int, ...]]]:
        """Yield the inputs of the cache, with their shapes for texts of some length."""
        for name, port in self._past_inputs.items():
            yield name, port, cache_shape(name, port, batch_size, tokens)
