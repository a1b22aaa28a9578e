"""Suites: the cases of one model, run through its graph and through PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from amp_export.architectures import Kind, Modality, ModelConfig
from amp_export.errors import RequestError, UnsupportedModelError
from amp_export.exporters.models.decoder import Decoder
from amp_export.exporters.models.encoder import GraphEncoder
from amp_export.exporters.models.encoder_decoder import GraphEncoderDecoder
from amp_export.exporters.models.vision_language import GraphVisionLanguage
from amp_export.inputs.tokens import Floats, Integers, start_token, token_pool
from amp_export.options import Dtype, Logits
from amp_export.parity.decoder_cases import (
    EVEN_BATCH,
    Case,
    Forward,
    cases_within,
    decoder_cases,
    replay,
)
from amp_export.parity.encoder_cases import (
    EncoderCase,
    Inputs,
    Outputs,
    encoder_cases,
    encoder_cases_within,
    replay_encoder,
    torch_encoder,
)
from amp_export.parity.greedy import (
    PROMPT_TOKENS,
    choose_continuation,
    continue_greedily,
    generate,
    generate_written,
    write_greedily,
    written_steps,
)
from amp_export.parity.image_cases import (
    ImageFacts,
    Read,
    graph_reader,
    image_cases_within,
    replay_images,
    torch_reader,
)
from amp_export.parity.seq2seq_cases import (
    Seq2SeqCase,
    graph_writer,
    replay_writing,
    source_inputs,
    torch_writer,
    writing_cases,
    writing_cases_within,
)

if TYPE_CHECKING:
    from transformers import DynamicCache, PreTrainedModel

AnyCase = Case | EncoderCase | Seq2SeqCase
AnyModel = Decoder | GraphEncoder | GraphEncoderDecoder


def default_cases(config: ModelConfig) -> tuple[AnyCase, ...]:
    """Return the default cases for a model."""
    return _DEFAULT_CASES[config.architecture.kind](config)


_DEFAULT_CASES: Mapping[Kind, Callable[[ModelConfig], tuple[AnyCase, ...]]] = {
    Kind.DECODER: decoder_cases,
    Kind.ENCODER: encoder_cases,
    Kind.ENCODER_DECODER: writing_cases,
}


class Suite(Protocol):
    """The cases of one model; the `run` methods return each case's outputs, [positions, features] by name."""

    @property
    def names(self) -> Sequence[str]:
        """Names of the cases in a report."""

    def run_graph(self) -> list[Outputs]:
        """Return the graph's outputs, and close the graph."""

    def run_torch(self, model: PreTrainedModel) -> list[Outputs]:
        """Return PyTorch's outputs."""

    @property
    def written(self) -> Integers | None:
        """The graph's tokens of greedy decoding, available after `run_graph`; None if the model does not generate."""

    def continue_torch(self, model: PreTrainedModel) -> tuple[Integers, Floats] | None:
        """Return PyTorch's tokens and logits of greedy decoding; None if the model does not generate."""


def choose_suite(
    graph: AnyModel,
    checkpoint: Path,
    config: ModelConfig,
    cases: Sequence[AnyCase] | None = None,
    whole: Path | None = None,
) -> Suite:
    """Return the suite for a graph.

    Args:
        graph: The loaded graph.
        checkpoint: The checkpoint that it was exported from.
        config: The checkpoint's config.
        cases: Cases of the graph's kind; by default the default cases of that kind.
        whole: The vision-language model whose language model the checkpoint is, if the graph is one.

    Raises:
        RequestError: A given case does not fit the graph, or there is no vision-language model to compare with.
        UnsupportedModelError: No case fits the model's maximum text length.
    """
    reads_and_writes_no_text = isinstance(graph, GraphEncoder) and config.architecture.modality is not Modality.TEXT
    pool = None if reads_and_writes_no_text else token_pool(checkpoint, config.vocab_size)
    make_suite = next(suite for kind, suite in _suites().items() if isinstance(graph, kind))
    facts = [_read_facts(whole, checkpoint)] if isinstance(graph, GraphVisionLanguage) else []
    suite: Suite = make_suite(graph, config, pool, cases, *facts)
    if left_out := [case.name for case in cases or () if case.name not in suite.names]:
        raise RequestError(
            f"The case {left_out[0]!r} does not fit the graph of {checkpoint}: its texts are longer, or its batch is "
            "larger, than the graph or the model takes, or padded where it takes no padding.\nShorten or drop it."
        )
    if not suite.names:
        raise UnsupportedModelError(f"{checkpoint} does not accept texts that are long enough for a parity check.")
    return suite


