"""The plan: which heads and neurons each layer keeps. It is a file that a person can read and change."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from amp_export.architectures import LayerWidths, Unit, parameter_count
from amp_export.errors import PlanError

if TYPE_CHECKING:
    from pathlib import Path

    from amp_export.architectures import ModelConfig

SCHEMA = 1


@dataclass(frozen=True)
class LayerPlan:
    """What one layer keeps, as ascending indices into the dense layer."""

    query_heads: tuple[int, ...]
    key_value_heads: tuple[int, ...]
    neurons: tuple[int, ...]

    @property
    def widths(self) -> LayerWidths:
        """How many of each are kept."""
        return LayerWidths(len(self.query_heads), len(self.key_value_heads), len(self.neurons))

    def kept(self, unit: Unit) -> tuple[int, ...]:
        """The kept indices of `unit`."""
        indices: tuple[int, ...] = getattr(self, unit.value)
        return indices


@dataclass(frozen=True)
class Plan:
    """What every layer keeps, and why.

    Attributes:
        layers: One entry a layer.
        asked: The ratio that was asked for, or None for a plan made by hand.
        achieved: The share of all parameters that this plan removes.
        settings: How the counts were chosen: allocation, heads, snap.
        reasons: Why the counts are what they are, for heads and for neurons.
        notes: What the user should know, such as a budget that could not be met exactly.
    """

    layers: tuple[LayerPlan, ...]
    asked: float | None
    achieved: float
    settings: Mapping[str, Any] = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def widths(self) -> tuple[LayerWidths, ...]:
        """How wide each layer becomes."""
        return tuple(layer.widths for layer in self.layers)

    @property
    def is_uniform(self) -> bool:
        """Whether all layers keep the same counts, so that a stock config can say it."""
        return len(set(self.widths)) == 1

    def save(self, file: Path) -> None:
        """Writes the plan as JSON, each list of indices on one line."""
        head = {
            "schema": SCHEMA,
            "asked": self.asked,
            "achieved": self.achieved,
            "settings": dict(self.settings),
            "reasons": dict(self.reasons),
            "notes": list(self.notes),
        }
        layers = ",\n".join(
            "    {\n" + ",\n".join(f'      "{unit.value}": {json.dumps(layer.kept(unit))}' for unit in Unit) + "\n    }"
            for layer in self.layers
        )
        text = json.dumps(head, indent=2).removesuffix("\n}") + f',\n  "layers": [\n{layers}\n  ]\n}}\n'
        file.write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, file: Path, config: ModelConfig) -> Plan:
        """Reads a plan, which a user may have changed, and holds it against the model.

        Only `layers` is needed; the ratio is computed anew.

        Raises:
            PlanError: The file is no plan, or the plan does not fit the model.
        """
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise PlanError(f"{file} cannot be read as a plan: {error}") from error
        if not isinstance(content, dict) or not isinstance(content.get("layers"), list):
            raise PlanError(f'{file} is no plan: it needs an object with a list "layers".')
        if content.get("schema", SCHEMA) > SCHEMA:
            raise PlanError(
                f"{file} has schema {content['schema']}, this version knows up to {SCHEMA}.\nUpdate amp-export."
            )
        layers = tuple(_read_layer(file, number, layer) for number, layer in enumerate(content["layers"]))
        check_fit(layers, config, origin=str(file))
        return cls(
            layers=layers,
            asked=content.get("asked"),
            achieved=removed_ratio(config, [layer.widths for layer in layers]),
            settings=content.get("settings", {}),
            reasons=content.get("reasons", {}),
            notes=tuple(content.get("notes", ())),
        )


def _read_layer(file: Path, number: int, layer: Any) -> LayerPlan:
    lists: dict[str, tuple[int, ...]] = {}
    for unit in Unit:
        indices = layer.get(unit.value) if isinstance(layer, dict) else None
        if not isinstance(indices, list) or not all(type(index) is int for index in indices):
            raise PlanError(f'{file}: layer {number} needs "{unit.value}", a list of whole numbers; found {indices!r}.')
        lists[unit.value] = tuple(sorted(indices))
    return LayerPlan(**lists)


def removed_ratio(config: ModelConfig, widths: Sequence[LayerWidths]) -> float:
    """The share of all parameters that is gone when the layers have these widths."""
    return 1 - parameter_count(config, widths) / parameter_count(config)


def check_fit(layers: tuple[LayerPlan, ...], config: ModelConfig, *, origin: str) -> None:
    """Holds a plan against a model.

    Raises:
        PlanError: Naming the layer, what is wrong with it, and what would be right.
    """
    if len(layers) != config.num_hidden_layers:
        raise PlanError(f"{origin}: the plan has {len(layers)} layers, the model {config.num_hidden_layers}.")
    for number, layer in enumerate(layers):
        for unit in Unit:
            _check_indices(layer.kept(unit), config.widths.of(unit), f"{origin}: layer {number}, {unit.value}")
        _check_groups(layer, config, f"{origin}: layer {number}")


def _check_indices(kept: tuple[int, ...], dense: int, where: str) -> None:
    if not kept:
        raise PlanError(f"{where}: nothing is kept; a layer needs at least one.")
    if outside := [index for index in kept if not 0 <= index < dense]:
        raise PlanError(f"{where}: index {outside[0]} is outside 0 to {dense - 1}.")
    if len(set(kept)) != len(kept):
        twice = next(index for index in kept if kept.count(index) > 1)
        raise PlanError(f"{where}: index {twice} is there twice.")


def _check_groups(layer: LayerPlan, config: ModelConfig, where: str) -> None:
    group = config.widths.query_group
    kept_by_group = dict.fromkeys(layer.key_value_heads, 0)
    for head in layer.query_heads:
        if head // group not in kept_by_group:
            raise PlanError(
                f"{where}: query head {head} is kept, but its key/value head {head // group} is not.\n"
                "Keep that key/value head, or remove the query head."
            )
        kept_by_group[head // group] += 1
    if len(set(kept_by_group.values())) > 1:
        counts = ", ".join(f"{head}: {count}" for head, count in kept_by_group.items())
        raise PlanError(
            f"{where}: every kept key/value head must keep the same number of query heads, but they keep {counts}."
        )
