"""Facts about vision encoders that read the patches of images of any size: which modules they have, by name.

Source: `modeling_qwen2_vl.py` and `modeling_qwen2_5_vl.py`, transformers 5.24.
"""

from __future__ import annotations

from dataclasses import dataclass

GRIDS = "image_grid_thw"
"""What processors call the grids, int64 [images, 3]: the time, the rows and the columns of each image's patches."""

EPSILON = 1e-6
"""Of all norms of these encoders."""


@dataclass(frozen=True)
class Merger:
    """What merges squares of patches to tokens of the language model: a norm and an MLP with an exact GELU.

    Attributes:
        norm: Name of its norm, over each patch.
        inner: Name of its first linear layer.
        outer: Name of its second.
    """

    norm: str
    inner: str
    outer: str


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
        merger: What merges patches.
        has_windows: Whether patches attend within windows, but for the blocks that the config names.
    """

    grid_input: str
    has_layer_norms: bool
    mlp_inputs: tuple[str, ...]
    mlp_output: str
    merger: Merger
    has_windows: bool = False


QWEN2_VL = GridEncoder(
    "grid_thw",
    has_layer_norms=True,
    mlp_inputs=("mlp.fc1",),
    mlp_output="mlp.fc2",
    merger=Merger("merger.ln_q", "merger.mlp.0", "merger.mlp.2"),
)

QWEN2_5_VL = GridEncoder(
    GRIDS,
    has_layer_norms=False,
    mlp_inputs=("mlp.gate_proj", "mlp.up_proj"),
    mlp_output="mlp.down_proj",
    merger=Merger("merger.ln_q", "merger.mlp.0", "merger.mlp.2"),
    has_windows=True,
)
