"""Runners of checkpoints in PyTorch through transformers, eager or compiled.

A decoder computes only the logits of the last token, like `generate`: `logits_to_keep=1`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amp_export.architectures import PATCH_MASK, SPATIAL_SHAPES, Kind, Modality, ModelConfig
from amp_export.benchmarking.runners.base import Axes, DecoderRunner, EncoderRunner, Runner, Seq2SeqRunner
from amp_export.checkpoints.reading import read_config
from amp_export.errors import RequestError
from amp_export.inputs.patches import values_of_a_patch
from amp_export.inputs.random import as_tensors, input_name, signal_shape
from amp_export.inputs.waveforms import takes_mask, takes_waveforms
from amp_export.options import Dtype

if TYPE_CHECKING:
    import torch
    from transformers import Cache, PreTrainedModel

    from amp_export.exporters.models.session import Integers

SHAPES = 64
"""Limit of shapes that one function is compiled for; PyTorch's default of 8 is too low for a sweep."""


def load(
    folder: Path,
    *,
    dtype: Dtype,
    threads: int | None = None,
    compiled: bool = False,
    gpu: bool = False,
    cuda_graph: bool = False,
) -> Runner:
    """Load a checkpoint.

    Args:
        folder: The checkpoint.
        dtype: Dtype to compute in.
        threads: Threads that compute one operator; by default one per core.
        compiled: Whether to compile it with `torch.compile`, once per shape on its first run.
        gpu: Whether to run on a GPU.
        cuda_graph: Whether the steps of a compiled decoder are captured as CUDA graphs.

    Raises:
        ModelError: The checkpoint cannot be read.
        RequestError: There is no GPU, no C++ compiler for the CPU, or the model does not decode.
    """
    require(compiled=compiled, gpu=gpu)
    import torch
    from torch._dynamo import config as dynamo

    from amp_export.checkpoints.loading import load_model
    from amp_export.hardware.threads import usable_cores

    # torch's default limit is meant for functions with unforeseen shapes
    dynamo.recompile_limit = SHAPES
    threads = threads if threads is not None else usable_cores()
    torch.set_num_threads(threads)
    # float32 is to be float32 on a GPU, too: cuDNN's convolutions use TF32 by default
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    model = load_model(folder, dtype=getattr(torch, dtype.value))
    model.to(torch.device("cuda" if gpu else "cpu"))  # type: ignore[arg-type]
    config = read_config(folder)[1]
    threads = 0 if gpu else threads
    if config.architecture.kind is Kind.DECODER:
        return TorchDecoder(model, config, threads=threads, compiled=compiled, cuda_graph=cuda_graph)
    if cuda_graph:
        raise RequestError(
            f"A CUDA graph replays the step of a decoder, and {type(model).__name__} is none.\n"
            "Measure it without --cuda-graph."
        )
    kinds = {Kind.ENCODER: TorchEncoder, Kind.ENCODER_DECODER: TorchWriter}
    return kinds[config.architecture.kind](model, config, threads=threads, compiled=compiled)


def require(*, compiled: bool, gpu: bool) -> None:
    """Raise RequestError if PyTorch cannot run in this way here.

    Raises:
        RequestError: There is no GPU, or no C++ compiler for the CPU.
    """
    import torch

    if gpu and not torch.cuda.is_available():
        raise RequestError(
            f"torch {torch.__version__} finds no CUDA device on this machine.\nMeasure on the CPU instead."
        )
    if not compiled or gpu:
        return
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except (InvalidCxxCompiler, OSError) as error:
        raise RequestError(
            f"torch.compile of torch {torch.__version__} needs a C++ compiler, but finds none.\n"
            "Install g++ (Debian: apt install g++), or name one in the variable CXX."
        ) from error


