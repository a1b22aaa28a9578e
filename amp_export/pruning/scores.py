"""Importance of all heads and neurons, as a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from amp_export.checkpoints.writing import save_tensors
from amp_export.errors import ModelError
from amp_export.options import CriterionName

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

    from amp_export.architectures import ModelConfig

    Array = np.ndarray[Any, np.dtype[np.float32]]

MEASURED = ("neurons", "groups")
"""Parts of a layer whose removal is measured."""

SPREAD = "spread.channels"
"""Name of the tensor with a spread for each layer."""


def rank(importance: np.ndarray[Any, np.dtype[Any]]) -> tuple[int, ...]:
    """Return the indices of units, the most important first; among equals, the lower index."""
    return tuple(int(index) for index in (-importance).argsort(kind="stable"))


@dataclass(frozen=True)
class Sensitivity:
    """Divergences in nats from the dense model's predictions, with a part of one layer silenced.

    Attributes:
        silenced: Number of least important neurons that were silenced.
        neurons: Divergence without them, by layer.
        groups: Divergence without the least important key/value group, by layer.
    """

    silenced: int
    neurons: tuple[float, ...]
    groups: tuple[float, ...]


@dataclass(frozen=True)
class Scores:
    """Importance by layer.

    Attributes:
        heads: For each layer a float32 array [num_attention_heads].
        neurons: For each layer a float32 array [intermediate_size], or [experts, intermediate_size].
        origin: Description of the calibration data.
        checkpoint: SHA-256 of the checkpoint that was scored (see `hash_weights`), or None if it is not known.
        criterion: The criterion.
        sensitivity: What removing a part of each layer costs, if it was measured.
        channel_spread: Standard deviation, over the channels of the output projection, of what the criterion sums over
            those of a head, by layer; None if it has none, and in files of earlier versions.
    """

    heads: tuple[Array, ...]
    neurons: tuple[Array, ...]
    origin: str
    checkpoint: str | None = None
    criterion: CriterionName = CriterionName.AMP
    sensitivity: Sensitivity | None = None
    channel_spread: tuple[float, ...] | None = None

    def save(self, file: Path) -> None:
        """Write `layers.N.heads` and `layers.N.neurons` as safetensors, and what else is known of the layers."""
        import numpy as np

        tensors = {f"layers.{layer}.heads": array for layer, array in enumerate(self.heads)}
        tensors |= {f"layers.{layer}.neurons": array for layer, array in enumerate(self.neurons)}
        known = {"origin": self.origin, "criterion": self.criterion.value}
        if self.checkpoint is not None:
            known["checkpoint"] = self.checkpoint
        if self.sensitivity is not None:
            tensors |= {
                f"divergence.{unit}": np.asarray(getattr(self.sensitivity, unit), np.float32) for unit in MEASURED
            }
            known["silenced"] = str(self.sensitivity.silenced)
        if self.channel_spread is not None:
            tensors[SPREAD] = np.asarray(self.channel_spread, np.float32)
            known["spread"] = "channels"
        save_tensors(file, tensors, metadata=known)

    @classmethod
    def load(cls, file: Path, config: ModelConfig) -> Scores:
        """Read scores, and check that they fit the model.

        Raises:
            ModelError: The file is missing, damaged, or belongs to another model.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(file, framework="np") as handle:
                metadata = handle.metadata() or {}
                found = {name: handle.get_slice(name) for name in handle.keys()}  # noqa: SIM118 - it is no mapping
                shapes = _score_shapes(config, metadata)
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
        sensitivity = None
        if "silenced" in metadata:
            divergences = (tuple(map(float, arrays[f"divergence.{unit}"])) for unit in MEASURED)
            silenced = _read_count(file, metadata["silenced"], config.intermediate_size)
            sensitivity = Sensitivity(silenced, *divergences)
        spread = tuple(map(float, arrays[SPREAD])) if SPREAD in arrays else None
        origin, checkpoint = metadata.get("origin", "unknown"), metadata.get("checkpoint")
        return cls(heads, neurons, origin, checkpoint, criterion, sensitivity, spread)

    def check_criterion(self, asked: CriterionName | None) -> None:
        """Check that they are of the criterion that is asked for, if any is.

        Raises:
            ModelError: They are of another criterion.
        """
        if asked not in (None, self.criterion):
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


def _read_count(file: Path, text: str, largest: int) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= largest):
        raise ModelError(
            f"{file}: `silenced` is {text!r}, but must be a number of neurons, 1 to {largest}.\nLeave --scores out, to "
            "score the model again."
        )
    return int(text)


def _score_shapes(config: ModelConfig, metadata: Mapping[str, str]) -> dict[str, list[int]]:
    """Return the shape of each tensor of a scores file, whose metadata says which it has."""
    shapes: dict[str, list[int]] = {}
    for layer, site in enumerate(config.sites):
        experts = config.experts(site.stack.mlp)
        shapes[f"layers.{layer}.heads"] = [site.widths.query_heads]
        shapes[f"layers.{layer}.neurons"] = [*([experts] if experts else []), site.widths.neurons]
    if "silenced" in metadata:
        shapes |= {f"divergence.{unit}": [len(config.sites)] for unit in MEASURED}
    if "spread" in metadata:
        shapes[SPREAD] = [len(config.sites)]
    return shapes


def _check_shapes(file: Path, expected: dict[str, list[int]], found: dict[str, tuple[str, list[int]]]) -> None:
    layers = sum(name.endswith(".heads") for name in expected)
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