def _suites() -> dict[type, Any]:
    """Return the suite for each kind of model; a vision-language model is a decoder, too."""
    return {
        GraphVisionLanguage: VisionLanguageSuite,
        Decoder: DecoderSuite,
        GraphEncoder: EncoderSuite,
        GraphEncoderDecoder: Seq2SeqSuite,
    }


def _read_facts(whole: Path | None, checkpoint: Path) -> ImageFacts:
    if whole is None:
        raise RequestError(
            f"The graphs are those of a vision-language model, and {checkpoint} is none.\nName the model with "
            "--reference."
        )
    return ImageFacts.read(whole)


class DecoderSuite:
    """Cases of a decoder: prompts and decode steps."""

    def __init__(
        self,
        graph: Decoder,
        config: ModelConfig,
        pool: Integers,
        cases: Sequence[Case] | None = None,
    ) -> None:
        self._graph = graph
        self._pool = pool
        context = graph.max_context or config.context
        self._cases = cases_within(
            cases or (*decoder_cases(config), *(() if graph.takes_padding else (EVEN_BATCH,))),
            context,
            max_batch=graph.max_batch,
            one_at_a_time=graph.one_at_a_time,
            takes_padding=graph.takes_padding,
            logits=graph.logits,
        )
        self._continuation = choose_continuation(config, context)
        self.names = [case.name for case in self._cases]
        self.written: Integers | None = None

    def run_graph(self) -> list[Outputs]:
        """Return the graph's outputs, and close the graph."""
        last: Forward[Any] = partial(self._graph.forward, logits_to_keep=1)
        forward = self._graph.forward if self._graph.logits is Logits.ALL else last
        found = [self._replay(case, forward) for case in self._cases]
        if self._continuation.steps:
            # cases ask for all logits: here, those of other tokens are left out, as where texts are written
            self.written = continue_greedily(self._pool, last, self._continuation)
        self._graph.close()
        return list(found)

    def continue_torch(self, model: PreTrainedModel) -> tuple[Integers, Floats] | None:
        """Return the tokens and logits of transformers' `generate()`."""
        return generate(model, self._pool, self._continuation) if self._continuation.steps else None

    def run_torch(self, model: PreTrainedModel) -> list[Outputs]:
        """Return PyTorch's outputs."""
        forward = torch_decoder(model)
        return [self._replay(case, forward) for case in self._cases]

    def _replay(self, case: Case, forward: Forward[Any]) -> Outputs:
        return {"logits": replay(case, self._pool, forward, logits=self._graph.logits)}


def torch_decoder(model: PreTrainedModel) -> Forward[DynamicCache]:
    """Return a PyTorch decoder as a function of arrays with a KV cache, like the graph."""
    import torch
    from transformers import DynamicCache

    from amp_export.checkpoints.loading import cache_argument

    cache_name = str(cache_argument(model))

    def forward(
        input_ids_bs: Integers, attention_mask_bt: Integers, position_ids_bs: Integers, past: DynamicCache | None
    ) -> tuple[Floats, DynamicCache]:
        cache = past if past is not None else DynamicCache(config=model.config)
        result = model(
            input_ids=torch.from_numpy(input_ids_bs),
            attention_mask=torch.from_numpy(attention_mask_bt),
            position_ids=torch.from_numpy(position_ids_bs),
            use_cache=True,
            **{cache_name: cache},
        )
        return result.logits.double().numpy(), cache

    return forward