class _TorchRunner(Runner):
    """Base of all kinds of models: holds the model, and converts arrays to tensors of its device and dtype."""

    def __init__(self, model: PreTrainedModel, config: ModelConfig, *, threads: int, compiled: bool) -> None:
        import torch

        self._model = model
        self._compiled = compiled
        self.threads = threads
        self.inputs = _input_axes(config)
        self.description = f"PyTorch {torch.__version__}{' compiled' if compiled else ''}"
        self._taken = _parameters(model.forward)

    def _compile(self, function: Callable[..., Any], *, mode: str | None = None) -> Callable[..., Any]:
        import torch

        # one program per shape, like a deployment that compiles ahead of time
        return torch.compile(function, dynamic=False, mode=mode) if self._compiled else function

    def _tensors(self, arrays: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        return as_tensors({name: array for name, array in arrays.items() if name in self._taken}, self._model)


class TorchDecoder(_TorchRunner, DecoderRunner):
    """A decoder with a dynamic KV cache, or a static one of the texts' full length if it is compiled."""

    def __init__(
        self, model: PreTrainedModel, config: ModelConfig, *, threads: int, compiled: bool, cuda_graph: bool = False
    ) -> None:
        from amp_export.checkpoints.loading import cache_argument

        super().__init__(model, config, threads=threads, compiled=compiled)
        self._forward = self._compile(model.forward)
        # the mode with CUDA graphs; `StaticCache` of transformers marks the addresses of its tensors as fixed
        self._replayed = self._compile(model.forward, mode="reduce-overhead") if cuda_graph else None
        self._cache_argument = str(cache_argument(model))
        self._static: dict[tuple[int, int], Cache] = {}
        self._cache: Cache | None = None

    def prefill(self, prompt_bs: Integers, *, total_tokens: int) -> None:
        """See `DecoderRunner`."""
        import torch

        # a cache's tensors must be created and reset in the same mode that fills them
        with torch.inference_mode():
            self._cache = self._new_cache(prompt_bs, total_tokens)
        self._run(self._forward, prompt_bs)

    def decode(self, token_b1: Integers) -> None:
        """See `DecoderRunner`."""
        import torch

        if self._replayed is not None:
            # the logits of the step before may be overwritten
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        self._run(self._replayed or self._forward, token_b1)

    def _run(self, forward: Callable[..., Any], tokens_bs: Integers) -> None:
        import torch

        options: dict[str, Any] = {"use_cache": True, self._cache_argument: self._cache}
        if "logits_to_keep" in self._taken:
            options["logits_to_keep"] = 1
        with torch.inference_mode():
            forward(**self._tensors({"input_ids": tokens_bs}), **options)

    def _new_cache(self, prompt_bs: Integers, total_tokens: int) -> Cache:
        from transformers import DynamicCache, StaticCache

        if not self._compiled:
            return DynamicCache(config=self._model.config)
        key = len(prompt_bs), total_tokens
        if key not in self._static:
            self._cache = self._static[key] = StaticCache(config=self._model.config, max_cache_len=total_tokens)
            # the first use creates its tensors; in the compiled function, this would cause a second compilation
            self._run(self._model.forward, prompt_bs[:, :1])
        self._static[key].reset()
        return self._static[key]


class TorchEncoder(_TorchRunner, EncoderRunner):
    """An encoder, or a model with a head for classification."""

    def __init__(self, model: PreTrainedModel, config: ModelConfig, *, threads: int, compiled: bool) -> None:
        super().__init__(model, config, threads=threads, compiled=compiled)
        self._forward = self._compile(model.forward)
        self._options = {"use_cache": False} if "use_cache" in self._taken else {}

    def forward(self, inputs: Mapping[str, Any]) -> None:
        """See `EncoderRunner`."""
        import torch

        with torch.inference_mode():
            self._forward(**self._tensors(inputs), **self._options)


class TorchWriter(_TorchRunner, Seq2SeqRunner):
    """An encoder-decoder with a dynamic KV cache."""

    def __init__(self, model: PreTrainedModel, config: ModelConfig, *, threads: int, compiled: bool) -> None:
        super().__init__(model, config, threads=threads, compiled=compiled)
        if compiled:
            raise RequestError(
                f"{type(model).__name__} has an encoder and a decoder, whose growing cache torch.compile would compile "
                "anew for every token.\nMeasure it with --runtime pytorch."
            )
        from amp_export.checkpoints.loading import cache_argument

        self._cache_argument = str(cache_argument(model))
        self._encoder = model.get_encoder()
        self._encoder_taken = _parameters(self._encoder.forward)
        self._given: dict[str, Any] = {}

    def encode(self, inputs: Mapping[str, Any], start_b1: Integers) -> None:
        """See `Seq2SeqRunner`."""
        import torch
        from transformers import DynamicCache, EncoderDecoderCache

        config = self._model.config
        tensors = self._tensors(inputs)
        with torch.inference_mode():
            source = {name: tensor for name, tensor in tensors.items() if name in self._encoder_taken}
            self._given = {"encoder_outputs": self._encoder(**source)}
            if "attention_mask" in tensors:
                self._given["attention_mask"] = tensors["attention_mask"]
        cache = EncoderDecoderCache(DynamicCache(config=config), DynamicCache(config=config))
        self._given[self._cache_argument] = cache
        self.decode(start_b1)

    def decode(self, token_b1: Integers) -> None:
        """See `Seq2SeqRunner`."""
        import torch

        with torch.inference_mode():
            self._model(**self._given, **self._tensors({"decoder_input_ids": token_b1}), use_cache=True)


def _parameters(function: Callable[..., Any]) -> frozenset[str]:
    import inspect

    return frozenset(inspect.signature(function).parameters)


def _input_axes(config: ModelConfig) -> Axes:
    """Return the axes of the inputs, as in the exported graph."""
    if takes_waveforms(config):
        names = [input_name(config), *(["attention_mask"] if takes_mask(config) else [])]
        return dict.fromkeys(names, ("batch_size", "sequence_length"))
    if config.architecture.takes_patches:
        axes = ("batch_size", "num_patches")
        width = values_of_a_patch(config)
        return {input_name(config): (*axes, width), PATCH_MASK: axes, SPATIAL_SHAPES: ("batch_size", 2)}
    if config.architecture.modality is not Modality.TEXT:
        return {input_name(config): ("batch_size", *signal_shape(config))}
    names = ["input_ids", "attention_mask"]
    if config.fields.get("type_vocab_size", 0) > 1:
        names.append("token_type_ids")
    return dict.fromkeys(names, ("batch_size", "sequence_length"))
