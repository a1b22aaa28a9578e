"""Builds a vision encoder of patches as a graph, for images of any sizes: without tracing or torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from amp_export.architectures import LayerWidths
from amp_export.architectures._grid_encoders import EPSILON, MERGER, GridEncoder, Merger
from amp_export.exporters.models.ports import FEATURES, PIXELS
from amp_export.exporters.onnx.builder.activations import add_activation, require_activation
from amp_export.exporters.onnx.builder.layout import StoredTensor
from amp_export.exporters.onnx.builder.nodes import Graph, ValueKind
from amp_export.exporters.onnx.builder.norms import add_stored_norm
from amp_export.exporters.onnx.builder.opset20 import AttentionParts, add_attention, add_rotation, add_rotation_rows
from amp_export.exporters.onnx.builder.patches import (
    Groups,
    Patches,
    add_frames,
    add_grid_points,
    add_patches,
    add_windows,
)
from amp_export.exporters.onnx.builder.products import add_linear
from amp_export.exporters.onnx.builder.rotary import Rope, inverse_frequencies
from amp_export.options import Dtype, Opset

if TYPE_CHECKING:
    import onnx

PATCH = "patch_embed.proj"
"""A convolution whose kernel covers a patch: a linear layer of its values."""

PATCH_WEIGHT = f"{PATCH}.weight"


@dataclass(frozen=True)
class GridConfig:
    """Sizes of a vision encoder of patches.

    Attributes:
        facts: What is known of its type.
        blocks: Number of blocks.
        heads: Number of heads of each.
        theta: Base of its rotary embeddings.
        activation: Activation function of its MLPs.
        side: Number of rows, and of columns, of the patches that become one token.
        window_side: Number of rows, and of columns, of the patches of a window; None if there are none.
        full_blocks: Blocks in which all patches of a frame attend to one another.
        deep_blocks: Blocks whose patches are merged, too, in the order of the modules that do.
        table_side: Number of rows, and of columns, of the grid of the embedding of positions; None if there is none.
    """

    facts: GridEncoder
    blocks: int
    heads: int
    theta: float
    activation: str
    side: int
    window_side: int | None
    full_blocks: frozenset[int]
    deep_blocks: tuple[int, ...]
    table_side: int | None

    @classmethod
    def read(cls, facts: GridEncoder, fields: Mapping[str, Any]) -> GridConfig:
        """Return the sizes in a `vision_config`, with all fields as transformers fills them in.

        Raises:
            UnsupportedModelError: The activation function is not supported.
        """
        require_activation("vision_config.hidden_act", fields["hidden_act"])
        side, patch = int(fields["spatial_merge_size"]), fields["patch_size"]
        window_side = None
        if facts.has_windows:
            patch_rows = patch if isinstance(patch, int) else patch[0]
            window_side = fields["window_size"] // side // patch_rows * side
        return cls(
            facts,
            blocks=int(fields["depth"]),
            heads=int(fields["num_heads"]),
            theta=float(fields["rope_parameters"]["rope_theta"]),
            activation=fields["hidden_act"],
            side=side,
            window_side=window_side,
            full_blocks=frozenset(fields["fullatt_block_indexes"] if facts.has_windows else range(fields["depth"])),
            deep_blocks=tuple(fields["deepstack_visual_indexes"]) if facts.deep_mergers is not None else (),
            table_side=math.isqrt(fields["num_position_embeddings"]) if facts.position_table is not None else None,
        )

    @property
    def merger(self) -> Merger:
        """The module that merges the patches of the last block."""
        return self.facts.merger.of(MERGER)

    @property
    def deep_mergers(self) -> dict[int, Merger]:
        """The modules that merge the patches of further blocks, by block."""
        modules = (f"{self.facts.deep_mergers}.{number}" for number in range(len(self.deep_blocks)))
        return dict(sorted(zip(self.deep_blocks, map(self.facts.merger.of, modules), strict=True)))

    def linear_layers(self) -> list[str]:
        """Return the names of all linear layers."""
        within = ("attn.qkv", "attn.proj", *self.facts.mlp_inputs, self.facts.mlp_output)
        inner = [f"blocks.{block}.{name}" for block in range(self.blocks) for name in within]
        mergers = (self.merger, *self.deep_mergers.values())
        return [PATCH, *inner, *(name for each in mergers for name in (each.inner, each.outer))]

    def others(self) -> list[str]:
        """Return the names of all other modules that have a weight: norms, and the embedding of positions."""
        inner = [f"blocks.{block}.{name}" for block in range(self.blocks) for name in ("norm1", "norm2")]
        tables = [self.facts.position_table] if self.facts.position_table is not None else []
        return [*tables, *inner, *(each.norm for each in (self.merger, *self.deep_mergers.values()))]


def build_grid_encoder(
    config: GridConfig, stored: Sequence[StoredTensor], *, dtype: Dtype, opset: Opset, data_file: str
) -> onnx.ModelProto:
    """Build the graph of a vision encoder of patches, with what merges them to tokens.

    Inputs are `pixel_values` [num_patches, values of a patch], float32, and the grids [num_images, 3], int64, named as
    `GridEncoder.grid_input` says. The output is `image_features` [num_tokens, hidden_size], or wider where patches of
    further blocks are merged, too: what is made of them follows, block by block.

    Patches attend to those of their own frame or window. These are the rows of a batch, so that the cost of attention
    grows with the number of images, and of windows, not with its square.

    Args:
        config: Sizes of the encoder.
        stored: Layout of the weights in the data file, from `lay_out_grid_encoder`.
        dtype: Dtype of weights and activations.
        opset: Version of the operators.
        data_file: Name of the data file, in the same folder as the graph.
    """
    graph = Graph(stored, dtype=dtype, data_file=data_file, opset=opset)
    values, _ = graph.shape_of(PATCH_WEIGHT)
    *_, hidden_size = graph.shape_of(f"{config.merger.outer}.weight")
    graph.declare_input(PIXELS, ["num_patches", values], kind=ValueKind.FLOAT32)
    graph.declare_input(config.facts.grid_input, ["num_images", 3], kind=ValueKind.INTEGER)
    graph.declare_output(FEATURES, ["num_tokens", (1 + len(config.deep_blocks)) * hidden_size])
    encoder = _Encoder(graph, config)
    encoder.add()
    description = f"Vision encoder with {config.blocks} blocks in {dtype}, for patches of images of any sizes"
    return graph.to_model(name="vision_encoder", description=description, metadata={})


@dataclass(frozen=True)
class _Batch:
    """Groups of patches as the rows of a batch, for attention.

    Attributes:
        patches: The patch at each place, int64 [groups x size]; the first one where there is none.
        places: The place of each patch, int64 [patches].
        shape: The shape of queries, keys and values, int64 [4]: groups, size, heads and head_dim.
        mask: Which places of its group each attends to, [groups, 1, size, size], with a further axis of size 1 where
            the opset has no Attention.
        rotation: Cosines and sines of each place, float32 [groups, size, pairs of dimensions], with an axis for heads
            where the opset has no RotaryEmbedding.
    """

    patches: str
    places: str
    shape: str
    mask: str
    rotation: Sequence[str]


@dataclass(frozen=True)
class _Encoder:
    """Adds the parts of a vision encoder to a graph. Values are named after the modules of transformers."""

    graph: Graph
    config: GridConfig

    @property
    def width(self) -> int:
        """Width of the hidden states."""
        return self.graph.shape_of(PATCH_WEIGHT)[1]

    @property
    def head_dim(self) -> int:
        """Width of a head."""
        return self.width // self.config.heads

    def add(self) -> None:
        """Add the encoder, from the inputs to the output."""
        graph, config = self.graph, self.config
        patches = add_patches(graph, PIXELS, config.facts.grid_input, side=config.side)
        angles = self._add_angles(patches)
        frames = windows = self._add_batch("frames", add_frames(graph, patches), angles)
        if config.window_side is not None:
            windows = self._add_batch("windows", add_windows(graph, patches, side=config.window_side), angles)
        pixels = graph.cast(PIXELS, graph.dtype, output=f"{PIXELS}.cast", source=Dtype.FLOAT32)
        hidden = self._add_positions(self._add_linear(PATCH, pixels), patches)
        deep = []
        for block in range(config.blocks):
            hidden = self._add_block(block, hidden, frames if block in config.full_blocks else windows)
            if (merger := config.deep_mergers.get(block)) is not None:
                deep.append(self._add_merger(merger, hidden, norms_squares=True))
        merged = self._add_merger(config.merger, hidden)
        graph.add("Concat", merged, *deep, output=FEATURES, axis=-1)

    def _add_positions(self, hidden: str, patches: Patches) -> str:
        """Add the embeddings of positions, if there are any, interpolated in float32."""
        name, side = self.config.facts.position_table, self.config.table_side
        if name is None or side is None:
            return hidden
        graph, points = self.graph, add_grid_points(self.graph, patches, side=side)
        shares = []
        for number, point in enumerate(points):
            rows = graph.add("Gather", graph.weight(f"{name}.weight"), point.places, output=f"{name}.{number}", axis=0)
            rows = graph.cast(rows, Dtype.FLOAT32, output=f"{name}.{number}.float32")
            shares.append(graph.add("Mul", rows, point.weights, output=f"{name}.{number}.share"))
        total = graph.add("Sum", *shares, output=f"{name}.sum")
        total = graph.cast(total, graph.dtype, output=name, source=Dtype.FLOAT32)
        return graph.add("Add", hidden, total, output=f"{PATCH}.placed")

    def _add_batch(self, scope: str, groups: Groups, angles: str) -> _Batch:
        """Add groups as the rows of a batch; no place attends to empty ones."""
        graph, one = self.graph, self.graph.integers(1)
        filled = graph.add("GreaterOrEqual", groups.patches, graph.integer(0), output=f"{scope}.filled")
        row = graph.add("Concat", graph.integers(-1, 1, 1), groups.size, output=f"{scope}.shape_of_keys", axis=0)
        keys = graph.add("Reshape", filled, row, output=f"{scope}.keys")
        rows = graph.add("Concat", graph.integers(1, 1), groups.size, one, output=f"{scope}.shape_of_mask", axis=0)
        mask = graph.add("Expand", keys, rows, output=f"{scope}.mask")
        if not graph.knows("Attention"):
            mask = graph.add("Unsqueeze", mask, graph.integers(2), output=f"{scope}.mask_of_heads")
        patches = graph.add("Max", groups.patches, graph.integer(0), output=f"{scope}.some_patches")
        sizes = (graph.integers(-1), groups.size, graph.integers(self.head_dim // 2))
        shape = graph.add("Concat", *sizes, output=f"{scope}.shape_of_angles", axis=0)
        turns = graph.add("Gather", angles, patches, output=f"{scope}.angles_in_order", axis=0)
        rotation = self._add_rotations(graph.add("Reshape", turns, shape, output=f"{scope}.angles"))
        sizes = (graph.integers(-1), groups.size, graph.integers(self.config.heads, self.head_dim))
        shape = graph.add("Concat", *sizes, output=f"{scope}.shape_of_heads", axis=0)
        return _Batch(patches, groups.places, shape, mask, rotation)

    def _add_angles(self, patches: Patches) -> str:
        """Add the angles of each patch, float32 [patches, pairs of dimensions].

        The first half of the pairs turns by the row of a patch, the other by its column. Source:
        `Qwen2_5_VLVisionRotaryEmbedding`, `modeling_qwen2_5_vl.py`, transformers 5.24.
        """
        graph = self.graph
        places = graph.add("Concat", patches.rows, patches.columns, output="angles.places", axis=1)
        places = graph.to_float32(places, output="angles.float32")
        places = graph.add("Unsqueeze", places, graph.integers(2), output="angles.places_of_pairs")
        rope = Rope({"rope_type": "default", "rope_theta": self.config.theta}, self.head_dim // 2, positions=0)
        frequencies = graph.vector("angles.frequencies", inverse_frequencies(rope)[0].tolist())
        by_axis = graph.add("Mul", places, frequencies, output="angles.by_axis")
        return graph.add("Reshape", by_axis, graph.integers(-1, self.head_dim // 2), output="angles")

    def _add_rotations(self, angles: str) -> list[str]:
        """Add the cosines and sines of angles, as `_add_rotation` takes them."""
        graph = self.graph
        rows = [graph.add(each, angles, output=f"{angles}.{each.lower()}") for each in ("Cos", "Sin")]
        if graph.knows("RotaryEmbedding"):
            return rows
        return [add_rotation_rows(graph, each, interleaved=False) for each in rows]

    def _add_block(self, block: int, hidden: str, batch: _Batch) -> str:
        """Add a block, with the residual connections around attention and MLP."""
        graph, scope, facts = self.graph, f"blocks.{block}", self.config.facts
        attended = self._add_attention(f"{scope}.attn", self._add_norm(f"{scope}.norm1", hidden), batch)
        hidden = graph.add("Add", hidden, attended, output=f"{scope}.after_attention")
        normed = self._add_norm(f"{scope}.norm2", hidden)
        gate, *up = (self._add_linear(f"{scope}.{name}", normed) for name in facts.mlp_inputs)
        neurons = add_activation(graph, self.config.activation, gate, output=f"{scope}.mlp.activated")
        if up:
            neurons = graph.add("Mul", neurons, *up, output=f"{scope}.mlp.neurons")
        return graph.add("Add", hidden, self._add_linear(f"{scope}.{facts.mlp_output}", neurons), output=scope)

    def _add_attention(self, scope: str, hidden: str, batch: _Batch) -> str:
        """Add attention within groups of patches, from hidden states [patches, width] to the same."""
        graph = self.graph
        projected = self._add_linear(f"{scope}.qkv", hidden)
        projected = graph.add("Gather", projected, batch.patches, output=f"{scope}.qkv.by_place", axis=0)
        names = [f"{scope}.{part}" for part in ("queries", "keys", "values")]
        queries, keys, values = (
            graph.add(
                "Transpose",
                graph.add("Reshape", part, batch.shape, output=f"{part}.split"),
                output=f"{part}.heads",
                perm=[0, 2, 1, 3],
            )
            for part in graph.split(projected, [self.width] * 3, outputs=names)
        )
        queries, keys = (self._add_rotation(heads, batch.rotation) for heads in (queries, keys))
        attended = self._attend(AttentionParts(queries, keys, values, batch.mask), output=f"{scope}.attended")
        by_place = graph.add("Transpose", attended, output=f"{attended}.by_place", perm=[0, 2, 1, 3])
        joined = graph.add("Reshape", by_place, graph.integers(-1, self.width), output=f"{attended}.joined")
        by_patch = graph.add("Gather", joined, batch.places, output=f"{attended}.by_patch", axis=0)
        return self._add_linear(f"{scope}.proj", by_patch)

    def _attend(self, parts: AttentionParts, *, output: str) -> str:
        graph, scale, heads = self.graph, self.head_dim**-0.5, self.config.heads
        if graph.knows("Attention"):
            values = (parts.queries, parts.keys, parts.values, parts.mask)
            return graph.add("Attention", *values, output=output, scale=scale)
        return add_attention(
            graph,
            parts,
            LayerWidths(heads, heads, 0),
            head_dim=self.head_dim,
            scale=scale,
            cap=lambda scores: scores,
            output=output,
        )

    def _add_rotation(self, heads: str, rotation: Sequence[str]) -> str:
        """Rotate heads, in float32 as `apply_rotary_pos_emb_vision` does."""
        graph, output = self.graph, f"{heads}.rotated"
        exact = graph.cast(heads, Dtype.FLOAT32, output=f"{heads}.float32")
        turned = output if graph.dtype is Dtype.FLOAT32 else f"{output}.float32"
        if graph.knows("RotaryEmbedding"):
            graph.add("RotaryEmbedding", exact, *rotation, output=turned)
        else:
            cos, sin = rotation
            add_rotation(graph, exact, cos, sin, dimensions=self.head_dim, interleaved=False, output=turned)
        return graph.cast(turned, graph.dtype, output=output, source=Dtype.FLOAT32)

    def _add_merger(self, merger: Merger, hidden: str, *, norms_squares: bool = False) -> str:
        """Merge each square of patches to a token, with a norm over each patch or over the square."""
        graph, shape = self.graph, self.graph.integers(-1, self.config.side**2 * self.width)
        if norms_squares:
            squares = graph.add("Reshape", hidden, shape, output=f"{merger.norm}.squares_of_patches")
            normed = self._add_norm(merger.norm, squares)
        else:
            normed = self._add_norm(merger.norm, hidden)
            normed = graph.add("Reshape", normed, shape, output=f"{merger.norm}.joined")
        inner = self._add_linear(merger.inner, normed)
        return self._add_linear(merger.outer, add_activation(graph, "gelu", inner, output=f"{merger.inner}.activated"))

    def _add_linear(self, name: str, value: str) -> str:
        bias = f"{name}.bias" if self.graph.has_weight(f"{name}.bias") else None
        return add_linear(self.graph, f"{name}.weight", value, bias=bias, output=name)

    def _add_norm(self, name: str, value: str) -> str:
        return add_stored_norm(
            self.graph, name, value, subtracts_mean=self.config.facts.has_layer_norms, epsilon=EPSILON
        )