class VisionLanguageSuite(DecoderSuite):
    """Cases of a vision-language model: those of a decoder, and texts with images."""

    def __init__(
        self,
        graph: GraphVisionLanguage,
        config: ModelConfig,
        pool: Integers,
        cases: Sequence[Case] | None,
        facts: ImageFacts,
    ) -> None:
        # tokens that stand for images would have none
        super().__init__(graph, config, facts.without_special(pool), cases)
        self._parts, self._facts = graph, facts
        self._images = image_cases_within(facts, graph, config) if cases is None else ()
        self.names = [*self.names, *(case.name for case in self._images)]

    def run_graph(self) -> list[Outputs]:
        """Return the graphs' outputs, and close the graphs."""
        seen = self._replay_images(graph_reader(self._parts), self._parts.forward)
        return [*super().run_graph(), *seen]

    def run_torch(self, model: PreTrainedModel) -> list[Outputs]:
        """Return PyTorch's outputs."""
        return [*super().run_torch(model), *self._replay_images(torch_reader(model), torch_decoder(model))]

    def _replay_images(self, read: Read[Any], forward: Forward[Any]) -> list[Outputs]:
        return [
            {"logits": replay_images(text, self._pool, read, forward, case.decode_steps, logits=self._graph.logits)}
            for case in self._images
            for text in [self._facts.write(case, self._pool, self._parts)]
        ]


class EncoderSuite:
    """Cases of an encoder: texts, images or audio, and all floating-point outputs; it generates nothing."""

    written: Integers | None = None

    def __init__(
        self, graph: GraphEncoder, config: ModelConfig, pool: Integers, cases: Sequence[EncoderCase] | None = None
    ) -> None:
        self._graph = graph
        self._config = config
        self._pool = pool
        self._cases = encoder_cases_within(cases or encoder_cases(config), graph.limits)
        self._outputs = graph.outputs
        self._dtype: Dtype = graph.dtype
        self.names = [case.name for case in self._cases]

    def run_graph(self) -> list[Outputs]:
        """Return the graph's outputs, and close the graph."""
        found = [self._replay(case, self._graph.forward) for case in self._cases]
        self._graph.close()
        return found

    def run_torch(self, model: PreTrainedModel) -> list[Outputs]:
        """Return PyTorch's outputs."""
        forward = torch_encoder(model, self._outputs)
        return [self._replay(case, forward) for case in self._cases]

    def continue_torch(self, model: PreTrainedModel) -> tuple[Integers, Floats] | None:
        """Return None."""
        del model
        return None

    def _replay(self, case: EncoderCase, forward: Any) -> Outputs:
        return replay_encoder(
            case,
            self._config,
            self._pool,
            forward,
            by_token=self._graph.outputs_by_token,
            dtype=self._dtype,
        )


class Seq2SeqSuite:
    """Cases of an encoder-decoder: sources and target tokens, and tokens that it generates."""

    def __init__(
        self,
        graph: GraphEncoderDecoder,
        config: ModelConfig,
        pool: Integers,
        cases: Sequence[Seq2SeqCase] | None = None,
    ) -> None:
        self._graph = graph
        self._config = config
        self._pool = pool
        self._cases = writing_cases_within(cases or writing_cases(config), graph.limits)
        self._start, self._steps = start_token(config), written_steps(config, graph.limits)
        self.names = [case.name for case in self._cases]
        self.written: Integers | None = None

    def run_graph(self) -> list[Outputs]:
        """Return the graphs' outputs, and close the graphs."""
        found = [self._replay(case, graph_writer(self._graph)) for case in self._cases]
        self.written = write_greedily(self._graph, self._source(), self._start, self._steps)
        self._graph.close()
        return found

    def run_torch(self, model: PreTrainedModel) -> list[Outputs]:
        """Return PyTorch's outputs."""
        return [self._replay(case, torch_writer(model)) for case in self._cases]

    def continue_torch(self, model: PreTrainedModel) -> tuple[Integers, Floats] | None:
        """Return the tokens and logits of transformers' `generate()`."""
        return generate_written(model, self._source(), self._start, self._steps)

    def _source(self) -> Inputs:
        limits = self._graph.limits
        length = PROMPT_TOKENS if limits is None else min(PROMPT_TOKENS, limits.max_context)
        return source_inputs([length], self._config, self._pool, dtype=self._graph.dtype)

    def _replay(self, case: Seq2SeqCase, write: Any) -> Outputs:
        return replay_writing(case, self._config, self._pool, write, dtype=self._graph.dtype)
