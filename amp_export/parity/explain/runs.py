"""One case through graphs and through PyTorch alike, with an eye on the values within."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from amp_export.architectures import Modality
from amp_export.exporters.models.encoder import GraphEncoder
from amp_export.exporters.models.encoder_decoder import GraphEncoderDecoder
from amp_export.exporters.onnx.third_party_decoders import ForeignDecoder
from amp_export.inputs.tokens import Floats, Integers, token_pool
from amp_export.options import Dtype
from amp_export.parity.decoder_cases import Case, replay
from amp_export.parity.encoder_cases import EncoderCase, Inputs, replay_encoder, torch_encoder
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
        file: The graph's file.
        real: Which of the tokens it is given are real, bool [batch, tokens]; None where all are.
        mask: The attention mask, [batch, tokens so far]; None where it is not of tokens so far.
    """

    file: str
    real: Any = None
    mask: Integers | None = None


@dataclass
class Watch:
    """What is seen of a model while it runs.

    Attributes:
        call: The call that it stands for.
        seen: The values that were noted: of which call, the module's name, and the array.
    """

    call: Call
    seen: list[tuple[Call, str, Any]] = field(default_factory=list)

    def note(self, name: str, array: Any) -> None:
        """Note a value, of which a copy is kept: models go on to change some in place."""
        self.seen.append((self.call, name, array.copy()))


class Run(Protocol):
    """A case for models of one kind."""

    def through_graphs(self, sessions: Sequence[Session]) -> list[Call]:
        """Run the graphs' sessions, and record how they were called, in order."""

    def through_torch(self, model: PreTrainedModel, watch: Watch) -> None:
        """Run the model, and record which call of a graph each run corresponds to."""

    def cut(self, call: Call, array: Any) -> Iterator[tuple[Call, Any]]:
        """Yield what PyTorch computed at once, by the calls of graphs that compute the same."""


def choose_run(checkpoint: Checkpoint, files: Sequence[Path], case: AnyCase, dtype: Dtype) -> Run:
    """Return the run of a case.

    Args:
        checkpoint: What was exported.
        files: The graphs, in the order in which they are run.
        case: What to run.
        dtype: The graphs'.
    """
    if isinstance(case, EncoderCase):
        return EncoderRun(checkpoint, files, case, dtype)
    if isinstance(case, Case):
        return DecoderRun(checkpoint, files, case)
    return WritingRun(checkpoint, files, case, dtype)


def _pool(checkpoint: Checkpoint) -> Integers:
    return token_pool(checkpoint.path, checkpoint.config.vocab_size)


class _CallByCall:
    """PyTorch is called as the graph is."""

    def cut(self, call: Call, array: Any) -> Iterator[tuple[Call, Any]]:
        """Yield the same."""
        yield call, array


class DecoderRun(_CallByCall):
    """Prompts and decode steps, with a cache on both sides."""

    def __init__(self, checkpoint: Checkpoint, files: Sequence[Path], case: Case) -> None:
        self._checkpoint = checkpoint
        self._files = files
        self._case = case
        self._pool = _pool(checkpoint)

    def through_graphs(self, sessions: Sequence[Session]) -> list[Call]:
        """Run one graph, or that for prompts and that for later tokens."""
        widths, head_dim = self._checkpoint.widths, self._checkpoint.config.head_dim
        decoder = ForeignDecoder(sessions[0], sessions[-1], widths, head_dim=head_dim)
        calls: list[Call] = []
        self._replay(decoder.forward, calls.append)
        return calls

    def through_torch(self, model: PreTrainedModel, watch: Watch) -> None:
        """Run the model."""
        self._replay(torch_decoder(model), lambda call: setattr(watch, "call", call))

    def _replay(self, forward: Any, tell: Callable[[Call], None]) -> None:
        def told(ids: Integers, mask: Integers, places: Integers, past: Any) -> tuple[Floats, Any]:
            file = self._files[0 if past is None else -1].name
            tell(Call(file, mask[:, -ids.shape[1] :] == 1, mask))
            result: tuple[Floats, Any] = forward(ids, mask, places, past)
            return result

        replay(self._case, self._pool, told)


class EncoderRun(_CallByCall):
    """One batch of texts or images."""

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
            tell(Call(self._file, _real_tokens(inputs)))
            forward(inputs)
            return {}

        replay_encoder(self._case, self._config, self._pool, told, by_token=(), dtype=self._dtype)


class WritingRun:
    """A source and what is written from it: token by token by the graphs, in one pass without a cache by PyTorch."""

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
        """Run the model: the encoder, and all that is written."""
        self._replay(torch_writer(model), lambda real: setattr(watch, "call", Call(self._encoder, real)))

    def cut(self, call: Call, array: Any) -> Iterator[tuple[Call, Any]]:
        """Yield the values of the encoder, and of the decoder those of its own tokens and of the source."""
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
            tell(_real_tokens(source))
            return write(source, written_bs, first)

        replay_writing(self._case, self._config, self._pool, told, dtype=self._dtype)


def _real_tokens(inputs: Inputs) -> Any:
    mask = inputs.get("attention_mask")
    return mask == 1 if mask is not None else None
