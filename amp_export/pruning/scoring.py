"""Importance of attention heads and MLP neurons, from one forward pass over calibration prompts.

What it is depends on the criterion; what is measured is averaged over a prompt's real tokens, then over prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from amp_export.checkpoints.writing import save_tensors
from amp_export.errors import CalibrationError, ModelError
from amp_export.inputs.batches import BATCH_TOKENS, Batch, batches, text_batch, tokenize
from amp_export.options import CriterionName
from amp_export.pruning.criteria import find_criterion
from amp_export.pruning.recording import Recorder
from amp_export.verb_options import PlanChoices

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
        checkpoint: SHA-256 of the checkpoint that was scored (see `hash_weights`), or None if it is not known.
        criterion: The criterion.
    """

    heads: tuple[Array, ...]
    neurons: tuple[Array, ...]
    origin: str
    checkpoint: str | None = None
    criterion: CriterionName = CriterionName.AMP

    def save(self, file: Path) -> None:
        """Write `layers.N.heads` and `layers.N.neurons` as safetensors."""
        tensors = {f"layers.{layer}.heads": array for layer, array in enumerate(self.heads)}
        tensors |= {f"layers.{layer}.neurons": array for layer, array in enumerate(self.neurons)}
        bound = {} if self.checkpoint is None else {"checkpoint": self.checkpoint}
        save_tensors(file, tensors, metadata={"origin": self.origin, "criterion": self.criterion.value, **bound})

    @classmethod
    def load(cls, file: Path, config: ModelConfig) -> Scores:
        """Read scores, and check that they fit the model.

        Raises:
            ModelError: The file is missing, damaged, or belongs to another model.
        """
        from safetensors import SafetensorError, safe_open

        shapes = _score_shapes(config)
        try:
            with safe_open(file, framework="np") as handle:
                metadata = handle.metadata() or {}
                found = {name: handle.get_slice(name) for name in handle.keys()}  # noqa: SIM118 - it is no mapping
                _check_shapes(
                    file, shapes, {name: (each.get_dtype(), each.get_shape()) for name, each in found.items()}
                )
                arrays = {name: handle.get_tensor(name) for name in shapes}
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{file} does not contain scores for {len(config.sites)} layers: {error}") from error
        _check_numbers(file, arrays)
        layers = range(len(config.sites))
        heads, neurons = (tuple(arrays[f"layers.{n}.{unit}"] for n in layers) for unit in ("heads", "neurons"))
        criterion = _read_criterion(file, metadata.get("criterion", CriterionName.AMP.value))
        return cls(heads, neurons, metadata.get("origin", "unknown"), metadata.get("checkpoint"), criterion)

    def check_criterion(self, asked: CriterionName) -> None:
        """Check that they are of the criterion that is asked for, unless that is the default.

        Raises:
            ModelError: They are of another criterion.
        """
        if asked not in (PlanChoices.criterion, self.criterion):
            raise ModelError(
                f"--criterion {asked} is asked for, but the scores are by the criterion {self.criterion}.\n"
                "Leave --scores out, to score the model again, or leave --criterion out."
            )

    def check_checkpoint(self, sha256: str) -> None:
        """Check that they are the scores of this checkpoint, if they name one; files of version 0.1 do not.

        Raises:
            ModelError: They are of another checkpoint.
        """
        if self.checkpoint not in (None, sha256):
            raise ModelError(
                f"The scores are of another checkpoint: of the SHA-256 {str(self.checkpoint)[:12]}, where this one has "
                f"{sha256[:12]}.\nGive scores of this checkpoint, or leave --scores out."
            )


def _read_criterion(file: Path, name: str) -> CriterionName:
    try:
        return CriterionName(name)
    except ValueError as error:
        raise ModelError(
            f"{file} contains scores by the criterion {name!r}; this version knows {', '.join(CriterionName)}.\n"
            "Leave --scores out, to score the model again."
        ) from error


def _score_shapes(config: ModelConfig) -> dict[str, list[int]]:
    """Return the shape of each tensor of a scores file."""
    shapes: dict[str, list[int]] = {}
    for layer, site in enumerate(config.sites):
        mlp = site.stack.mlp
        experts = [] if mlp is None or mlp.output.stacked is None else [config.size(mlp.output.stacked)]
        shapes[f"layers.{layer}.heads"] = [site.widths.query_heads]
        shapes[f"layers.{layer}.neurons"] = [*experts, site.widths.neurons]
    return shapes


