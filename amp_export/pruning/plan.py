"""Plans: the heads and neurons that each layer keeps, in a file that users can read and edit."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

from amp_export.architectures import LayerWidths, Site, parameter_count
from amp_export.documents import check_schema, convert, parse_json, read_text
from amp_export.errors import PlanError

if TYPE_CHECKING:
    from pathlib import Path

    from amp_export.architectures import ModelConfig


@dataclass(frozen=True)
class LayerPlan:
    """Heads and neurons that one layer keeps, as ascending indices into the dense layer.

    Attributes:
        query_heads: Kept query heads; empty if the layer has no attention.
        key_value_heads: Kept key/value heads.
        neurons: Kept neurons of the MLP; empty if the layer has no MLP, or has experts.
        experts: Kept neurons of each expert, the same number in each.
    """

    query_heads: tuple[int, ...] = ()
    key_value_heads: tuple[int, ...] = ()
    neurons: tuple[int, ...] = ()
    experts: tuple[tuple[int, ...], ...] = ()

    @property
    def widths(self) -> LayerWidths:
        """Numbers of heads and neurons kept."""
        neurons = self.experts[0] if self.experts else self.neurons
        return LayerWidths(len(self.query_heads), len(self.key_value_heads), len(neurons))

    def ordered(self) -> LayerPlan:
        """Return the plan of the layer with ascending indices."""
        return LayerPlan(
            tuple(sorted(self.query_heads)),
            tuple(sorted(self.key_value_heads)),
            tuple(sorted(self.neurons)),
            tuple(tuple(sorted(indices)) for indices in self.experts),
        )

    def to_json(self) -> dict[str, Any]:
        """Return the layer's entry in a plan file, without empty lists."""
        lists = {"query_heads": self.query_heads, "key_value_heads": self.key_value_heads, "neurons": self.neurons}
        content: dict[str, Any] = {name: list(indices) for name, indices in lists.items() if indices}
        return {**content, "experts": [list(indices) for indices in self.experts]} if self.experts else content


@dataclass(frozen=True)
class Plan:
    """Heads and neurons that every layer keeps, and the reasons.

    Attributes:
        layers: One entry per layer.
        asked: The requested ratio, or None for a plan written by hand.
        achieved: Share of all parameters that the plan removes.
        settings: Settings that the counts were chosen with, such as allocation, heads and snap.
        reasons: Reasons for the counts, for heads and for neurons.
        notes: Notes to the user, such as a budget that could not be met exactly.
    """

    SCHEMA: ClassVar[int] = 1

    layers: tuple[LayerPlan, ...]
    asked: float | None
    achieved: float
    settings: Mapping[str, Any] = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def widths(self) -> tuple[LayerWidths, ...]:
        """Widths of each layer."""
        return tuple(layer.widths for layer in self.layers)

    def save(self, file: Path) -> None:
        """Write the plan as JSON, each list of indices on one line."""
        head = {
            "schema": self.SCHEMA,
            "asked": self.asked,
            "achieved": self.achieved,
            "settings": dict(self.settings),
            "reasons": dict(self.reasons),
            "notes": list(self.notes),
        }
        layers = ",\n".join(
            "    {\n"
            + ",\n".join(f'      "{name}": {json.dumps(indices)}' for name, indices in layer.to_json().items())
            + "\n    }"
            for layer in self.layers
        )
        text = json.dumps(head, indent=2).removesuffix("\n}") + f',\n  "layers": [\n{layers}\n  ]\n}}\n'
        file.write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, file: Path, config: ModelConfig) -> Plan:
        """Read a plan, which a user may have edited, and check that it fits the model.

        Only `layers` is required; the ratio is recomputed.

        Raises:
            PlanError: The file is not a plan, or the plan does not fit the model.
        """
        content = _read(file)
        check_fit(content.layers, config, origin=str(file))
        return cls(
            layers=content.layers,
            asked=content.asked,
            achieved=removed_ratio(config, [layer.widths for layer in content.layers]),
            settings=content.settings,
            reasons=content.reasons,
            notes=content.notes,
        )


@dataclass(frozen=True)
class _PlanFile:
    """Content of a plan file; only `layers` is required."""

    layers: tuple[LayerPlan, ...]
    schema: int = 1
    asked: float | None = None
    achieved: float | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def read_layers(file: Path) -> tuple[LayerPlan, ...]:
    """Return the layers of a plan file, without checking them against a model.

    Raises:
        PlanError: The file is not a plan.
    """
    return _read(file).layers


