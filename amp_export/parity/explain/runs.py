"""Run one case through graphs and through PyTorch, and record intermediate values."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from amp_export.architectures import Modality, cache_tensors
from amp_export.exporters.models.encoder import GraphEncoder
from amp_export.exporters.models.encoder_decoder import GraphEncoderDecoder
from amp_export.exporters.onnx.third_party_decoders import ThirdPartyDecoder
from amp_export.inputs.tokens import Floats, Integers, token_pool
from amp_export.options import Dtype, Logits
from amp_export.parity.decoder_cases import Case, replay
from amp_export.parity.encoder_cases import EncoderCase, Inputs, real_tokens, replay_encoder, torch_encoder
from amp_export.parity.seq2seq_cases import Seq2SeqCase, graph_writer, replay_writing, torch_writer
from amp_export.parity.suites import AnyCase, torch_decoder

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from amp_export.checkpoints.reading import Checkpoint
    from amp_export.exporters.models.session import Session


@dataclass(frozen=True)
class Call:
    """A call of a graph.

    Attributes:
        file: File name of the graph.
        real: Mask of the real tokens in its input, bool [batch, tokens]; None if all are real.
        mask: Attention mask of a decoder, [batch, tokens so far]; None for other models.
    """

    file: str
    real: Any = None
    mask: Integers | None = None


@dataclass
class Watch:
    """Values recorded while a model runs.

    Attributes:
        call: The graph call that the current run corresponds to.
        seen: The recorded values: graph call, module name and array.
    """

    call: Call
    seen: list[tuple[Call, str, Any]] = field(default_factory=list)

    def note(self, name: str, array: Any) -> None:
        """Record a copy of a value, since models change some in place."""
        self.seen.append((self.call, name, array.copy()))


class Run(Protocol):
    """A run of one case, for models of one kind."""

    def through_graphs(self, sessions: Sequence[Session]) -> list[Call]:
        """Run the graphs' sessions and return their calls in order."""

    def through_torch(self, model: PreTrainedModel, watch: Watch) -> None:
        """Run the model, and set `watch.call` to the corresponding graph call before each run."""

    def cut(self, call: Call, array: Any) -> Iterator[tuple[Call, Any]]:
        """Split a value of one PyTorch run into the parts of the corresponding graph calls."""


def choose_run(checkpoint: Checkpoint, files: Sequence[Path], case: AnyCase, dtype: Dtype) -> Run:
    """Return the run of a case.

    Args:
        checkpoint: The exported checkpoint.
        files: The graphs, in the order in which they run.
        case: The case to run.
        dtype: Dtype of the graphs.
    """
    if isinstance(case, EncoderCase):
        return EncoderRun(checkpoint, files, case, dtype)
    if isinstance(case, Case):
        return DecoderRun(checkpoint, files, case)
    return WritingRun(checkpoint, files, case, dtype)


def _pool(checkpoint: Checkpoint) -> Integers:
    return token_pool(checkpoint.path, checkpoint.config.vocab_size)


class _CallByCall:
    """Runs in which each PyTorch call corresponds to one graph call."""

    def cut(self, call: Call, array: Any) -> Iterator[tuple[Call, Any]]:
        """Yield the value unchanged."""
        yield call, array


class DecoderRun(_CallByCall):
    """Run of a decoder: prompts and decode steps, with a KV cache in both graph and PyTorch."""

    def __init__(self, checkpoint: Checkpoint, files: Sequence[Path], case: Case) -> None:
        self._checkpoint = checkpoint
        self._files = files
        self._case = case
        self._pool = _pool(checkpoint)

    def through_graphs(self, sessions: Sequence[Session]) -> list[Call]:
        """Run one graph, or one for prefill and one for decode."""
        cache = cache_tensors(self._checkpoint.config, self._checkpoint.widths)
        decoder = ThirdPartyDecoder(sessions[0], sessions[-1], cache)
        calls: list[Call] = []
        forward = decoder.forward if decoder.logits is Logits.ALL else partial(decoder.forward, logits_to_keep=1)
        self._replay(forward, calls.append, logits=decoder.logits)
        return calls

    def through_torch(self, model: PreTrainedModel, watch: Watch) -> None:
        """Run the model."""
        self._replay(torch_decoder(model), lambda call: setattr(watch, "call", call))

    def _replay(self, forward: Any, tell: Callable[[Call], None], *, logits: Logits = Logits.ALL) -> None:
        def told(ids: Integers, mask: Integers, places: Integers, past: Any) -> tuple[Floats, Any]:
            file = self._files[0 if past is None else -1].name
            tell(Call(file, mask[:, -ids.shape[1] :] == 1, mask))
            result: tuple[Floats, Any] = forward(ids, mask, places, past)
            return result

        replay(self._case, self._pool, told, logits=logits)


