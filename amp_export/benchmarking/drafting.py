"""Speed and acceptance of speculative decoding in onnxruntime-genai, against the dense model alone."""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amp_export.benchmarking.runners.genai import require
from amp_export.benchmarking.statistics import Conclusion, conclude, speedup_interval
from amp_export.documents import convert, read_object
from amp_export.errors import ModelError, OutputError
from amp_export.evaluation.estimates import t_quantile
from amp_export.exporting.drafting import DENSE, QUIET_THREADS
from amp_export.hardware.threads import usable_cores
from amp_export.outputs.names import DRAFT
from amp_export.progress import Advance

MEASUREMENT = "measurement.json"
"""Name of the file with a measurement, beside both models."""

TIE = 0.01
"""Largest difference of two logits that passes for a near tie: the dense model computes a token's logits in another
batch when it checks drafts, so that sums round otherwise."""


@dataclass(frozen=True)
class DraftedText:
    """One text, by the dense model alone and with drafts.

    Attributes:
        prompt_tokens: Number of tokens of the prompt.
        tokens: Number of tokens that were generated.
        drafted: Number of drafted tokens that were checked.
        accepted: Number of these that the dense model would have chosen.
        rounds: Number of passes of the dense model.
        dense_seconds: Time of the dense model alone after the prompt.
        drafted_seconds: Time with drafts.
        first_difference: Number of the first token that differs, or None.
        tie: Difference of the dense model's logits of both tokens there, or None.
    """

    prompt_tokens: int
    tokens: int
    drafted: int
    accepted: int
    rounds: int
    dense_seconds: float
    drafted_seconds: float
    first_difference: int | None = None
    tie: float | None = None

    @property
    def same(self) -> bool:
        """Whether both texts are the same, up to a near tie."""
        return self.first_difference is None or (self.tie is not None and self.tie <= TIE)


@dataclass(frozen=True)
class DraftMeasurement:
    """Speculative decoding against the dense model alone.

    Attributes:
        runtime: Name and version of the runtime.
        texts: The texts.
        acceptance: Mean share of checked tokens that were accepted, over texts.
        acceptance_interval: Its 95 % confidence interval.
        tokens_per_pass: Mean number of tokens that a pass of the dense model gives.
        dense_tokens_per_second: Median over texts, of the dense model alone.
        drafted_tokens_per_second: Median over texts, with drafts.
        speedup: Geometric mean over texts of dense time over time with drafts.
        interval: Its 95 % confidence interval, over texts.
        conclusion: Conclusion from the interval.
        same: Whether all texts are the same, up to near ties.
    """

    runtime: str
    texts: tuple[DraftedText, ...]
    acceptance: float
    acceptance_interval: tuple[float, float]
    tokens_per_pass: float
    dense_tokens_per_second: float
    drafted_tokens_per_second: float
    speedup: float
    interval: tuple[float, float]
    conclusion: Conclusion
    same: bool

    @classmethod
    def of(cls, runtime: str, texts: Sequence[DraftedText]) -> DraftMeasurement:
        """Compute the statistics; the unit of all intervals is a text."""
        shares = [text.accepted / max(text.drafted, 1) for text in texts]
        mean = statistics.fmean(shares)
        half = math.inf
        if len(shares) > 1:
            half = t_quantile(len(shares) - 1) * statistics.stdev(shares) / math.sqrt(len(shares))
        ratios = [math.log(text.dense_seconds / text.drafted_seconds) for text in texts]
        interval = speedup_interval(ratios)
        return cls(
            runtime=runtime,
            texts=tuple(texts),
            acceptance=mean,
            acceptance_interval=(max(0.0, mean - half), min(1.0, mean + half)),
            tokens_per_pass=sum(text.tokens for text in texts) / max(sum(text.rounds for text in texts), 1),
            dense_tokens_per_second=statistics.median(text.tokens / text.dense_seconds for text in texts),
            drafted_tokens_per_second=statistics.median(text.tokens / text.drafted_seconds for text in texts),
            speedup=math.exp(statistics.fmean(ratios)),
            interval=interval,
            conclusion=conclude(interval),
            same=all(text.same for text in texts),
        )


