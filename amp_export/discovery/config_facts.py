"""The facts of an architecture that are about its config: names of fields, defaults, and what follows from others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from amp_export.architectures import Kind
from amp_export.architectures._derived import Derived
from amp_export.architectures._layer_rules import LayerRule, read_layers
from amp_export.discovery.fields import FoundFields
from amp_export.discovery.structure import FoundLayer
from amp_export.discovery.tiny import SIZES, Tiny, twins

_ALWAYS = ("vocab_size", "max_position_embeddings", "tie_word_embeddings", "hidden_act", "sliding_window")
_OF_SIGNALS = ("image_size", "patch_size", "num_channels", "num_mel_bins", "max_source_positions")


@dataclass(frozen=True)
class ConfigFacts:
    """Puts the facts about the config of a type together.

    Attributes:
        tiny: A tiny model of the type.
        kind: What it computes.
        fields: What was found out about its fields.
        layers: What is in a layer of each stack that attends.
        rules: Which layers have the attention and the MLP of the first stack; None if all have it.
    """

    tiny: Tiny
    kind: Kind
    fields: FoundFields
    layers: tuple[FoundLayer, ...]
    rules: tuple[LayerRule | None, LayerRule | None]

    def names(self) -> dict[str, str | None]:
        """Return the fields whose names are not the canonical ones."""
        names = self.fields.names
        found = {canonical: names.get(canonical) for canonical in SIZES if names.get(canonical) != canonical}
        heads = self.layers[0].heads
        if "num_key_value_heads" in found and heads is not None and heads.key_value_heads != heads.query_heads:
            del found["num_key_value_heads"]  # a constant, see `derived`
        if found.get("intermediate_size", "") is None:
            del found["intermediate_size"]  # a multiple of the hidden size
        if self.kind is Kind.ENCODER and found.get("vocab_size", "") is None:
            del found["vocab_size"]
        if found.get("max_position_embeddings", "") is None:
            del found["max_position_embeddings"]
        return found

    def derived(self) -> Iterator[Derived]:
        """Yield the sizes that follow from others, or are constant."""
        names = self.fields.names
        for name, factor in self.fields.derived.items():
            # always, if there is no field
            when: dict[str, Any] | None = {} if names["intermediate_size"] is None else None
            yield Derived(name, (names["hidden_size"] or "hidden_size", factor), when)
        heads = self.layers[0].heads
        is_constant = heads is not None and heads.key_value_heads != heads.query_heads
        if heads is not None and is_constant and names.get("num_key_value_heads") is None:
            yield Derived("num_key_value_heads", heads.key_value_heads, {})
        own = self.stack_names.get("num_hidden_layers") if len(self.layers) > 1 else None
        if own is not None and self.tiny.values.get(own) is not None:
            yield Derived(own, names["num_hidden_layers"] or "num_hidden_layers")

    @cached_property
    def stack_names(self) -> dict[str, str]:
        """The fields with the sizes of a later stack, where it has its own."""
        found = {name: value for name, value in self.fields.names.items() if value is not None}
        names = {**self.tiny.names, **found}
        own: dict[str, str] = {}
        for canonical in ("num_hidden_layers", "num_attention_heads", "intermediate_size"):
            if canonical not in names:
                continue
            others = [twin for twin in twins(names[canonical], self.tiny.values) if twin != names[canonical]]
            own |= {canonical: others[0]} if others else {}
        return own

    def defaults(self) -> dict[str, Any]:
        """Return transformers' defaults of the fields that the facts name."""
        import transformers

        fields = transformers.AutoConfig.for_model(self.tiny.model_type).to_dict()
        names = {name for name in self.fields.names.values() if name is not None}
        names |= {*_ALWAYS, *_OF_SIGNALS, *self.fields.required, *self.fields.biases.values(), *self.fields.derived}
        names |= set(self.stack_names.values()) if len(self.layers) > 1 else set()
        names |= {self.fields.experts.count} if self.fields.experts is not None else set()
        found = {name: fields[name] for name in fields if name in names}
        found |= dict.fromkeys(self.fields.derived)
        found |= self._kinds_by_default(fields)
        for canonical in ("num_key_value_heads", "head_dim"):
            if (name := self.fields.names.get(canonical)) is not None:
                found[name] = self._follows(name, fields.get(name))
        return found

    def refuses_odd_heads(self) -> bool:
        """Whether transformers refuses heads that do not divide the hidden size, although their width is given."""
        names = self.tiny.names
        odd = SIZES["num_attention_heads"] - 1
        counts = {names["num_attention_heads"]: odd}
        if self.fields.names.get("num_key_value_heads") is not None:
            counts[str(self.fields.names["num_key_value_heads"])] = odd
        if self.fields.names.get("head_dim") is not None:
            counts[str(self.fields.names["head_dim"])] = SIZES["head_dim"]
        return self.tiny.but(**counts).shapes() is None

    def _kinds_by_default(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Return transformers' defaults of the fields that say which layers have a part; None where all have it."""
        layers = fields[self.tiny.names["num_hidden_layers"]]
        found: dict[str, Any] = {}
        for rule in filter(None, self.rules):
            in_all = len(read_layers(rule, fields, layers)) == layers
            found |= {name: None if in_all else fields.get(name) for name in rule.names}
        return found

    def _follows(self, name: str, default: Any) -> Any:
        """Return the default of a count, or None if it follows from other fields."""
        try:
            config = self.tiny.but(**{name: None}).config()
        except Exception:  # noqa: BLE001  configs raise exceptions of any class; here, those that refuse to leave it out
            return default
        return None if getattr(config, name, None) != default else default
