"""Parameter counts of heads and neurons."""

from __future__ import annotations

from dataclasses import dataclass, replace

from amp_export.architectures import LayerWidths, ModelConfig, parameter_count


@dataclass(frozen=True)
class ModelCosts:
    """Parameters of one head or neuron in every layer that has some; the number of all other parameters is fixed.

    Attributes:
        dense: Widths of the dense model.
        total: Parameters of the dense model.
        query_head: Parameters of one query head in every layer.
        key_value_head: Parameters of one key/value head in every layer.
        neuron: Parameters of one neuron in every layer.
        attending: Number of layers that have heads.
        with_mlp: Number of layers that have neurons.
    """

    dense: LayerWidths
    total: int
    query_head: int
    key_value_head: int
    neuron: int
    attending: int
    with_mlp: int

    @classmethod
    def of(cls, config: ModelConfig) -> ModelCosts:
        """Return the parameter counts, derived from the shapes of the weights."""

        def parameters(widths: LayerWidths) -> int:
            return parameter_count(config, config.everywhere(widths))

        dense = config.widths
        total = parameters(dense)
        return cls(
            dense=dense,
            total=total,
            query_head=parameters(replace(dense, query_heads=dense.query_heads + 1)) - total,
            key_value_head=parameters(replace(dense, key_value_heads=dense.key_value_heads + 1)) - total,
            neuron=parameters(replace(dense, neurons=dense.neurons + 1)) - total,
            attending=sum(site.stack.attention is not None for site in config.sites),
            with_mlp=sum(site.stack.mlp is not None for site in config.sites),
        )

    @property
    def group(self) -> int:
        """Parameters of one key/value head and its query heads in every layer."""
        return self.key_value_head + self.dense.query_group * self.query_head

    @property
    def layer_group(self) -> float:
        """Parameters of one key/value head and its query heads in one layer that has some."""
        return self.group / self.attending

    @property
    def layer_neuron(self) -> float:
        """Parameters of one neuron in one layer that has some."""
        return self.neuron / self.with_mlp

    def removed(self, widths: LayerWidths) -> int:
        """Return the number of parameters removed if every layer has these widths."""
        return (
            (self.dense.query_heads - widths.query_heads) * self.query_head
            + (self.dense.key_value_heads - widths.key_value_heads) * self.key_value_head
            + (self.dense.neurons - widths.neurons) * self.neuron
        )

    def ratio(self, widths: LayerWidths) -> float:
        """Return the share of all parameters removed if every layer has these widths."""
        return self.removed(widths) / self.total

    def step(self, neurons: int) -> float:
        """Return the share of all parameters in this many neurons of every layer."""
        return neurons * self.neuron / self.total
