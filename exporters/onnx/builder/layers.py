"""Components of layers, as nodes: linear layers, norms, factors and soft caps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from amp_export.architectures import Block, Computation, Factor, ModelConfig, Projection, Total, part_lengths
from amp_export.exporters.onnx.builder.activations import activation_of, add_activation
from amp_export.exporters.onnx.builder.nodes import Graph
from amp_export.exporters.onnx.builder.norms import add_norm, add_stored_norm
from amp_export.exporters.onnx.builder.products import add_linear


@dataclass(frozen=True)
class Parts:
    """Adds a decoder's parts to a graph. Values are named after the modules of transformers that compute them."""

    graph: Graph
    config: ModelConfig

    @property
    def computation(self) -> Computation:
        """Facts about the decoder's computation."""
        computation = self.config.architecture.computation
        assert computation is not None
        return computation

    def add_linear(self, scope: str, projection: Projection, value: str) -> str:
        """Add a linear layer, and the multipliers of what it writes."""
        name = f"{scope}.{projection.name}"
        bias = f"{name}.bias" if self.config.biases[projection.name] else None
        written = add_linear(self.graph, f"{name}.weight", value, bias=bias, output=name)
        factors = self.config.write_factors(projection)
        if len(factors) == 1:
            return self.add_multiplier(factors[0], written)
        assert isinstance(projection.writes, Total), f"{projection.name} writes several parts"
        return self.add_multipliers(factors, part_lengths(self.config, projection.writes), written)

    def add_mlp(self, scope: str, mlp: Block, neurons: int, hidden: str, *, part: str = "mlp") -> str:
        """Add an MLP.

        Args:
            scope: Name of the layer.
            mlp: The MLP.
            neurons: Number of its neurons.
            hidden: What it reads.
            part: What the values between its linear layers are named after.
        """
        projected = [self.add_linear(scope, projection, hidden) for projection in mlp.inputs]
        if isinstance(mlp.inputs[0].rows, tuple):
            names = (f"{scope}.{mlp.module}.gate", f"{scope}.{mlp.module}.up")
            projected = list(self.graph.split(projected[0], [neurons] * 2, outputs=names))
        return self.add_linear(scope, mlp.output, self.add_neurons(scope, projected, part=part))

    def add_neurons(self, scope: str, projected: Sequence[str], *, part: str) -> str:
        """Add the activation function of what an MLP projects, multiplied with its up if it has one."""
        gate, *up = projected
        name = f"{scope}.{part}.neurons"
        activated = f"{scope}.{part}.activated" if up else name
        module = f"{scope}.{self.computation.activation_module}"
        made = add_activation(self.graph, activation_of(self.config), gate, output=activated, module=module)
        return self.graph.add("Mul", made, *up, output=name) if up else made

    def add_multiplier(self, factor: float, value: str) -> str:
        """Multiply by a number unless it is 1."""
        if factor == 1.0:
            return value
        return self.graph.add("Mul", value, self.graph.number(factor), output=f"{value}.multiplied")

    def add_multipliers(self, factors: Sequence[float], lengths: Sequence[int], value: str) -> str:
        """Multiply the parts of the last axis, each by its own number: as one node, or none if all are 1."""
        if len({*factors}) == 1:
            return self.add_multiplier(factors[0], value)
        return self.graph.add("Mul", value, self.graph.parts(factors, lengths), output=f"{value}.multiplied")

    def add_read_factor(self, scope: str, block: Block, hidden: str) -> str:
        """Add the multiplier of what a block reads, if it has one."""
        factor = self.computation.read_factors.get(block.module)
        return self.add_factor(factor, hidden, output=f"{scope}.{block.module}.input")

    def add_norm(self, name: str, value: str) -> str:
        """Add a norm over the last axis, whose weight has only that axis."""
        subtracts_mean = self.computation.norm.subtracts_mean
        return add_stored_norm(self.graph, name, value, subtracts_mean=subtracts_mean, epsilon=self.epsilon)

    def add_norm_of_sum(self, name: str, value: str, update: str, *, total: str) -> str:
        """Add a sum and the norm over it as one node, which returns both; the sum is named `total`."""
        weight = self.graph.weight(f"{name}.weight")
        bias = [self.graph.weight(f"{name}.bias")] if self.graph.has_weight(f"{name}.bias") else []
        operator = "Skip" + ("" if self.computation.norm.subtracts_mean else "Simplified") + "LayerNormalization"
        outputs = [name, "", "", total]
        self.graph.add_fused(operator, value, update, weight, *bias, outputs=outputs, epsilon=self.epsilon)
        return name

    def add_norm_of_each_head(self, name: str, value: str) -> str:
        """Add a norm over the last axis, with a row of weights for each head of [batch, sequence, heads, head_dim].

        ONNX Runtime 1.23 does not support such a weight in LayerNormalization, so a separate node multiplies by it.
        """
        ones, subtracts_mean = (
            self.graph.numbers(1.0, shape=[self.config.head_dim]),
            self.computation.norm.subtracts_mean,
        )
        plain = add_norm(
            self.graph, value, ones, subtracts_mean=subtracts_mean, epsilon=self.epsilon, output=f"{name}.plain"
        )
        return self.graph.add("Mul", plain, self.graph.weight(f"{name}.weight"), output=name)

    def add_factor(self, factor: Factor | None, value: str, *, output: str) -> str:
        """Multiply by a factor unless it is 1; with the power -1, divide as transformers does."""
        if factor is None or (number := self.config.factor(factor)) == 1.0:
            return value
        if factor.power == -1.0:
            return self.graph.add("Div", value, self.graph.number(1.0 / number), output=output)
        return self.graph.add("Mul", value, self.graph.number(number), output=output)

    def add_softcap(self, field: str | None, value: str, *, output: str) -> str:
        """Add `cap * tanh(value / cap)` if the config names a cap: `eager_attention_forward`, `modeling_gemma2.py`."""
        if field is None or self.config.fields[field] is None:
            return value
        cap = self.graph.number(self.config.fields[field])
        share = self.graph.add("Div", value, cap, output=f"{output}.share")
        bounded = self.graph.add("Tanh", share, output=f"{output}.bounded")
        return self.graph.add("Mul", bounded, cap, output=output)

    @property
    def epsilon(self) -> float:
        """What norms add to the mean of squares."""
        named = self.computation.epsilon
        return float(self.config.fields[named] if isinstance(named, str) else named)
