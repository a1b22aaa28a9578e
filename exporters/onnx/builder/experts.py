"""Mixtures of experts, as nodes: a router sends each token to some experts, and weighs what they make of it.

Rows of tokens are sorted by their experts, each expert multiplies its rows, and all else is computed on all rows at
once. Where an expert has no rows, its weights are not read. Other forms were tried in ONNX Runtime 1.32 on two cores,
with one layer of a hidden size of 1,024, in milliseconds for 1, 16 and 256 tokens:

- 8 experts of 2,048 neurons, 2 for a token, float32: 12, 30 and 67. All experts on all tokens: 35, 61 and 160. Tokens
  taken, computed and added up expert by expert: 12, 24 and 62. com.microsoft.MoE: 12, 37 and 78.
- 64 experts of 256 neurons, 8 for a token: 10, 32 and 62; 44, 73 and 173; 3, 31 and 59; 2, 41 and 59. For one token
  of these, quartiles are 4 and 14, 3 and 6, and 2 and 10.
- The latter in int4: 1.0, 15 and 52. Expert by expert: 10, 16 and 74. com.microsoft.QMoE: 1.3, 30 and 50.

So one form is for both kinds of operators. Expert by expert, there are five times as many nodes.
"""

from __future__ import annotations

from dataclasses import dataclass

from amp_export.architectures import Experts, LayerWidths, Layout, Projection, expert_name
from amp_export.exporters.onnx.builder.layers import Parts
from amp_export.exporters.onnx.builder.products import add_product
from amp_export.options import Dtype


@dataclass(frozen=True)
class Choice:
    """The experts of each token.

    Attributes:
        numbers: Their numbers, int64 [tokens, experts of a token].
        weights: Their weights, float32 [tokens, experts of a token].
    """

    numbers: str
    weights: str


@dataclass(frozen=True)
class SentRows:
    """Rows of tokens that are sent to experts, in the order of the experts.

    Attributes:
        counts: Number of rows of each expert, int64 [experts].
        experts: Expert of each row, int64 [rows].
        tokens: Token of each row, int64 [rows].
        by_token: The rows in the order of the tokens, as numbers of rows, int64 [rows].
    """

    counts: str
    experts: str
    tokens: str
    by_token: str


