"""Runners of exported models in the runtimes of `amp_export.exporters`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amp_export.benchmarking.runners.base import DecoderRunner, EncoderRunner, Runner, Seq2SeqRunner
from amp_export.exporters.dispatch import run
from amp_export.options import Provider

if TYPE_CHECKING:
    import torch

    from amp_export.exporters.models.decoder import Decoder
    from amp_export.exporters.models.encoder import GraphEncoder
    from amp_export.exporters.models.encoder_decoder import GraphEncoderDecoder
    from amp_export.exporters.models.session import Integers


def load(
    folder: Path, *, threads: int | None = None, provider: Provider = Provider.CPU, cuda_graph: bool = False
) -> Runner:
    """Load an exported model.

    Raises:
        AmpExportError: See `amp_export.exporters.dispatch.run`.
    """
    from amp_export.exporters.models.encoder import GraphEncoder
    from amp_export.exporters.models.encoder_decoder import GraphEncoderDecoder

    model = run(folder, threads=threads, provider=provider, cuda_graph=cuda_graph)
    if isinstance(model, GraphEncoder):
        return ExportedEncoder(model)
    return ExportedWriter(model) if isinstance(model, GraphEncoderDecoder) else ExportedDecoder(model)


class ExportedDecoder(DecoderRunner):
    """A decoder that takes and returns the KV cache."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._past: Any = None
        self._length = 0
        self.description, self.threads = decoder.description, decoder.threads

    @property
    def stream(self) -> torch.cuda.Stream | None:
        """The CUDA stream that it runs on, or None if it is not known."""
        return getattr(self._decoder, "stream", None)

    def prefill(self, prompt_bs: Integers, *, total_tokens: int) -> None:
        """See `DecoderRunner`."""
        self._past, self._length = self._decoder.reserve(len(prompt_bs), total_tokens), 0
        self._forward(prompt_bs)

    def decode(self, token_b1: Integers) -> None:
        """See `DecoderRunner`."""
        self._forward(token_b1)

    def _forward(self, tokens_bs: Integers) -> None:
        import numpy as np

        batch_size, new = tokens_bs.shape
        total = self._length + new
        positions_bs = np.tile(np.arange(self._length, total), (batch_size, 1))
        mask_bs = np.ones((batch_size, total), np.int64)
        self._past = self._decoder.advance(tokens_bs, mask_bs, positions_bs, self._past)
        self._length = total


class ExportedEncoder(EncoderRunner):
    """An encoder exported as one graph."""

    def __init__(self, encoder: GraphEncoder) -> None:
        self._encoder = encoder
        self.inputs = encoder.inputs
        self.description, self.threads = encoder.description, encoder.threads

    def forward(self, inputs: Mapping[str, Any]) -> None:
        """See `EncoderRunner`."""
        self._encoder.forward(inputs)


class ExportedWriter(Seq2SeqRunner):
    """An encoder-decoder exported as three graphs."""

    def __init__(self, model: GraphEncoderDecoder) -> None:
        self._model = model
        self._source: Any = None
        self._past: Any = None
        self.inputs = model.inputs
        self.description, self.threads = model.description, model.threads

    def encode(self, inputs: Mapping[str, Any], start_b1: Integers) -> None:
        """See `Seq2SeqRunner`."""
        self._source = self._model.encode(inputs)
        _, self._past = self._model.decode(start_b1, self._source)

    def decode(self, token_b1: Integers) -> None:
        """See `Seq2SeqRunner`."""
        _, self._past = self._model.decode(token_b1, self._source, self._past)
