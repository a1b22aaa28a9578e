"""Parameters that a head and a neuron cost."""

from __future__ import annotations

from dataclasses import dataclass, replace

from amp_export.architectures import LayerWidths, ModelConfig, parameter_count


@dataclass(frozen=True)
class ModelCosts:
    """What a head or neuron in every layer costs, in parameters; all else is fixed.

    Attributes:
        dense: The widths of the dense model.
        total: All its parameters.
        query_head: Parameters of one query head in every layer; `key_value_head` and `neuron` likewise.
    """

    dense: LayerWidths
    total: int
    query_head: int
    key_value_head: int
    neuron: int

    @classmethod
    def of(cls, config: ModelConfig) -> ModelCosts:
        """Count them on the shapes of the weights."""

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
        )

    def removed(self, widths: LayerWidths) -> int:
        """Return the parameters that are removed when every layer has these widths."""
        return (
            (self.dense.query_heads - widths.query_heads) * self.query_head
            + (self.dense.key_value_heads - widths.key_value_heads) * self.key_value_head
            + (self.dense.neurons - widths.neurons) * self.neuron
        )

    def ratio(self, widths: LayerWidths) -> float:
        """Return the share of all parameters that is removed then."""
        return self.removed(widths) / self.total

    def step(self, neurons: int) -> float:
        """Return the share of all parameters that so many neurons in every layer are."""
        return neurons * self.neuron / self.total