class EncoderRun(_CallByCall):
    """Run of an encoder: one batch of texts, images or audio."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        files: Sequence[Path],
        case: EncoderCase,
        dtype: Dtype,
    ) -> None:
        self._config = checkpoint.config
        self._file = files[0].name
        self._case = case
        reads_text = checkpoint.config.architecture.modality is Modality.TEXT
        self._pool = _pool(checkpoint) if reads_text else np.empty(0, np.int64)
        self._dtype = dtype

    def through_graphs(self, sessions: Sequence[Session]) -> list[Call]:
        """Run the graph."""
        calls: list[Call] = []
        self._replay(GraphEncoder(sessions[0]).forward, calls.append)
        return calls

    def through_torch(self, model: PreTrainedModel, watch: Watch) -> None:
        """Run the model."""
        self._replay(torch_encoder(model, ()), lambda call: setattr(watch, "call", call))

    def _replay(self, forward: Callable[[Inputs], Any], tell: Callable[[Call], None]) -> None:
        def told(inputs: Inputs) -> Mapping[str, Floats]:
            tell(Call(self._file, real_tokens(inputs, self._config)))
            forward(inputs)
            return {}

        replay_encoder(self._case, self._config, self._pool, told, by_token=(), dtype=self._dtype)


class WritingRun:
    """Run of an encoder-decoder: token by token through the graphs, in one pass without a KV cache through PyTorch."""

    def __init__(self, checkpoint: Checkpoint, files: Sequence[Path], case: Seq2SeqCase, dtype: Dtype) -> None:
        self._config = checkpoint.config
        self._encoder, self._first, self._later = (file.name for file in files)
        self._case = case
        self._pool = _pool(checkpoint)
        self._dtype = dtype

    def through_graphs(self, sessions: Sequence[Session]) -> list[Call]:
        """Run the three graphs."""
        write = graph_writer(GraphEncoderDecoder(*sessions))
        calls: list[Call] = []
        self._replay(write, lambda real: calls.extend(Call(file, real) for file in self._called()))
        return calls

    def through_torch(self, model: PreTrainedModel, watch: Watch) -> None:
        """Run the encoder, and the decoder on all target tokens."""
        self._replay(torch_writer(model), lambda real: setattr(watch, "call", Call(self._encoder, real)))

    def cut(self, call: Call, array: Any) -> Iterator[tuple[Call, Any]]:
        """Yield the value for the encoder, and for the decoder calls, split by target token if it has as many."""
        yield call, array
        first, steps = self._case.written, self._case.decode_steps
        if array.ndim < 2 or array.shape[1] != first + steps:
            yield Call(self._first, call.real), array
            return
        yield Call(self._first, call.real), array[:, :first]
        yield from (
            (Call(self._later, call.real), array[:, place : place + 1]) for place in range(first, first + steps)
        )

    def _called(self) -> Iterator[str]:
        yield from (self._encoder, self._first)
        yield from [self._later] * self._case.decode_steps

    def _replay(self, write: Any, tell: Callable[[Any], None]) -> None:
        def told(source: Inputs, written_bs: Integers, first: int) -> Any:
            tell(real_tokens(source, self._config))
            return write(source, written_bs, first)

        replay_writing(self._case, self._config, self._pool, told, dtype=self._dtype)