@dataclass(frozen=True)
class MixtureOfExperts(Parts):
    """Adds mixtures of experts to a graph."""

    def add(self, scope: str, experts: Experts, widths: LayerWidths, hidden: str) -> str:
        """Add the experts of a layer, and the one that all tokens share, if there is one.

        Args:
            scope: Name of the layer.
            experts: The experts.
            widths: Widths of the layer.
            hidden: What they read, [batch, sequence, hidden].
        """
        name = f"{scope}.{experts.module}"
        rows = self.graph.add(
            "Reshape", hidden, self.graph.integers(-1, self.config.hidden_size), output=f"{name}.tokens"
        )
        total = self._add_experts(scope, experts, widths, rows, self._add_choice(scope, experts, rows))
        shape = self.graph.add("Shape", hidden, output=f"{name}.shape")
        made = self.graph.add("Reshape", total, shape, output=name)
        if (shared := experts.shared_expert) is None:
            return made
        module = shared.mlp.module
        other = self.add_mlp(scope, shared.mlp, widths.neurons, hidden, part=module)
        if shared.gate is not None:
            gate = self.add_linear(scope, shared.gate, hidden)
            gate = self.graph.add("Sigmoid", gate, output=f"{scope}.{module}.gate")
            other = self.graph.add("Mul", other, gate, output=f"{scope}.{module}")
        return self.graph.add("Add", made, other, output=f"{name}.and_shared")

    def _add_choice(self, scope: str, experts: Experts, rows: str) -> Choice:
        graph, name = self.graph, f"{scope}.{experts.router.name}"
        scores = self.add_linear(scope, experts.router, rows)
        scores = graph.cast(scores, Dtype.FLOAT32, output=f"{name}.float32")
        chosen = experts.per_token(self.config.fields)
        best, places = graph.largest(scores, chosen, outputs=(f"{name}.best", f"{name}.places"))
        if experts.sparse_mixer is not None:
            weights = self._add_sparse_mixer(name, experts.sparse_mixer, scores, best, places)
        elif self._adds_to_one(experts):
            weights = graph.add("Softmax", best, output=f"{name}.weights", axis=-1)
        else:
            of_all = graph.add("Softmax", scores, output=f"{name}.weights_of_all", axis=-1)
            weights = graph.add("GatherElements", of_all, places, output=f"{name}.weights", axis=1)
        return Choice(places, weights)

    def _adds_to_one(self, experts: Experts) -> bool:
        fact = experts.adds_to_one
        return bool(self.config.fields[fact]) if isinstance(fact, str) else fact

    def _add_sparse_mixer(self, name: str, jitter: str, scores: str, best: str, places: str) -> str:
        """Add the weights of a sparse mixer: `sparsemixer`, `modeling_phimoe.py`, transformers 5.24; arXiv 2409.12136.

        The first expert's weight is a softmax over the scores near the best, the second's one over those near the
        second-best, without the best. A score is near if its distance, as a share of its magnitude or of that score,
        whichever is larger, is at most twice the jitter. Each weight is the largest of its softmax.
        """
        graph, lowest = self.graph, self.graph.number(float("-inf"), dtype=Dtype.FLOAT32)
        first = graph.slice(places, 0, 1, axis=1, output=f"{name}.first")
        infinity = graph.add("Expand", lowest, graph.add("Shape", first, output=f"{name}.firsts"), output=f"{name}.low")
        others = graph.add("ScatterElements", scores, first, infinity, output=f"{name}.others", axis=1)
        axes = graph.integers(1)
        pair = [graph.add("Unsqueeze", each, axes, output=f"{each}.of_pair") for each in (scores, others)]
        left = graph.add("Concat", *pair, output=f"{name}.left", axis=1)
        top = graph.add("Unsqueeze", best, graph.integers(2), output=f"{name}.top")
        distance = graph.add("Sub", top, pair[0], output=f"{name}.distances")
        size = graph.add("Max", graph.add("Abs", pair[0], output=f"{name}.sizes"), top, output=f"{name}.largest")
        share = graph.add("Div", distance, size, output=f"{name}.shares")
        limit = graph.number(2 * float(self.config.fields[jitter]), dtype=Dtype.FLOAT32)
        far = graph.add("Greater", share, limit, output=f"{name}.far")
        near = graph.add("Where", far, lowest, left, output=f"{name}.near")
        softmax = graph.add("Softmax", near, output=f"{name}.softmax", axis=-1)
        return graph.add("ReduceMax", softmax, graph.integers(-1), output=f"{name}.weights", keepdims=0)

    def _add_experts(self, scope: str, experts: Experts, widths: LayerWidths, rows: str, choice: Choice) -> str:
        """Add the weighted sum of what the experts make of the tokens, [tokens, hidden].

        It is no ScatterND that adds: with several rows for a token, that of ONNX Runtime 1.32 loses some.
        """
        graph, name, hidden = self.graph, f"{scope}.{experts.module}", self.config.hidden_size
        sent = self._add_sent_rows(name, experts, choice)
        (gate_up,) = experts.inputs
        taken = graph.add("Gather", rows, sent.tokens, output=f"{name}.sent", axis=0)
        projected = self._add_products(scope, gate_up, sent, taken)
        neurons = self._add_neurons(scope, experts, widths.neurons, projected)
        made = self._add_products(scope, experts.output, sent, neurons)
        returned = graph.add("Gather", made, sent.by_token, output=f"{name}.returned", axis=0)
        shape = graph.integers(-1, experts.per_token(self.config.fields), hidden)
        returned = graph.add("Reshape", returned, shape, output=f"{name}.by_token")
        returned = graph.cast(returned, Dtype.FLOAT32, output=f"{name}.float32")
        weights = graph.add("Unsqueeze", choice.weights, graph.integers(2), output=f"{name}.weights")
        weighted = graph.add("Mul", returned, weights, output=f"{name}.weighted")
        total = graph.add("ReduceSum", weighted, graph.integers(1), output=f"{name}.sum", keepdims=0)
        return graph.cast(total, graph.dtype, output=f"{name}.rounded", source=Dtype.FLOAT32)

    def _add_sent_rows(self, name: str, experts: Experts, choice: Choice) -> SentRows:
        graph = self.graph
        assert experts.output.stacked is not None
        count, chosen = self.config.size(experts.output.stacked), experts.per_token(self.config.fields)
        column = graph.add("Reshape", graph.integers(*range(count)), graph.integers(-1, 1, 1), output=f"{name}.numbers")
        is_sent = graph.add("Equal", column, choice.numbers, output=f"{name}.is_sent")
        ones = graph.to_int64(is_sent, output=f"{name}.ones")
        counts = graph.add("ReduceSum", ones, graph.integers(1, 2), output=f"{name}.counts", keepdims=0)
        places = graph.add("NonZero", is_sent, output=f"{name}.places")
        numbers, tokens, ranks = (
            graph.add("Gather", places, graph.integer(row), output=f"{name}.{part}", axis=0)
            for row, part in enumerate(("row_experts", "row_tokens", "row_ranks"))
        )
        first = graph.add("Mul", tokens, graph.integer(chosen), output=f"{name}.first_targets")
        targets = graph.add("Add", first, ranks, output=f"{name}.targets")
        total = graph.add("Size", targets, output=f"{name}.row_count")
        order = graph.add("Range", graph.integer(0), total, graph.integer(1), output=f"{name}.order")
        shape = graph.add("Shape", targets, output=f"{name}.row_shape")
        nothing = graph.add("Expand", graph.integer(0), shape, output=f"{name}.no_order")
        by_token = graph.add("ScatterElements", nothing, targets, order, output=f"{name}.rows_by_token", axis=0)
        return SentRows(counts, numbers, tokens, by_token)

    def _add_products(self, scope: str, projection: Projection, sent: SentRows, rows: str) -> str:
        """Add a projection of rows, each with the weight and the bias of its expert."""
        graph, name = self.graph, f"{scope}.{projection.name}"
        assert projection.stacked is not None
        weights = [expert_name(name, number) for number in range(self.config.size(projection.stacked))]
        parts = graph.split_rows(rows, sent.counts, outputs=[f"{weight}.rows" for weight in weights])
        products = [
            add_product(graph, weight, part, output=f"{weight}.product")
            for weight, part in zip(weights, parts, strict=True)
        ]
        if not self.config.biases[projection.name]:
            return graph.add("Concat", *products, output=name, axis=0)
        product = graph.add("Concat", *products, output=f"{name}.product", axis=0)
        biases = graph.weight(f"{name}_bias")
        biases = graph.add("Gather", biases, sent.experts, output=f"{name}.biases", axis=0)
        return graph.add("Add", product, biases, output=name)

    def _add_neurons(self, scope: str, experts: Experts, neurons: int, projected: str) -> str:
        """Add the activations of gates and ups, which lie side by side or take turns."""
        graph, name = self.graph, f"{scope}.{experts.module}"
        names = f"{name}.gate", f"{name}.up"
        if experts.inputs[0].layout is not Layout.INTERLEAVED:
            return self.add_neurons(scope, graph.split(projected, [neurons] * 2, outputs=names), part=experts.module)
        pairs = graph.add("Reshape", projected, graph.integers(-1, neurons, 2), output=f"{name}.pairs")
        gate, up = (
            graph.add("Gather", pairs, graph.integer(place), output=each, axis=2) for place, each in enumerate(names)
        )
        if experts.clamped_swish is None:
            return self.add_neurons(scope, (gate, up), part=experts.module)
        alpha, limit = (
            self.config.fields[field] for field in (experts.clamped_swish.alpha, experts.clamped_swish.limit)
        )
        gate = graph.add("Min", gate, graph.number(limit), output=f"{name}.gate_clamped")
        up = graph.add("Clip", up, graph.number(-limit), graph.number(limit), output=f"{name}.up_clamped")
        steep = graph.add("Mul", gate, graph.number(alpha), output=f"{name}.steep")
        sigmoid = graph.add("Sigmoid", steep, output=f"{name}.sigmoid")
        glu = graph.add("Mul", gate, sigmoid, output=f"{name}.swish")
        up = graph.add("Add", up, graph.number(1.0), output=f"{name}.up_from_one")
        return graph.add("Mul", up, glu, output=f"{name}.neurons")
