"""The facts of an architecture, put together from what was found."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from amp_export.architectures import Architecture, Block, Features, Kind, Projection, PrunedUnit, SharedExpert, Stack
from amp_export.architectures._blocks import Count, Tensor
from amp_export.architectures._layer_rules import LayerRule
from amp_export.discovery.attributes import count_all, count_given, find_attributes, recording_reads
from amp_export.discovery.behavior import embeds_padding, follow_one_another
from amp_export.discovery.config_facts import ConfigFacts
from amp_export.discovery.fields import Experts, FieldFinder, FoundFields
from amp_export.discovery.kinds import caches_states, find_rule
from amp_export.discovery.layouts import Heads
from amp_export.discovery.structure import FoundBlock, FoundLayer, find_layer, find_stacks, read_layer
from amp_export.discovery.tiny import MODALITIES, OTHER_SIZES, SIZES, Tiny, sample, takes_patches, twins
from amp_export.errors import UnsupportedModelError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

_LAST = SIZES["num_hidden_layers"] - 1
"""A layer that has experts, if the first layers of a type have none."""


@dataclass(frozen=True)
class Finder:
    """Puts the facts of a type together.

    Attributes:
        tiny: A tiny model of the type.
    """

    tiny: Tiny

    def architecture(self) -> Architecture:
        """Return the facts.

        Raises:
            UnsupportedModelError: The model does not attend, or in a way that is not understood.
        """
        first, *more = self._stacks()
        model, fields, config = self._model, self._found, self._config
        is_bare = self.tiny.class_name.endswith("Model") and not self.tiny.class_name.endswith("LMHeadModel")
        prefix = model.base_model_prefix if hasattr(model, model.base_model_prefix) and not is_bare else ""
        assert first.attention is not None
        assert first.mlp is not None
        return Architecture(
            model_type=self.tiny.model_type,
            class_name=self.tiny.class_name,
            defaults=config.defaults(),
            attention=first.attention,
            mlp=first.mlp,
            norms=(),
            kind=self._kind,
            modality=MODALITIES[model.main_input_name],
            takes_patches=takes_patches(model),
            generation_task="ForSpeechSeq2Seq" if model.main_input_name == "input_features" else "ForSeq2SeqLM",
            more_stacks=tuple(more),
            attention_layers=self._layer_rules[0],
            mlp_layers=self._layer_rules[1],
            keeps_states=self._kind is Kind.DECODER and caches_states(model),
            names=config.names(),
            derived=tuple(config.derived()),
            required=fields.required,
            says_head_dim_when={} if fields.names.get("head_dim") is not None else None,
            says_neurons_when={} if fields.says_neurons else None,
            hidden_size_divisible_by_heads=fields.names.get("head_dim") is not None and config.refuses_odd_heads(),
            embeds_padding=embeds_padding(self.tiny, model.main_input_name),
            heads_tied=first.heads_tied,
            heads_stay=self._why_heads_stay(),
            layers_follow_when={} if len(self._layers) > 1 or self._follow_one_another else None,
            base_model=prefix,
            layers=first.layers,
            harmless=(),
        )

    @cached_property
    def _model(self) -> PreTrainedModel:
        return self.tiny.build()

    @cached_property
    def _inputs(self) -> dict[str, torch.Tensor]:
        return sample(self._model)

    @cached_property
    def _layers(self) -> tuple[FoundLayer, ...]:
        """What is in a layer of each stack that attends."""
        found = [find_layer(self._model, stack, self._inputs) for stack in find_stacks(self._model)]
        layers = tuple(layer for layer in found if layer.heads is not None)
        # neurons alone may be pruned where heads are in doubt
        layers = layers or tuple(layer for layer in found if layer.unread is not None and self._has_neurons(layer))
        if not layers:
            raise UnsupportedModelError(_nothing_attends(self.tiny, found))
        return layers

    def _has_neurons(self, layer: FoundLayer) -> bool:
        """Whether the neurons of a layer are understood."""
        return bool(layer.blocks) or FieldFinder(self.tiny, (layer,)).find_experts() is not None

    @property
    def _follow_one_another(self) -> bool:
        return follow_one_another(self._model, self._layers[0].stack, self._inputs)

    @cached_property
    def _layer_rules(self) -> tuple[LayerRule | None, LayerRule | None]:
        """Which layers have the attention, and which the MLP, of the first stack; None if all have it."""
        layer = self._layers[0]
        outputs = [
            block.output for attends in (True, False) for block in layer.blocks if (block.heads is not None) == attends
        ]
        attention = layer.unread if layer.heads is None else outputs[0]
        fields, mlp = self.tiny.values, outputs[-1] if outputs else None
        # which layers have experts is never told by how layers mix tokens: `PreTrainedConfig`, transformers 5.24
        others = {name: value for name, value in fields.items() if name != "layer_types"}
        experts = self._found.experts
        told = [(fields, attention), (fields, mlp) if experts is None else (others, experts.output)]
        rules = [
            None if path is None else find_rule(known, self._having(layer, path), self._count(layer))
            for known, path in told
        ]
        return rules[0], rules[1]

    def _count(self, layer: FoundLayer) -> int:
        """Return the number of layers of a stack."""
        return len(list(self._model.get_submodule(layer.stack).children()))

    def _having(self, layer: FoundLayer, path: str) -> list[int]:
        """Return the numbers of the layers of a stack that have a projection, or experts."""
        paths = (f"{layer.stack}.{number}.{path}" for number in range(self._count(layer)))
        shapes = self._fields.shapes
        return [number for number, each in enumerate(paths) if each in shapes or f"{each}.weight" in shapes]

    @cached_property
    def _fields(self) -> FieldFinder:
        return FieldFinder(self.tiny, self._layers)

    @cached_property
    def _found(self) -> FoundFields:
        return self._fields.find()

    @cached_property
    def _config(self) -> ConfigFacts:
        return ConfigFacts(self.tiny, self._kind, self._found, self._layers, self._layer_rules)

    @cached_property
    def _other(self) -> PreTrainedModel:
        names = self.tiny.names
        counts = {names[name]: size for name, size in OTHER_SIZES.items() if name in names}
        counts |= {twin: size for name, size in counts.items() for twin in twins(name, self.tiny.values)}
        found = self.tiny.but(**counts)
        if found.why_not() is None:
            return found.build()
        # where the width of a head cannot be chosen, it follows from their number
        counts[names.get("head_dim", "head_dim")] = SIZES["hidden_size"] // OTHER_SIZES["num_attention_heads"]
        return self.tiny.but(**counts).build()

    @property
    def _kind(self) -> Kind:
        if self._model.config.is_encoder_decoder:
            return Kind.ENCODER_DECODER
        return Kind.DECODER if self.tiny.class_name.endswith(("ForCausalLM", "LMHeadModel")) else Kind.ENCODER

    def _stacks(self) -> Iterator[Stack]:
        """Yield the stacks, those over the same layers after one another."""
        for number, layer in enumerate(self._layers):
            mlp: Block | None = self._mlp(layer)
            if layer.heads is None:
                yield Stack(layers=layer.stack, attention=_unread(layer), mlp=mlp)
            for block in (block for block in layer.blocks if block.heads is not None):
                tensors = tuple(self._other_tensors(layer, block))
                yield Stack(
                    layers=layer.stack,
                    attention=self._block(layer, block, tensors),
                    mlp=mlp,
                    names=self._config.stack_names if number else {},
                    heads_tied=any(tensor.first_layer_only for tensor in tensors),
                    is_decoder=number > 0,
                )
                mlp = None  # of several attentions in a layer, the first has it

    def _why_heads_stay(self) -> str | None:
        if self._layers[0].heads is not None:
            return None
        problems = self._layers[0].problems
        return problems[0] if problems else "its attention is not understood"

    def _mlp(self, layer: FoundLayer) -> Block:
        if self._found.experts is not None:
            return self._expert_block(layer, self._found.experts)
        plain = [block for block in layer.blocks if block.heads is None]
        if len(plain) != 1:
            raise UnsupportedModelError(
                f"A layer of {layer.stack} of {self.tiny.class_name} has {len(plain)} MLPs that are understood, where "
                f"one is expected: {', '.join(block.output for block in plain) or 'none'}."
            )
        return self._block(layer, plain[0], ())

    def _block(self, layer: FoundLayer, block: FoundBlock, tensors: tuple[Tensor, ...]) -> Block:
        module = block.inputs[0].path.rpartition(".")[0]
        unit = PrunedUnit.QUERY_HEADS if block.heads is not None else PrunedUnit.NEURONS
        inputs = tuple(
            Projection(
                each.path,
                rows=each.rows.units[0] if len(each.rows.units) == 1 else each.rows.units,
                entries_per_head=None if each.rows.widths == 1 else ("head_dim",) * each.rows.widths,
                bias=self._found.biases.get(each.path, each.bias),
                transposed=each.transposed,
                layout=each.rows.layout,
            )
            for each in block.inputs
        )
        bias = self._found.biases.get(block.output, block.bias)
        output = Projection(block.output, columns=unit, bias=bias, transposed=block.transposed)
        norms = tuple(_norm_tensors(block))
        return Block(module, inputs, output, (*norms, *tensors), self._attributes(layer, module, block.heads))

    def _expert_block(self, layer: FoundLayer, experts: Experts) -> Block:
        module = experts.inputs.rpartition(".")[0]
        rows = (PrunedUnit.NEURONS,) * experts.fused
        kind: dict[str, Any] = {"bias": experts.bias, "transposed": experts.transposed, "stacked": experts.count}
        inputs = (Projection(experts.inputs, rows=rows if len(rows) > 1 else rows[0], **kind),)
        output = Projection(experts.output, columns=PrunedUnit.NEURONS, **kind)
        blocks = layer.blocks
        if layer.number not in self._having(layer, experts.output):
            blocks = read_layer(self._model, layer.stack, _LAST, self._inputs).blocks
        plain = (block for block in blocks if block.heads is None)
        shared = [self._block(layer, each, ()) for each in plain if self._fields.is_as_wide(each, experts)]
        return Block(
            module,
            inputs,
            output,
            attributes=self._attributes(layer, module, None),
            shared_expert=SharedExpert(shared[0]) if len(shared) == 1 else None,
            scales_inputs=count_given(self._model, self._inputs, _path(layer, _LAST, module)) == 1,
        )

    def _attributes(self, layer: FoundLayer, module: str, heads: Heads | None) -> dict[str, Count]:
        """Return the attributes of a block's module that hold counts and are read, and fields of its config.

        Args:
            layer: The layer.
            module: Path of the module in it.
            heads: Its heads if it is an attention, whose module may read its config.
        """
        has_experts = heads is None and self._found.experts is not None
        path = _path(layer, _LAST if has_experts else layer.number, module)
        others = self._other_heads if heads is not None else None
        both = (count_all(heads, self._neurons(self._model)), count_all(others, self._neurons(self._other)))
        found = find_attributes(self._model.get_submodule(path), self._other.get_submodule(path), *both)
        if heads is not None:
            names = self._found.names
            counts = {"num_attention_heads": Count.QUERY_HEADS, "num_key_value_heads": Count.KEY_VALUE_HEADS}
            found |= {f"config.{names.get(canonical) or canonical}": count for canonical, count in counts.items()}
        reads = self._reads(path)
        return {name: count for name, count in found.items() if name in reads}

    def _reads(self, path: str) -> set[str]:
        """Return what is read of a module while it runs: see `recording_reads`."""
        import torch

        with recording_reads(self._model.get_submodule(path)) as reads, torch.no_grad():
            self._model(**self._inputs)
        return reads

    @cached_property
    def _other_heads(self) -> Heads:
        layer = find_layer(self._other, self._layers[0].stack, sample(self._other))
        assert layer.heads is not None
        return layer.heads

    def _neurons(self, model: PreTrainedModel) -> int:
        layer = self._layers[0]
        if self._found.experts is not None:
            weight = model.get_parameter(f"{layer.stack}.{_LAST}.{self._found.experts.output}")
            return int(weight.shape[self._found.experts.neurons_axis])
        block = next(block for block in layer.blocks if block.heads is None)
        weight = model.get_parameter(f"{layer.path}.{block.output}.weight")
        return int(weight.shape[0 if block.transposed else 1])

    def _other_tensors(self, layer: FoundLayer, block: FoundBlock) -> Iterator[Tensor]:
        """Yield further parameters of an attention with an entry for each head."""
        assert block.heads is not None
        module = block.inputs[0].path.rpartition(".")[0]
        known = {f"{path}.{part}" for path in block.paths for part in ("weight", "bias")}
        shapes, others = self._fields.shapes, dict(self._other.named_parameters())
        prefix = f"{layer.path}."
        others_attend = [number for number in self._having(layer, block.output) if number != layer.number]
        for name, shape in shapes.items():
            below = name.removeprefix(prefix)
            if not name.startswith(f"{prefix}{module}.") or below in known:
                continue
            moved = [axis for axis, size in enumerate(shape) if others[name].shape[axis] != size]
            pairs = [(shape[axis], others[name].shape[axis]) for axis in moved]
            heads = [(block.heads.query_heads, self._other_heads.query_heads)]
            if pairs == heads:
                by_head = Features((PrunedUnit.QUERY_HEADS,), entries_per_head=1)
                axes = tuple(by_head if axis in moved else size for axis, size in enumerate(shape))
                in_all = all(f"{layer.stack}.{number}.{below}" in shapes for number in others_attend)
                yield Tensor(below, axes, first_layer_only=not in_all)


def _unread(layer: FoundLayer) -> Block:
    """Return an attention whose heads stay, so that only its output is named."""
    assert layer.unread is not None
    return Block(layer.unread.rpartition(".")[0], (), Projection(layer.unread))


def _path(layer: FoundLayer, number: int, module: str) -> str:
    return ".".join(filter(None, (layer.stack, str(number), module)))


def _norm_tensors(block: FoundBlock) -> Iterator[Tensor]:
    for norm in block.norms:
        if norm.by_head:
            yield Tensor(f"{norm.path}.weight", (Features((norm.unit,), entries_per_head=1), "head_dim"))
        else:
            yield Tensor(f"{norm.path}.weight", (Features((norm.unit,)),))


def _nothing_attends(tiny: Tiny, layers: Sequence[FoundLayer]) -> str:
    tried = ", ".join(layer.stack for layer in layers) or "no list of layers"
    problems = [problem for layer in layers for problem in layer.problems]
    why = f": {problems[0]}" if problems else ", or not in a way that is understood"
    return f"{tiny.class_name} does not attend{why}.\nTried: {tried}."