def _check_shapes(file: Path, expected: dict[str, list[int]], found: dict[str, tuple[str, list[int]]]) -> None:
    layers = len(expected) // 2
    for name, shape in expected.items():
        if name not in found:
            raise ModelError(f"{file} does not contain scores for {layers} layers: {name} is missing.")
        if found[name] != ("F32", shape):
            dtype, size = found[name]
            raise ModelError(
                f"{file}: the scores are of another model: {name} is {dtype} {size}, where this one "
                f"needs F32 {shape}.\nGive scores of this model, or leave --scores out."
            )
    if surplus := sorted(found.keys() - expected):
        raise ModelError(
            f"{file}: the scores are of another model: it contains {surplus[0]}, but this one has {layers} layers.\n"
            "Give scores of this model, or leave --scores out."
        )


def _check_numbers(file: Path, arrays: dict[str, Array]) -> None:
    import numpy as np

    for name, array in arrays.items():
        # a NaN compares false
        legal = np.isfinite(array) & (array >= 0)
        if not legal.all():
            raise ModelError(
                f"{file}: {name} contains {array[~legal][0]}; scores must be finite and not negative.\n"
                "Leave --scores out, to score the model again."
            )


def score(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    config: ModelConfig,
    *,
    criterion: CriterionName = CriterionName.AMP,
    origin: str = "unknown",
    on_progress: Callable[[int, int], None] | None = None,
) -> Scores:
    """Score all heads and neurons in one forward pass over the prompts.

    Args:
        model: A language model of transformers; it is not changed.
        tokenizer: Its tokenizer.
        prompts: Calibration prompts.
        config: Its config.
        criterion: The criterion.
        origin: Description of the prompts, stored with the scores.
        on_progress: Called with the number of prompts done and the total.

    Raises:
        CalibrationError: No prompt has a token.
        ModelError: The activations are not finite.
    """
    token_ids = tokenize(tokenizer, prompts, config)
    return score_tokens(model, token_ids, config, criterion=criterion, origin=origin, on_progress=on_progress)


def score_tokens(
    model: PreTrainedModel,
    token_ids: Sequence[Sequence[int]],
    config: ModelConfig,
    *,
    criterion: CriterionName = CriterionName.AMP,
    origin: str = "unknown",
    batch_tokens: int = BATCH_TOKENS,
    on_progress: Callable[[int, int], None] | None = None,
) -> Scores:
    """Score all heads and neurons on prompts that are already tokenized."""
    if not token_ids:
        raise CalibrationError("Calibration needs at least one token, but no prompt has any.")
    prepared = (text_batch(model, config, *padded) for padded in batches(token_ids, batch_tokens))
    return score_batches(
        model, prepared, len(token_ids), config, criterion=criterion, origin=origin, on_progress=on_progress
    )


def score_batches(
    model: PreTrainedModel,
    prepared: Iterable[Batch],
    samples: int,
    config: ModelConfig,
    *,
    criterion: CriterionName = CriterionName.AMP,
    origin: str = "unknown",
    on_progress: Callable[[int, int], None] | None = None,
) -> Scores:
    """Score a model of any kind.

    Args:
        model: The model; it is not changed.
        prepared: Batches to run it on.
        samples: Number of samples in all batches.
        config: The model's config.
        criterion: The criterion.
        origin: Description of the samples, stored with the scores.
        on_progress: Called with the number of samples done and the total.

    Raises:
        ModelError: The activations are not finite.
    """
    import torch

    base_model = model.get_submodule(config.base_model)
    done = 0
    with torch.inference_mode(), Recorder(model, config, find_criterion(criterion)) as recorder:
        for batch in prepared:
            recorder.begin_batch(batch)
            base_model(**batch.inputs)
            done += batch.samples
            if on_progress is not None:
                on_progress(done, samples)
        heads, neurons = recorder.importance(samples)
    return Scores(heads, neurons, origin, criterion=criterion)
