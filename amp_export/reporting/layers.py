"""Layers in a report: the counts that each keeps, and the importance of its heads and neurons.

The counts are in the report. The importance is read from `plan.json` and `scores.safetensors`, which a user may have
changed or removed since. If they do not match the report, the page says so instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amp_export.architectures import Kind, LayerWidths, ModelConfig, PrunedUnit, find_architecture
from amp_export.errors import AmpExportError
from amp_export.outputs.manifest import Manifest
from amp_export.outputs.names import PLAN, SCORES
from amp_export.pruning.allocation import relative_importance
from amp_export.pruning.plan import LayerPlan, read_layers
from amp_export.reporting.report import PruningSection

if TYPE_CHECKING:
    import numpy as np

    Floats = np.ndarray[Any, np.dtype[np.floating[Any]]]
    Booleans = np.ndarray[Any, np.dtype[np.bool_]]


@dataclass(frozen=True)
class LayerCounts:
    """Counts of one layer before and after pruning.

    Attributes:
        label: Name of the layer.
        dense: Counts before pruning.
        kept: Counts after pruning.
    """

    label: str
    dense: LayerWidths
    kept: LayerWidths

    @property
    def stack(self) -> str:
        """Stack that the layer is in; empty if there is only one."""
        return self.label.rpartition(" ")[0]


@dataclass(frozen=True)
class Units:
    """Heads or neurons of one layer.

    Attributes:
        importance: Importance in medians of the layer, [units]; the experts of a layer are concatenated.
        kept: Whether each is kept, [units].
    """

    importance: Floats
    kept: Booleans


@dataclass(frozen=True)
class Importance:
    """Heads and neurons of all layers; a layer without neurons has an empty entry."""

    heads: tuple[Units, ...]
    neurons: tuple[Units, ...]


def layer_counts(pruning: PruningSection, manifest: Manifest) -> list[LayerCounts]:
    """Return the counts of each layer, in the order of the plan."""
    before, kept = pruning.widths_before, pruning.widths
    labels = _labels(manifest, len(kept))
    # a layer that keeps no unit of a kind had none: pruning leaves each at least one
    dense = [LayerWidths(*(before.of(unit) if widths.of(unit) else 0 for unit in PrunedUnit)) for widths in kept]
    return [LayerCounts(*each) for each in zip(labels, dense, kept, strict=True)]


def _labels(manifest: Manifest, count: int) -> list[str]:
    """Return the layers' numbers; for an encoder-decoder, with the names of their stacks."""
    try:
        config = ModelConfig.read(find_architecture(manifest.config_before["model_type"]), manifest.config_before)
    except (AmpExportError, KeyError):
        return [str(number) for number in range(count)]
    if config.architecture.kind is not Kind.ENCODER_DECODER or len(config.sites) != count:
        return [str(number) for number in range(count)]
    stacks = [
        "cross" if site.stack.mlp is None else "decoder" if site.stack.is_decoder else "encoder"
        for site in config.sites
    ]
    return [f"{stack} {site.number}" for stack, site in zip(stacks, config.sites, strict=True)]


def read_importance(output: Path, layers: Sequence[LayerCounts]) -> Importance | str:
    """Return the importance of each head and neuron, and whether the plan keeps it.

    Args:
        output: The output directory.
        layers: Counts of each layer according to the report.

    Returns:
        The importance, or a sentence that explains why it cannot be shown.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    if not (output / SCORES).is_file():
        return f"The importance of heads and neurons is not known: there is no {SCORES}."
    if not (output / PLAN).is_file():
        return f"Which heads and neurons were kept is not known: there is no {PLAN}."
    try:
        scores = load_file(output / SCORES)
        plans = read_layers(output / PLAN)
        found = [
            _read_layer(plan, counts, scores[f"layers.{number}.heads"], scores[f"layers.{number}.neurons"])
            for number, (plan, counts) in enumerate(zip(plans, layers, strict=True))
        ]
    except (SafetensorError, OSError, ValueError, LookupError) as error:
        return f"The importance of heads and neurons is not shown: {PLAN} and {SCORES} do not fit the report ({error})."
    return Importance(tuple(heads for heads, _ in found), tuple(neurons for _, neurons in found))


def _read_layer(plan: LayerPlan, counts: LayerCounts, heads: Floats, neurons: Floats) -> tuple[Units, Units]:
    kept = plan.experts or (plan.neurons,)
    found = len(plan.query_heads), len(kept[0])
    if found != (counts.kept.query_heads, counts.kept.neurons):
        raise ValueError(f"layer {counts.label} keeps {found[0]} heads and {found[1]} neurons in {PLAN}")
    if len(heads) != counts.dense.query_heads or (neurons.size and neurons.shape[-1] != counts.dense.neurons):
        raise ValueError(f"layer {counts.label} has {len(heads)} heads and {neurons.size} neurons in {SCORES}")
    return _units(heads.reshape(1, -1), [plan.query_heads]), _units(neurons.reshape(len(kept), -1), kept)


def _units(scores: Floats, kept: Sequence[Sequence[int]]) -> Units:
    """Return the units of one layer from scores, [groups, units of a group], and the kept indices of each group."""
    import numpy as np

    mask = np.zeros(scores.shape, dtype=bool)
    for row, indices in zip(mask, kept, strict=True):
        row[list(indices)] = True
    importance = relative_importance(scores) if scores.size else scores
    return Units(importance.reshape(-1), mask.reshape(-1))