def read_measurement(output: Path) -> DraftMeasurement | None:
    """Return what was measured of the draft in an output directory; None if nothing was.

    Raises:
        OutputError: The file is damaged.
    """
    file = output / DRAFT / MEASUREMENT
    if not file.is_file():
        return None
    return convert(read_object(file), DraftMeasurement, source=str(file), error=OutputError)


def measure_draft(
    folder: Path,
    prompts: Sequence[Sequence[int]],
    *,
    new_tokens: int,
    threads: int | None = None,
    on_progress: Advance | None = None,
) -> DraftMeasurement:
    """Generate each text greedily with the dense model alone and with drafts, one after the other.

    Threads of the dense model alone spin while they wait or not, whichever is faster on this machine.

    Args:
        folder: Folder that `exporting.drafting.write_pair` wrote for onnxruntime-genai.
        prompts: Token ids of each prompt.
        new_tokens: Tokens to generate of each; nothing ends a text earlier.
        threads: Threads of each model; by default one per core.
        on_progress: Called with the number of measured texts and their total, after each.

    Raises:
        MissingExtraError: onnxruntime-genai is not installed.
        ModelError: It cannot open the folder.
    """
    require()
    import onnxruntime_genai

    threads = threads if threads is not None else usable_cores()
    options = {"session_options": {"intra_op_num_threads": threads}}
    both = _open(folder, {"decoder": options, "draft": options})
    alone = _faster(
        [
            _open(folder / DENSE, {"decoder": {"session_options": {**options["session_options"], **more}}})
            for more in ({}, QUIET_THREADS)
        ],
        prompts[0],
        new_tokens,
    )
    _generate(both, prompts[0], new_tokens)  # the first text of a model is slower
    texts = []
    for done, prompt in enumerate(prompts, start=1):
        dense, dense_seconds, _ = _generate(alone, prompt, new_tokens)
        drafted, drafted_seconds, stats = _generate(both, prompt, new_tokens)
        pairs = enumerate(zip(dense, drafted, strict=True))
        differs = next((number for number, (one, other) in pairs if one != other), None)
        texts.append(
            DraftedText(
                prompt_tokens=len(prompt),
                tokens=len(drafted),
                drafted=stats["draft_tokens_evaluated"],
                accepted=stats["draft_tokens_accepted"],
                rounds=stats["target_forward_passes"],
                dense_seconds=dense_seconds,
                drafted_seconds=drafted_seconds,
                first_difference=differs,
                tie=None
                if differs is None
                else _gap(folder / DENSE, [*prompt, *dense[:differs]], dense[differs], drafted[differs]),
            )
        )
        if on_progress is not None:
            on_progress(done, len(prompts))
    return DraftMeasurement.of(f"onnxruntime-genai {onnxruntime_genai.__version__}", texts)


def _faster(models: Sequence[Any], prompt: Sequence[int], new_tokens: int) -> Any:
    """Return the model that is faster, each measured once it is warm."""
    for model in models:
        _generate(model, prompt, new_tokens)
    return min(models, key=lambda model: _generate(model, prompt, new_tokens)[1])


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


def _generate(model: Any, prompt: Sequence[int], new_tokens: int) -> tuple[list[int], float, dict[str, Any]]:
    """Return the tokens, the seconds after the prompt, and the runtime's counts."""
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
    tokens = [int(token) for token in generator.get_sequence(0)[len(prompt) :]]
    return tokens, seconds, generator.get_speculative_stats()


def _gap(folder: Path, text: Sequence[int], chosen: int, other: int) -> float:
    """Return how far apart the dense model's logits of two tokens are after a text."""
    import numpy as np

    from amp_export.exporters.dispatch import run
    from amp_export.exporters.models.decoder import Decoder

    decoder = run(folder)
    assert isinstance(decoder, Decoder), f"{folder} holds a decoder"
    ids_1s = np.array([text])
    logits_bsv, _ = decoder.forward(ids_1s, np.ones_like(ids_1s), np.arange(len(text))[None], logits_to_keep=1)
    decoder.close()
    return float(abs(logits_bsv[0, -1, chosen] - logits_bsv[0, -1, other]))
