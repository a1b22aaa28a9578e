"""Facts about vision encoders that read the patches of images of any size: which modules they have, by name.

Source: `modeling_qwen2_vl.py`, `modeling_qwen2_5_vl.py` and `modeling_qwen3_vl.py`, transformers 5.24.
"""

from __future__ import annotations

from dataclasses import dataclass

GRIDS = "image_grid_thw"
"""What processors call the grids, int64 [images, 3]: the time, the rows and the columns of each image's patches."""

EPSILON = 1e-6
"""Of all norms of these encoders."""


MERGER = "merger"
"""Name of the module that merges the patches of the last block."""


@dataclass(frozen=True)
class Merger:
    """What merges squares of patches to tokens of the language model: a norm and an MLP with an exact GELU.

    Attributes:
        norm: Name of its norm within the module.
        inner: Name of its first linear layer.
        outer: Name of its second.
    """

    norm: str
    inner: str
    outer: str

    def of(self, module: str) -> Merger:
        """Return the same names with that of the module before them."""
        return Merger(*(f"{module}.{name}" for name in (self.norm, self.inner, self.outer)))


@dataclass(frozen=True)
class GridEncoder:
    """A vision encoder of patches, [patches, values of a patch], and the grids of the images that they are of.

    Its patches are ordered by image, frame and square: those that become one token follow one another.

    Attributes:
        grid_input: What transformers.js calls the input of grids: `image_grid_thw_name`, src/models/qwen2_vl and its
            kin, 4.3.2.
        has_layer_norms: Whether norms subtract the mean and have a bias; otherwise they are RMSNorms.
        mlp_inputs: Names of the MLP's first layers, within a block: one, or those of gate and neurons.
        mlp_output: Name of its last.
        merger: Names within each module that merges patches.
        has_windows: Whether patches attend within windows, but for the blocks that the config names.
        position_table: Name of an embedding of the positions in a square grid, which is interpolated to that of an
            image; None if there is none.
        deep_mergers: Name of the list of modules that merge the patches of further blocks, which the config names, with
            a norm over all patches of a square. The decoder adds what they return to its first layers' outputs.
    """

    grid_input: str
    has_layer_norms: bool
    mlp_inputs: tuple[str, ...]
    mlp_output: str
    merger: Merger
    has_windows: bool = False
    position_table: str | None = None
    deep_mergers: str | None = None


QWEN2_VL = GridEncoder(
    "grid_thw",
    has_layer_norms=True,
    mlp_inputs=("mlp.fc1",),
    mlp_output="mlp.fc2",
    merger=Merger("ln_q", "mlp.0", "mlp.2"),
)

QWEN2_5_VL = GridEncoder(
    GRIDS,
    has_layer_norms=False,
    mlp_inputs=("mlp.gate_proj", "mlp.up_proj"),
    mlp_output="mlp.down_proj",
    merger=Merger("ln_q", "mlp.0", "mlp.2"),
    has_windows=True,
)

QWEN3_VL = GridEncoder(
    GRIDS,
    has_layer_norms=True,
    mlp_inputs=("mlp.linear_fc1",),
    mlp_output="mlp.linear_fc2",
    merger=Merger("norm", "linear_fc1", "linear_fc2"),
    position_table="pos_embed",
    deep_mergers="deepstack_merger_list",
)
