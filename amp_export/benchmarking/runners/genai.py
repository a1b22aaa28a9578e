"""Runner of exported decoders in onnxruntime-genai, which holds the KV cache and selects the tokens itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amp_export.benchmarking.runners.base import DecoderRunner
from amp_export.documents import read_object
from amp_export.errors import ModelError, RequestError
from amp_export.exporters.onnx.genai import GENAI_CONFIG
from amp_export.extras import require_extra

if TYPE_CHECKING:
    from amp_export.exporters.models.session import Integers


def load(folder: Path, *, threads: int | None = None, gpu: bool = False, cuda_graph: bool = False) -> GenaiDecoder:
    """Load an exported decoder.

    Args:
        folder: Folder of the export, with its genai_config.json.
        threads: Threads that compute one operator; by default one per core.
        gpu: Whether to run on a GPU.
        cuda_graph: Whether it captures steps as CUDA graphs there: onnxruntime-genai's pull request 2070.

    Raises:
        MissingExtraError: onnxruntime-genai is not installed.
        RequestError: The folder has no genai_config.json.
        ModelError: onnxruntime-genai cannot load it.
    """
    require()
    import onnxruntime_genai

    from amp_export.hardware.threads import usable_cores

    if not (folder / GENAI_CONFIG).is_file():
        raise RequestError(
            f"{folder} holds no {GENAI_CONFIG}: onnxruntime-genai takes decoders whose layers have the same heads, and "
            "which know the token that ends a text.\nMeasure it with --runtime onnxruntime, or prune with --one-width."
        )
    threads = threads if threads is not None else usable_cores()
    try:
        written = read_object(folder / GENAI_CONFIG)["model"]
        # the last selected token counts toward the length, although the model never runs on it
        context = written["context_length"] + 1
        options = {"context_length": context, "decoder": {"session_options": {"intra_op_num_threads": threads}}}
        config = onnxruntime_genai.Config(str(folder))
        config.overlay(json.dumps({"model": options}))
        if gpu:
            config.clear_providers()
            config.append_provider("cuda")
            config.set_provider_option("cuda", "enable_cuda_graph", str(int(cuda_graph)))
        model = onnxruntime_genai.Model(config)
    except Exception as error:  # its errors have no class
        raise ModelError(f"onnxruntime-genai cannot load {folder}: {error}\nExport it again.") from error
    return GenaiDecoder(model, threads=0 if gpu else threads)


def require() -> None:
    """Raise MissingExtraError if onnxruntime-genai is not installed, before any work is done.

    Raises:
        MissingExtraError: onnxruntime-genai is not installed.
    """
    require_extra("onnxruntime_genai", "genai", needed_for="Running a graph in onnxruntime-genai")


class GenaiDecoder(DecoderRunner):
    """A decoder in onnxruntime-genai.

    Prefill includes the selection of the first token: together they are the time to first token. Each further call runs
    the model on the token selected before, and selects the next. The given tokens are ignored, since onnxruntime-genai
    accepts a given token only for a batch of one.
    """

    def __init__(self, model: Any, *, threads: int) -> None:
        import onnxruntime_genai

        self._model = model
        self._generator: Any = None
        self.threads = threads
        self.description = f"onnxruntime-genai {onnxruntime_genai.__version__}"

    def prefill(self, prompt_bs: Integers, *, total_tokens: int) -> None:
        """See `DecoderRunner`."""
        import numpy as np
        import onnxruntime_genai

        batch_size, _ = prompt_bs.shape
        options = onnxruntime_genai.GeneratorParams(self._model)
        # with this minimum length, a text cannot end early; the model does not run on the last selected token
        length = total_tokens + 1
        options.set_search_options(batch_size=batch_size, min_length=length, max_length=length, do_sample=False)
        self._generator = onnxruntime_genai.Generator(self._model, options)
        self._generator.append_tokens(prompt_bs.astype(np.int32))
        self._generator.generate_next_token()

    def decode(self, token_b1: Integers) -> None:
        """See `DecoderRunner`."""
        del token_b1
        self._generator.generate_next_token()