def _read(file: Path) -> _PlanFile:
    content = parse_json(read_text(file, error=PlanError), source=str(file), error=PlanError)
    if isinstance(content, dict) and "schema" in content:
        check_schema(content, source=str(file), newest=Plan.SCHEMA, error=PlanError)
    plan = convert(content, _PlanFile, source=str(file), error=PlanError)
    return replace(plan, layers=tuple(layer.ordered() for layer in plan.layers))


def removed_ratio(config: ModelConfig, widths: Sequence[LayerWidths]) -> float:
    """Return the share of all parameters removed if the layers have these widths."""
    return 1 - parameter_count(config, widths) / parameter_count(config)


def check_fit(layers: tuple[LayerPlan, ...], config: ModelConfig, *, origin: str) -> None:
    """Check that a plan fits a model.

    Raises:
        PlanError: It does not fit; the message names the layer and the problem.
    """
    if len(layers) != len(config.sites):
        raise PlanError(f"{origin}: the plan has {len(layers)} layers, but the model has {len(config.sites)}.")
    for number, (layer, site) in enumerate(zip(layers, config.sites, strict=True)):
        where = f"{origin}: layer {number}"
        _check_heads(layer, site, config, where)
        reason = config.architecture.heads_stay
        if reason is not None and len(layer.query_heads) < site.widths.query_heads:
            raise PlanError(f"{where}: heads of {config.architecture.model_type} cannot be removed: {reason}.")
        _check_neurons(layer, site, config, where)
    _check_tied_heads(layers, config, origin)


def _check_heads(layer: LayerPlan, site: Site, config: ModelConfig, where: str) -> None:
    if site.stack.attention is None:
        if layer.query_heads or layer.key_value_heads:
            raise PlanError(f"{where}: it has no attention whose heads are pruned.\nLeave its heads out.")
        return
    _check_indices(layer.query_heads, site.widths.query_heads, f"{where}, query_heads")
    _check_indices(layer.key_value_heads, site.widths.key_value_heads, f"{where}, key_value_heads")
    _check_groups(layer, config, where)


def _check_neurons(layer: LayerPlan, site: Site, config: ModelConfig, where: str) -> None:
    mlp = site.stack.mlp
    if mlp is None or mlp.has_experts:
        if layer.neurons:
            raise PlanError(
                f"{where}: it has no neurons outside of experts." if mlp else f"{where}: it has no neurons."
            )
    else:
        _check_indices(layer.neurons, site.widths.neurons, f"{where}, neurons")
    experts = config.experts(mlp)
    if len(layer.experts) != experts:
        raise PlanError(f"{where}: the plan has {len(layer.experts)} experts, but the model has {experts}.")
    for expert, indices in enumerate(layer.experts):
        _check_indices(indices, site.widths.neurons, f"{where}, expert {expert}")
    if len(counts := {len(indices) for indices in layer.experts}) > 1:
        raise PlanError(f"{where}: all experts must keep the same number of neurons, but they keep {sorted(counts)}.")


def _check_tied_heads(layers: tuple[LayerPlan, ...], config: ModelConfig, origin: str) -> None:
    """Check that layers keep the same heads if they share the position biases of the first layer."""
    for first, *others in config.tied_layers:
        expected = layers[first].query_heads
        for number in others:
            if (found := layers[number].query_heads) != expected:
                raise PlanError(
                    f"{origin}: layer {number} keeps query heads {list(found)}, but layer {first}, whose position "
                    f"biases it shares, keeps {list(expected)}.\nKeep the same heads in layers {first} to {others[-1]}."
                )


def _check_indices(kept: tuple[int, ...], dense: int, where: str) -> None:
    if not kept:
        raise PlanError(f"{where}: the list is empty, but a layer needs at least one.")
    if outside := [index for index in kept if not 0 <= index < dense]:
        raise PlanError(f"{where}: index {outside[0]} is outside 0 to {dense - 1}.")
    if len(set(kept)) != len(kept):
        twice = next(index for index in kept if kept.count(index) > 1)
        raise PlanError(f"{where}: index {twice} appears twice.")


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
