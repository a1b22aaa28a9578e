"""Speculative decoding in onnxruntime-genai."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from amp_export.benchmarking.drafting.base import Generated, OpenPair, logit_gap
from amp_export.benchmarking.runners.genai import require
from amp_export.errors import ModelError
from amp_export.exporting.drafting import DENSE, QUIET_THREADS

_TRIAL_TOKENS = 16


class GenaiPair(OpenPair):
    """See `OpenPair`.

    Threads of the dense model alone spin while they wait or not, whichever is faster on this machine.
    """

    def __init__(self, folder: Path, *, threads: int) -> None:
        """Load both models.

        Args:
            folder: Folder that `exporting.drafting.write_pair` wrote for onnxruntime-genai.
            threads: Threads of each model.

        Raises:
            MissingExtraError: onnxruntime-genai is not installed.
            ModelError: It cannot open the folder.
        """
        require()
        import onnxruntime_genai

        self.description = f"onnxruntime-genai {onnxruntime_genai.__version__}"
        self._dense = folder / DENSE
        options = {"session_options": {"intra_op_num_threads": threads}}
        self._both = _open(folder, {"decoder": options, "draft": options})
        self._alone = _faster(
            [
                _open(self._dense, {"decoder": {"session_options": {**options["session_options"], **more}}})
                for more in ({}, QUIET_THREADS)
            ]
        )

    def generate_alone(self, prompt: Sequence[int], new_tokens: int) -> Generated:
        """See `OpenPair`."""
        return _generate(self._alone, prompt, new_tokens)

    def generate_drafted(self, prompt: Sequence[int], new_tokens: int) -> Generated:
        """See `OpenPair`."""
        return _generate(self._both, prompt, new_tokens)

    def gap(self, text: Sequence[int], chosen: int, other: int) -> float:
        """See `OpenPair`."""
        from amp_export.exporters.dispatch import run
        from amp_export.exporters.models.decoder import Decoder

        decoder = run(self._dense)
        assert isinstance(decoder, Decoder), f"{self._dense} holds a decoder"
        return logit_gap(decoder, text, chosen, other)


def _faster(models: Sequence[Any]) -> Any:
    """Return the model that is faster, each measured once it is warm."""
    for model in models:
        _generate(model, [1], _TRIAL_TOKENS)
    return min(models, key=lambda model: _generate(model, [1], _TRIAL_TOKENS).seconds)


def _open(folder: Path, model: dict[str, Any]) -> Any:
    import onnxruntime_genai

    try:
        config = onnxruntime_genai.Config(str(folder))
        config.overlay(json.dumps({"model": model}))
        return onnxruntime_genai.Model(config)
    except Exception as error:  # its errors have no class
        raise ModelError(
            f"onnxruntime-genai cannot open {folder}: {error}\nInstall version 0.16 or later, or leave the measurement "
            "out with --no-measure."
        ) from error


def _generate(model: Any, prompt: Sequence[int], new_tokens: int) -> Generated:
    import numpy as np
    import onnxruntime_genai

    parameters = onnxruntime_genai.GeneratorParams(model)
    length = len(prompt) + new_tokens
    parameters.set_search_options(min_length=length, max_length=length, do_sample=False)
    generator = onnxruntime_genai.Generator(model, parameters)
    generator.append_tokens(np.array([prompt], np.int32))
    start = time.perf_counter()
    while not generator.is_done():
        generator.generate_next_token()
    seconds = time.perf_counter() - start
    counts = generator.get_speculative_stats()
    return Generated(
        tokens=[int(token) for token in generator.get_sequence(0)[len(prompt) :]],
        seconds=seconds,
        drafted=counts["draft_tokens_evaluated"],
        accepted=counts["draft_tokens_accepted"],
        rounds=counts["target_forward_passes"],
    )
