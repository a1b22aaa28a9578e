"""AMP's importance of attention heads and MLP neurons, from one forward pass over calibration prompts.

Head importance is the L1 norm of one query head's contribution to the residual stream; neuron importance is the
absolute hidden activation of the MLP. Both are averaged over a prompt's real tokens, then over prompts. Source: arXiv
2504.21174 and `amp_criterion.py` of the paper's reference code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from amp_export.checkpoints.writing import save_tensors
from amp_export.errors import CalibrationError, ModelError
from amp_export.inputs.batches import BATCH_TOKENS, MAX_PROMPT_TOKENS, Batch, batches, text_batch, tokenize
from amp_export.pruning.hooks import Recorder

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from amp_export.architectures import ModelConfig

    Array = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True)
class Scores:
    """Importance by layer.

    Attributes:
        heads: For each layer a float32 array [num_attention_heads].
        neurons: For each layer a float32 array [intermediate_size], or [experts, intermediate_size].
        origin: Description of the calibration data.
    """

    heads: tuple[Array, ...]
    neurons: tuple[Array, ...]
    origin: str

    def save(self, file: Path) -> None:
        """Write `layers.N.heads` and `layers.N.neurons` as safetensors."""
        tensors = {f"layers.{layer}.heads": array for layer, array in enumerate(self.heads)}
        tensors |= {f"layers.{layer}.neurons": array for layer, array in enumerate(self.neurons)}
        save_tensors(file, tensors, metadata={"origin": self.origin})

    @classmethod
    def load(cls, file: Path, config: ModelConfig) -> Scores:
        """Read scores, and check that they fit the model.

        Raises:
            ModelError: The file is missing, damaged, or belongs to another model.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(file, framework="np") as handle:
                origin = (handle.metadata() or {}).get("origin", "unknown")
                layers = range(len(config.sites))
                heads = tuple(handle.get_tensor(f"layers.{layer}.heads") for layer in layers)
                neurons = tuple(handle.get_tensor(f"layers.{layer}.neurons") for layer in layers)
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{file} does not contain scores for {len(config.sites)} layers: {error}") from error
        experts = config.architecture.mlp.output.stacked
        found = heads[0].size, neurons[0].size
        expected = config.num_attention_heads, config.intermediate_size * (config.size(experts) if experts else 1)
        if found != expected:
            raise ModelError(
                f"{file}: the scores are of another model: {found[0]} heads and {found[1]} neurons a layer, "
                f"where this one has {expected[0]} and {expected[1]}."
            )
        return cls(heads=heads, neurons=neurons, origin=origin)


def score(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    config: ModelConfig,
    *,
    origin: str = "unknown",
    on_progress: Callable[[int, int], None] | None = None,
) -> Scores:
    """Score all heads and neurons in one forward pass over the prompts.

    Args:
        model: A language model of transformers; it is not changed.
        tokenizer: Its tokenizer.
        prompts: Calibration prompts.
        config: Its config.
        origin: Description of the prompts, stored with the scores.
        on_progress: Called with the number of prompts done and the total.

    Raises:
        CalibrationError: No prompt has a token.
        ModelError: The activations are not finite.
    """
    limit = config.longest_text or MAX_PROMPT_TOKENS
    token_ids = tokenize(tokenizer, prompts, limit=limit, vocab_size=config.vocab_size)
    return score_tokens(model, token_ids, config, origin=origin, on_progress=on_progress)


def score_tokens(
    model: PreTrainedModel,
    token_ids: Sequence[Sequence[int]],
    config: ModelConfig,
    *,
    origin: str = "unknown",
    batch_tokens: int = BATCH_TOKENS,
    on_progress: Callable[[int, int], None] | None = None,
) -> Scores:
    """Score all heads and neurons on prompts that are already tokenized."""
    if not token_ids:
        raise CalibrationError("Calibration needs at least one token, but no prompt has any.")
    prepared = (text_batch(model, config, *padded) for padded in batches(token_ids, batch_tokens))
    return score_batches(model, prepared, len(token_ids), config, origin=origin, on_progress=on_progress)


def score_batches(
    model: PreTrainedModel,
    prepared: Iterable[Batch],
    samples: int,
    config: ModelConfig,
    *,
    origin: str = "unknown",
    on_progress: Callable[[int, int], None] | None = None,
) -> Scores:
    """Score a model of any kind.

    Args:
        model: The model; it is not changed.
        prepared: Batches to run it on.
        samples: Number of samples in all batches.
        config: The model's config.
        origin: Description of the samples, stored with the scores.
        on_progress: Called with the number of samples done and the total.

    Raises:
        ModelError: The activations are not finite.
    """
    import torch

    base_model = model.get_submodule(config.base_model)
    done = 0
    with torch.inference_mode(), Recorder(model, config) as recorder:
        for batch in prepared:
            recorder.begin_batch(batch)
            base_model(**batch.inputs)
            done += batch.samples
            if on_progress is not None:
                on_progress(done, samples)
        heads, neurons = recorder.averages(samples)
    return Scores(heads, neurons, origin)
