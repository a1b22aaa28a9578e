"""Traces the vision encoder of a vision-language model, with what connects it to the language model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from amp_export.architectures._vision_language import ImageInput
from amp_export.exporters.files import VISION_ENCODER, file_name
from amp_export.exporters.models.ports import FEATURES
from amp_export.exporters.tracing.jobs import Axes, Job, Sample
from amp_export.options import Format

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TEXTS, TILES = 2, 3
"""Sizes of the sample: more than 1, and different from each other, so that none becomes a constant."""


class _Encoder(torch.nn.Module):
    """Maps tiles of one size to what takes the places of image tokens, each tile for itself."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model


class _Tiles(_Encoder):
    """Maps tiles to their features."""

    def forward(self, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
        """Compute the features, [tiles, tokens, hidden_size]."""
        whole: Any = self.model
        return {FEATURES: whole.get_image_features(pixel_values.to(whole.dtype), return_dict=True).pooler_output}


class _MaskedTiles(_Encoder):
    """Maps tiles with masks to the features of those that are not padding.

    Source: `SmolVLMModel.get_image_features`, `modeling_smolvlm.py`, transformers 5.24, which drops padding first. Here
    it is dropped last, so that all sizes but the last are those of the inputs.
    """

    def forward(self, pixel_values: torch.Tensor, pixel_attention_mask: torch.Tensor) -> dict[str, torch.Tensor]:
        """Compute the features, [tiles without padding, tokens, hidden_size]."""
        core: Any = self.model.base_model
        size = core.config.vision_config.patch_size
        tiles, mask = pixel_values.flatten(0, 1), pixel_attention_mask.flatten(0, 1)
        has_pixels = mask.unfold(1, size, size).unfold(2, size, size).sum(dim=(-1, -2)) > 0
        seen = core.vision_model(tiles.to(core.dtype), patch_attention_mask=has_pixels, return_dict=True)
        is_real = (tiles != 0.0).flatten(1).any(dim=1)
        return {FEATURES: core.connector(seen.last_hidden_state)[is_real]}


class _ChosenLayers(_Encoder):
    """Maps images of one tile each to the features of chosen layers.

    Source: `LlavaModel.get_image_features`, `modeling_llava.py`, transformers 5.24, which returns a list of images.
    """

    def forward(self, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
        """Compute the features, [images, tokens, hidden_size]."""
        core: Any = self.model.base_model
        config = core.config
        seen = core.vision_tower(pixel_values.to(core.dtype), output_hidden_states=True, return_dict=True).hidden_states
        states = _choose(seen, config.vision_feature_layer)
        # the first token is of the class
        states = states[:, 1:] if config.vision_feature_select_strategy == "default" else states
        return {FEATURES: core.multi_modal_projector(states)}


class _WholeImages(_ChosenLayers):
    """Maps images of one tile each to their features and a line end: `pack_image_features` for a text with several.

    Source: `modeling_llava_onevision.py`, transformers 5.24.
    """

    def forward(self, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
        """Compute the features, [images, tokens and one, hidden_size]."""
        core: Any = self.model.base_model
        features = super().forward(pixel_values)[FEATURES]
        ends = core.image_newline.to(features.dtype).expand(features.shape[0], 1, -1)
        return {FEATURES: torch.cat([features, ends], dim=1)}


class _AnySize(_Encoder):
    """Maps images of one size, which may be any, to their features.

    Source: `PixtralVisionModel.forward`, `modeling_pixtral.py`, and `Mistral3PatchMerger.forward`,
    `modeling_mistral3.py`, transformers 5.24, which take one image after the other. Here an image is a row of a batch,
    for which no mask is needed, and patches are merged by a convolution.
    """

    def forward(self, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
        """Compute the features, [images, tokens, hidden_size]."""
        core: Any = self.model.base_model
        tower, projector = core.vision_tower, core.multi_modal_projector
        patches_nchw = tower.patch_conv(pixel_values.to(core.dtype))
        height, width = patches_nchw.shape[2:]
        rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        places = torch.stack([rows.flatten(), columns.flatten()], dim=-1)
        states = [tower.ln_pre(patches_nchw.flatten(2).transpose(1, 2))]
        rotations = tower.patch_positional_embedding(states[0], places)
        for layer in tower.transformer.layers:
            states.append(layer(states[-1], None, position_embeddings=rotations))
        chosen = projector.norm(_choose(states, core.config.vision_feature_layer))
        linear, side = projector.patch_merger.merging_layer, core.config.spatial_merge_size
        kernel = linear.weight.unflatten(1, (-1, side, side))
        grid_nchw = chosen.transpose(1, 2).unflatten(2, (height, width))
        merged = torch.nn.functional.conv2d(grid_nchw, kernel, stride=side).flatten(2).transpose(1, 2)
        return {FEATURES: projector.linear_2(projector.act(projector.linear_1(merged)))}


def _choose(states: Sequence[torch.Tensor], layers: int | list[int]) -> torch.Tensor:
    """Return the hidden states of one layer, or those of several beside each other."""
    return states[layers] if isinstance(layers, int) else torch.cat([states[layer] for layer in layers], dim=-1)


_MODULES = {
    ImageInput.TILES: _Tiles,
    ImageInput.CHOSEN_LAYERS: _ChosenLayers,
    ImageInput.MASKED_TILES: _MaskedTiles,
    ImageInput.WHOLE_IMAGES: _WholeImages,
    ImageInput.ANY_SIZE: _AnySize,
}


def vision_job(model: PreTrainedModel, images: ImageInput) -> Job:
    """Return the graph of a vision encoder, whose inputs are those of `ImageInput`, and whose output `image_features`.

    Height and width are those of the config, or any.
    """
    is_any = images is ImageInput.ANY_SIZE
    channels, height, width = any_shape(model.config, 3, 4) if is_any else tile_shape(model.config)
    sides: Axes = ("height", "width") if is_any else (None, None)
    leading = (TEXTS, TILES) if images is ImageInput.MASKED_TILES else (TILES,)
    axes: Axes = ("num_texts", "num_images") if images is ImageInput.MASKED_TILES else ("num_images",)
    pixels = torch.linspace(-1, 1, channels * height * width).reshape(channels, height, width)
    inputs = {"pixel_values": Sample(pixels.repeat(*leading, 1, 1, 1), (*axes, None, *sides))}
    if images is ImageInput.MASKED_TILES:
        mask = torch.ones(*leading, height, width, dtype=torch.bool)
        mask[0, 0, height // 2 :] = False
        inputs["pixel_attention_mask"] = Sample(mask, (*axes, None, None))
    length = "num_tokens" if is_any else None
    counted = "num_real_images" if images is ImageInput.MASKED_TILES else "num_images"
    outputs: dict[str, Axes] = {FEATURES: (counted, length, None)}
    return Job(file_name(VISION_ENCODER, Format.ONNX), _MODULES[images](model), inputs, outputs)


def any_shape(config: Any, rows: int, columns: int) -> tuple[int, int, int]:
    """Return the channels, the height and the width of an image that takes so many rows and columns of tokens."""
    side = config.vision_config.patch_size * config.spatial_merge_size
    return int(config.vision_config.num_channels), rows * side, columns * side


def tile_shape(config: Any) -> tuple[int, int, int]:
    """Return the channels, the height and the width of a tile, by transformers' config of the whole."""
    vision = config.vision_config
    size = vision.image_size
    height, width = (size, size) if isinstance(size, int) else size
    return int(vision.num_channels), int(height), int(width)
