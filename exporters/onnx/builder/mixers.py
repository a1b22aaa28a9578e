"""What mixes tokens in place of attention or beside it, as nodes; it keeps states, which do not grow with the text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from amp_export.architectures import CacheTensor, GatedDeltaRule, Mixer, StateSpace, cache_tensors
from amp_export.exporters.models.caches import past_name, present_of
from amp_export.exporters.onnx.builder.activations import activation_of, add_activation
from amp_export.exporters.onnx.builder.entries import Entry
from amp_export.exporters.onnx.builder.layers import Parts
from amp_export.exporters.onnx.builder.nodes import END
from amp_export.exporters.onnx.builder.opset20 import add_unit_rms
from amp_export.exporters.onnx.builder.recurrences import (
    RecurrenceParts,
    RecurrenceSizes,
    add_recurrence,
    add_unit_norm,
)
from amp_export.options import Dtype

_TOKENS = "mixers.tokens"


@dataclass(frozen=True)
class Mixers(Parts):
    """Adds mixers to a graph.

    Attributes:
        entry: What the graph reads.
    """

    entry: Entry

    def prepare(self) -> None:
        """Add what all layers share: 1 for each new token and 0 for padding, [batch, sequence, 1].

        Padding before a text would reach its tokens through states, so that its hidden states are set to 0:
        `apply_mask_to_padding_states`, `modeling_lfm2.py`, transformers 5.24.
        """
        if all(site.stack.mixer is None for site in self.config.sites):
            return
        graph = self.graph
        sizes = graph.add("Shape", self.entry.input_name, output=f"{_TOKENS}.shape", start=1, end=2)
        first = graph.add("Neg", sizes, output=f"{_TOKENS}.first")
        end, axis = graph.integers(END), graph.integers(1)
        new = graph.add("Slice", "attention_mask", first, end, axis, output=f"{_TOKENS}.new")
        new = graph.add("Unsqueeze", new, graph.integers(2), output=f"{_TOKENS}.by_token")
        graph.to_graph_dtype(new, output=_TOKENS)

    def add(self, layer: int, mixer: Mixer, hidden: str) -> str:
        """Add the mixer of a layer."""
        scope = f"{self.config.architecture.layers}.{layer}"
        masked = self.graph.add("Mul", hidden, _TOKENS, output=f"{scope}.{mixer.module}.masked")
        if isinstance(mixer, GatedDeltaRule):
            mixed = self._add_delta_rule(layer, scope, mixer, masked)
        elif isinstance(mixer, StateSpace):
            mixed = self._add_state_space(layer, scope, mixer, masked)
        else:
            mixed = self._add_short_convolution(layer, scope, mixer, masked)
        return self.add_linear(scope, mixer.output, mixed)

    def _add_short_convolution(self, layer: int, scope: str, mixer: Mixer, hidden: str) -> str:
        """Add the convolution of a layer's input, with a gate before and one after."""
        module, (projection,) = f"{scope}.{mixer.module}", mixer.inputs
        names = [f"{module}.{part}" for part in ("gate_before", "gate_after", "values")]
        projected = self.add_linear(scope, projection, hidden)
        before, after, values = self.graph.split(projected, [self.config.hidden_size] * 3, outputs=names)
        gated = self.graph.add("Mul", before, values, output=f"{module}.gated")
        convolved = self._add_convolution(layer, scope, mixer, gated)
        return self.graph.add("Mul", after, convolved, output=f"{module}.mixed")

    def _add_delta_rule(self, layer: int, scope: str, mixer: GatedDeltaRule, hidden: str) -> str:
        """Add a gated delta rule on what is convolved, and the gate and the norm of its output."""
        graph, module = self.graph, f"{scope}.{mixer.module}"
        convolved_part, gate, rate, decay = (self.add_linear(scope, each, hidden) for each in mixer.inputs)
        state = self._states(layer)[1]
        value_heads, key_width, value_width = (size or 0 for size in state.axes)
        sizes = RecurrenceSizes(
            self.config.size(mixer.key_heads), value_heads, key_width, value_width, scale=key_width**-0.5
        )
        convolved = self._add_convolution(layer, scope, mixer, convolved_part)
        convolved = add_activation(
            graph, activation_of(self.config), convolved, output=f"{module}.convolved", module=module
        )
        names = [f"{module}.{part}" for part in ("queries", "keys", "values")]
        width = sizes.key_heads * key_width
        split = graph.split(convolved, [width, width, value_heads * value_width], outputs=names)
        queries, keys, values = (self._to_float32(each) for each in split)
        by_head = graph.integers(0, 0, sizes.key_heads, key_width)
        queries, keys = (
            add_unit_norm(graph, graph.add("Reshape", each, by_head, output=f"{each}.heads"), output=f"{each}.unit")
            for each in (queries, keys)
        )
        rates = self._to_float32(graph.add("Sigmoid", rate, output=f"{module}.rates"))
        decays = self._add_decays(scope, mixer, self._to_float32(decay))
        parts = RecurrenceParts(queries, keys, values, decays, past_name(state), rates)
        read = add_recurrence(graph, parts, sizes, present=present_of(parts.state), output=f"{module}.read")
        return self._add_gated_norm(scope, mixer, read, gate, heads=(value_heads, value_width))

    def _add_decays(self, scope: str, mixer: GatedDeltaRule, projected: str) -> str:
        """Add the logarithms of how much of a state is kept."""
        graph, module = self.graph, f"{scope}.{mixer.module}"
        bias = self._to_float32(graph.weight(f"{scope}.{mixer.decay_bias}"))
        shifted = graph.add("Add", projected, bias, output=f"{module}.decay_shifted")
        steps = graph.add("Softplus", shifted, output=f"{module}.steps")
        return graph.add("Mul", steps, self._add_rate(scope, mixer.module, mixer.decay), output=f"{module}.decays")

    def _add_rate(self, scope: str, module: str, decay: str) -> str:
        """Add the rate at which each head's state decays, a negative number, of which the weight is the logarithm."""
        logarithm = self._to_float32(self.graph.weight(f"{scope}.{decay}"))
        rate = self.graph.add("Exp", logarithm, output=f"{scope}.{module}.positive_rate")
        return self.graph.add("Neg", rate, output=f"{scope}.{module}.rate")

    def _add_state_space(self, layer: int, scope: str, mixer: StateSpace, hidden: str) -> str:
        """Add a state-space mixer: a gated sum of what is convolved, and the gate and the norm of its output."""
        graph, module, (projection,) = self.graph, f"{scope}.{mixer.module}", mixer.inputs
        convolution, state = self._states(layer)
        heads, key_width, value_width = (size or 0 for size in state.axes)
        inner, groups, channels = heads * value_width, self.config.size(mixer.groups), convolution.axes[0] or 0
        projected = self.add_linear(scope, projection, hidden)
        names = [f"{module}.{part}" for part in ("gate", "channels", "projected_steps")]
        gate, convolved, steps = graph.split(projected, [inner, channels, heads], outputs=names)
        convolved = self._add_convolution(layer, scope, mixer, convolved)
        convolved = add_activation(
            graph, activation_of(self.config), convolved, output=f"{module}.convolved", module=module
        )
        # padding is not 0 any more where a bias was added
        convolved = self._to_float32(graph.add("Mul", convolved, _TOKENS, output=f"{module}.convolved_tokens"))
        names = [f"{module}.{part}" for part in ("values", "keys", "queries")]
        values, keys, queries = graph.split(convolved, [inner, groups * key_width, groups * key_width], outputs=names)
        steps = graph.add("Add", steps, graph.weight(f"{scope}.{mixer.step_bias}"), output=f"{module}.shifted_steps")
        steps = self._to_float32(graph.add("Softplus", steps, output=f"{module}.steps"))
        by_head, by_key = graph.integers(0, 0, heads, -1), graph.integers(0, 0, groups, key_width)
        split = graph.add("Reshape", values, by_head, output=f"{module}.values_by_head")
        size = graph.add("Reshape", steps, by_head, output=f"{module}.steps_by_head")
        queries, keys = (graph.add("Reshape", each, by_key, output=f"{each}.by_group") for each in (queries, keys))
        written = self._join(graph.add("Mul", split, size, output=f"{module}.written"), inner)
        rate = self._add_rate(scope, mixer.module, mixer.decay)
        decays = graph.add("Mul", steps, rate, output=f"{module}.decays")
        parts = RecurrenceParts(queries, keys, written, decays, past_name(state))
        sizes = RecurrenceSizes(groups, heads, key_width, value_width)
        read = add_recurrence(graph, parts, sizes, present=present_of(parts.state), output=f"{module}.read")
        skip = graph.integers(heads, 1)
        factor = graph.add(
            "Reshape", self._to_float32(graph.weight(f"{scope}.{mixer.skip}")), skip, output=f"{module}.skip"
        )
        skipped = self._join(graph.add("Mul", split, factor, output=f"{module}.skipped"), inner)
        total = graph.add("Add", read, skipped, output=f"{module}.total")
        mixed = self._add_gate_and_norm(scope, mixer, total, gate, width=inner // groups)
        return graph.cast(mixed, graph.dtype, output=f"{module}.mixed", source=Dtype.FLOAT32)

    def _add_gate_and_norm(self, scope: str, mixer: StateSpace, value: str, gate: str, *, width: int) -> str:
        """Add the gate of a result, and the norm of each group before or after it if there is one, in float32.

        Source: `FalconH1RMSNormGated` and `FalconH1Mixer`, `modeling_falcon_h1.py`, transformers 5.24.
        """
        graph, module = self.graph, f"{scope}.{mixer.module}"
        activated = add_activation(graph, "silu", self._to_float32(gate), output=f"{module}.gates", module=module)
        has_norm = self.config.meets(mixer.normed_when)
        gated_last = mixer.gated_last_when is not None and self.config.meets(mixer.gated_last_when)
        if has_norm and gated_last:
            value = self._add_norm_by_group(scope, mixer, value, width=width)
        gated = graph.add("Mul", value, activated, output=f"{module}.gated")
        return self._add_norm_by_group(scope, mixer, gated, width=width) if has_norm and not gated_last else gated

    def _add_norm_by_group(self, scope: str, mixer: StateSpace, value: str, *, width: int) -> str:
        graph, module = self.graph, f"{scope}.{mixer.module}"
        groups = graph.add("Reshape", value, graph.integers(0, 0, -1, width), output=f"{module}.groups")
        normed = add_unit_rms(graph, groups, epsilon=self.epsilon, scope=groups)
        weight = self._to_float32(graph.weight(f"{scope}.{mixer.norm}.weight"))
        joined = graph.add("Reshape", normed, graph.integers(0, 0, -1), output=f"{module}.normed")
        return graph.add("Mul", joined, weight, output=f"{module}.weighted")

    def _join(self, by_head: str, width: int) -> str:
        return self.graph.add("Reshape", by_head, self.graph.integers(0, 0, width), output=f"{by_head}.joined")

    def _add_gated_norm(
        self, scope: str, mixer: GatedDeltaRule, read: str, gate: str, *, heads: tuple[int, int]
    ) -> str:
        """Add the norm of each head of a result, and its gate: `Qwen3_5RMSNormGated`, `modeling_qwen3_5.py`, 5.24."""
        graph, module = self.graph, f"{scope}.{mixer.module}"
        rounded = graph.cast(read, graph.dtype, output=f"{module}.rounded", source=Dtype.FLOAT32)
        split = graph.add("Reshape", rounded, graph.integers(0, 0, *heads), output=f"{module}.heads")
        normed = self._to_float32(self.add_norm(f"{scope}.{mixer.norm}", split))
        joined = graph.add("Reshape", normed, graph.integers(0, 0, heads[0] * heads[1]), output=f"{module}.normed")
        gates = self._to_float32(gate)
        activated = add_activation(graph, "silu", gates, output=f"{module}.gates", module=module)
        mixed = graph.add("Mul", joined, activated, output=f"{module}.gated")
        return graph.cast(mixed, graph.dtype, output=f"{module}.mixed", source=Dtype.FLOAT32)

    def _to_float32(self, value: str) -> str:
        return self.graph.cast(value, Dtype.FLOAT32, output=f"{value}.float32")

    def _add_convolution(self, layer: int, scope: str, mixer: Mixer, value: str) -> str:
        """Add a causal convolution of each channel of [batch, sequence, channels], and the state after it.

        It is one product for each tap instead of Conv, for which tokens would have to lie on the last axis, and which
        ONNX Runtime 1.32 computes one channel after the other: on two cores, 0.04 ms for a token of 2,048 channels
        instead of 0.18, and 1.8 ms for 256 tokens instead of 1.4.
        """
        graph, name = self.graph, f"{scope}.{mixer.convolution}"
        state = self._states(layer)[0]
        taps = state.axes[-1]
        assert taps is not None
        past = past_name(state)
        # the oldest of the state's tokens is beyond the reach of the new ones
        recent = graph.slice(past, 1, None, axis=2, output=f"{name}.recent")
        recent = graph.add("Transpose", recent, output=f"{name}.recent_by_token", perm=[0, 2, 1])
        window = graph.add("Concat", recent, value, output=f"{name}.window", axis=1)
        last = graph.slice(window, -taps, None, axis=1, output=f"{name}.last")
        graph.add("Transpose", last, output=present_of(past), perm=[0, 2, 1])
        products = [
            graph.add(
                "Mul",
                graph.slice(window, tap, tap - taps + 1 or None, axis=1, output=f"{name}.tokens.{tap}"),
                weight,
                output=f"{name}.products.{tap}",
            )
            for tap, weight in enumerate(self._add_taps(name, taps))
        ]
        if graph.has_weight(f"{name}.bias"):
            products.append(graph.weight(f"{name}.bias"))
        return self._add_sum(products, output=f"{name}.convolved")

    def _add_taps(self, name: str, taps: int) -> list[str]:
        """Add the weights of each tap, [1, 1, channels]; runtimes compute them when they load the graph."""
        graph = self.graph
        by_tap = graph.add("Transpose", graph.weight(f"{name}.weight"), output=f"{name}.by_tap", perm=[2, 1, 0])
        return [graph.slice(by_tap, tap, tap + 1, axis=0, output=f"{name}.weights.{tap}") for tap in range(taps)]

    def _add_sum(self, values: Sequence[str], *, output: str) -> str:
        total, *others = values
        for number, value in enumerate(others, start=1):
            is_last = number == len(others)
            total = self.graph.add("Add", total, value, output=output if is_last else f"{output}.{number}")
        return total

    def _states(self, layer: int) -> list[CacheTensor]:
        """Return the states of a layer, in the order of its mixer's."""
        held = cache_tensors(self.config, [site.widths for site in self.config.sites])
        return [each for each in held if each.layer == layer and each.is_state]
