"""Parity cases of vision-language models: texts with images, and decode steps after them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from amp_export.architectures import ModelConfig
from amp_export.architectures._grid_encoders import GRIDS
from amp_export.architectures._vision_language import VISION_LANGUAGE, ImageInput, LanguageModel
from amp_export.checkpoints.building import read_model_config, transformers_errors
from amp_export.checkpoints.loading import build_whole
from amp_export.checkpoints.quiet import quiet_transformers
from amp_export.checkpoints.vision_language import special_tokens
from amp_export.documents import read_object
from amp_export.errors import UnsupportedModelError
from amp_export.exporters.models.ports import PIXELS, TYPES
from amp_export.inputs.tokens import Floats, Integers, draw_rows
from amp_export.options import Logits
from amp_export.parity.decoder_cases import COMPARED_POSITIONS, Cache, Forward

if TYPE_CHECKING:
    from transformers import DynamicCache, PreTrainedModel

    from amp_export.exporters.models.decoder import Past
    from amp_export.exporters.models.vision_language import GraphVisionLanguage

_ANY = (2, 3)
"""Rows and columns of tokens of an image that may have any size; others than those that the encoder was traced with."""

_GRIDS = ((2, 3), (5, 2), (3, 3))
"""Rows and columns of tokens of images, one after the other, where each image may have a size of its own."""

_WORDS = 5
"""Tokens of text before each image, and after the last."""


@dataclass(frozen=True)
class ImageCase:
    """A batch of texts with images.

    Attributes:
        name: Name in a report.
        images: Images of each text; shorter texts are padded on the left.
        decode_steps: Number of single-token calls at the end.
    """

    name: str
    images: tuple[int, ...]
    decode_steps: int = 0


# a single image is left out: transformers cuts it into a grid of tiles where graphs take whole images
CASES = (
    ImageCase("text with 2 images, 8 decode steps", (2,), 8),
    ImageCase("left-padded batch of texts with 1 and 2 images, 4 decode steps", (1, 2), 4),
)


@dataclass(frozen=True)
class ImageText:
    """What a model is given for a case.

    Attributes:
        input_ids: Tokens, int64 [batch, sequence].
        attention_mask: 1 for tokens and 0 for padding, int64 [batch, sequence].
        is_image_bs: Which tokens stand for images, [batch, sequence].
        position_ids: The position of each token, which counts no padding, int64 [batch, sequence]; or its positions in
            time, height and width, [3, batch, sequence].
        vision: Inputs of the vision encoder by name, images in float32.
        others: Further inputs of transformers' model.
    """

    input_ids: Integers
    attention_mask: Integers
    is_image_bs: Any
    position_ids: Integers
    vision: Mapping[str, Any]
    others: Mapping[str, Any]

    @property
    def next_positions(self) -> Integers:
        """The position of the first token after each text, int64 [batch, 1]."""
        positions: Integers = self.position_ids.reshape(-1, *self.input_ids.shape).max(axis=(0, 2))[:, None] + 1
        return positions


Read = Callable[[ImageText], tuple[Floats, Cache]]
"""A text with images to (logits [batch, sequence, vocabulary], KV cache)."""


@dataclass(frozen=True)
class ImageFacts:
    """What cases with images have to know of a vision-language model.

    Attributes:
        language: Facts about its type.
        tile: Channels, height and width of an image or a tile; empty if images have grids of patches.
        tokens: Number of tokens that an image takes, where that depends on its size, which is the same for all.
        grid_model: transformers' model without weights, which computes positions from grids; None if images have none.
        grid_side: Number of rows of patches that become one row of tokens, of images with grids.
        image_token: The token in whose places images are.
        special: All tokens with a meaning of their own.
    """

    language: LanguageModel
    tile: tuple[int, ...]
    tokens: int | None
    image_token: int
    special: frozenset[int]
    grid_model: Any = None
    grid_side: int = 1

    @classmethod
    def read(cls, whole: Path) -> ImageFacts:
        """Return the facts about a vision-language model.

        Raises:
            ModelError: transformers refuses its config.
        """
        from amp_export.exporters.tracing.vision import any_shape, tile_shape

        raw = read_object(whole / "config.json")
        with quiet_transformers(), transformers_errors(whole):
            config = read_model_config(whole)
            token = int(config.image_token_id)
            special = frozenset({*special_tokens(raw), *special_tokens(config.to_dict()), token})
            language = VISION_LANGUAGE[raw["model_type"]]
            if language.images is ImageInput.PATCHES:
                side = int(config.vision_config.spatial_merge_size)
                return cls(language, (), None, token, special, build_whole(whole).base_model, side)
            if language.images is not ImageInput.ANY_SIZE:
                return cls(language, tile_shape(config), None, token, special)
            rows, columns = _ANY
            return cls(language, any_shape(config, rows, columns), rows * columns, token, special)

    def count_tokens(self, case: ImageCase, graph: GraphVisionLanguage) -> list[list[int]]:
        """Return the number of tokens that each image takes, by text.

        Raises:
            UnsupportedModelError: Neither the graphs nor the type of the model say it.
        """
        if self.grid_model is not None:
            sizes = itertools.cycle(rows * columns for rows, columns in _GRIDS)
            return [list(itertools.islice(sizes, count)) for count in case.images]
        counted = graph.tokens_per_image or self.tokens
        if counted is None:
            raise UnsupportedModelError(
                "The vision encoder's image_features have no fixed number of tokens, which images of one size would "
                "have.\nExport the model again."
            )
        return [[counted] * count for count in case.images]

    def without_special(self, pool: Integers) -> Integers:
        """Return token ids without those that have a meaning of their own."""
        return pool[~np.isin(pool, list(self.special))]

    def write(self, case: ImageCase, pool: Integers, graph: GraphVisionLanguage) -> ImageText:
        """Return what the model is given for a case; image values are exact in the graph's dtype.

        Args:
            case: The case.
            pool: Token ids to draw from.
            graph: The graphs, which say how many tokens an image takes.
        """
        tokens = self.count_tokens(case, graph)
        longest = max(map(_count_all, tokens))
        ids_bs, is_image_bs = draw_rows(pool, len(case.images), longest), np.zeros((len(case.images), longest), bool)
        mask_bs = np.ones_like(ids_bs)
        for row, counts in enumerate(tokens):
            place = longest - _count_all(counts)
            mask_bs[row, :place] = 0
            for count in counts:
                is_image_bs[row, place + _WORDS : place + _WORDS + count] = True
                place += _WORDS + count
        ids_bs[is_image_bs] = self.image_token
        vision, others = self._draw(case, graph)
        if self.language.sees_images_whole:
            others = {**others, TYPES: is_image_bs.astype(np.int64)}
        positions = self._place(ids_bs, mask_bs, is_image_bs, vision)
        return ImageText(ids_bs, mask_bs, is_image_bs, positions, vision, others)

    def _place(self, ids_bs: Integers, mask_bs: Integers, is_image_bs: Any, vision: Mapping[str, Any]) -> Integers:
        """Return the positions of tokens, as transformers' model computes them where images have grids."""
        import torch

        if self.grid_model is None:
            positions: Integers = np.maximum(mask_bs.cumsum(axis=1) - 1, 0)
            return positions
        ids, mask, is_image, grids = map(torch.from_numpy, (ids_bs, mask_bs, is_image_bs, vision[GRIDS]))
        found, _ = self.grid_model.get_rope_index(ids, is_image.int(), image_grid_thw=grids, attention_mask=mask)
        in_axes: Integers = found.numpy()
        return in_axes

    def _draw(self, case: ImageCase, graph: GraphVisionLanguage) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the inputs of the vision encoder, and what transformers' model takes besides."""
        import torch

        exact = getattr(torch, graph.dtype.value)
        generator = torch.Generator().manual_seed(sum(case.images))

        def draw(*shape: int) -> Any:
            return torch.randn(shape, generator=generator).to(exact).float().numpy()

        total = sum(case.images)
        if self.grid_model is not None:
            shapes = itertools.islice(itertools.cycle(_GRIDS), total)
            grids = np.array([[1, rows * self.grid_side, columns * self.grid_side] for rows, columns in shapes])
            return {PIXELS: draw(int(grids.prod(axis=1).sum()), graph.values_per_patch), GRIDS: grids}, {}
        _, height, width = self.tile
        if self.language.images is not ImageInput.MASKED_TILES:
            sizes = np.array([[height, width]] * total)
            others = {
                ImageInput.WHOLE_IMAGES: {"image_sizes": sizes, "batch_num_images": np.array([total])},
                ImageInput.ANY_SIZE: {"image_sizes": sizes},
            }
            return {PIXELS: draw(total, *self.tile)}, others.get(self.language.images, {})
        shape = (len(case.images), max(case.images))
        pixels, mask = draw(*shape, *self.tile), np.ones((*shape, height, width), bool)
        for row, count in enumerate(case.images):
            # what is missing is padding, and so is the lower half of each text's last image
            mask[row, count:] = False
            mask[row, count - 1, height // 2 :] = False
        return {PIXELS: pixels * mask[:, :, None], "pixel_attention_mask": mask}, {}


def _count_all(tokens: Sequence[int]) -> int:
    """Return the number of tokens of a text, by those of its images."""
    return sum(_WORDS + count for count in tokens) + _WORDS


def image_cases_within(facts: ImageFacts, graph: GraphVisionLanguage, config: ModelConfig) -> tuple[ImageCase, ...]:
    """Return the cases that fit a model."""
    context = graph.max_context or config.context
    longest = {case: max(map(_count_all, facts.count_tokens(case, graph))) for case in CASES}
    return tuple(
        case
        for case in CASES
        if longest[case] + case.decode_steps <= context and (graph.takes_padding or len(set(case.images)) == 1)
    )


def replay_images(
    text: ImageText,
    pool: Integers,
    read: Read[Cache],
    forward: Forward[Cache],
    steps: int,
    *,
    logits: Logits = Logits.ALL,
) -> Floats:
    """Run a text with images, and single tokens after it, through a model.

    Args:
        text: The text.
        pool: Token ids to draw the single tokens from.
        read: The model on the text with images.
        forward: The model on further tokens.
        steps: Number of single tokens.
        logits: Tokens of each call whose logits are compared.

    Returns:
        The logits at real positions, float64 [positions, vocabulary], at most `COMPARED_POSITIONS` of a text.
    """
    count = text.input_ids.shape[1]
    logits_bsv, past = read(text)
    first = 0 if logits is Logits.ALL else count - 1
    compared = np.linspace(first, count - 1, min(count - first, COMPARED_POSITIONS)).round().astype(int) - count
    collected = [logits_bsv[:, compared][text.attention_mask[:, compared] == 1]]
    mask_bt, new_bs = text.attention_mask, draw_rows(pool[::-1].copy(), len(text.input_ids), max(steps, 1))
    for step in range(steps):
        mask_bt = np.pad(mask_bt, ((0, 0), (0, 1)), constant_values=1)
        logits_bsv, past = forward(new_bs[:, [step]], mask_bt, text.next_positions + step, past)
        collected.append(logits_bsv[:, -1])
    return np.concatenate(collected).astype(np.float64)


def graph_reader(graph: GraphVisionLanguage) -> Read[Past]:
    """Return the graphs as a function of a text with images."""
    logits = 0 if graph.logits is Logits.ALL else 1

    def read(text: ImageText) -> tuple[Floats, Past]:
        features = graph.encode_images(text.vision)
        return graph.read(
            text.input_ids,
            features,
            text.is_image_bs,
            text.attention_mask,
            text.position_ids,
            logits_to_keep=logits,
        )

    return read


def torch_reader(model: PreTrainedModel) -> Read[DynamicCache]:
    """Return transformers' vision-language model as a function of a text with images."""
    from transformers import DynamicCache

    from amp_export.checkpoints.loading import cache_argument
    from amp_export.inputs.random import as_tensors

    def read(text: ImageText) -> tuple[Floats, DynamicCache]:
        cache = DynamicCache(config=model.config)
        given = {"input_ids": text.input_ids, "attention_mask": text.attention_mask, "position_ids": text.position_ids}
        arrays = as_tensors({**given, **text.vision, **text.others}, model)
        result = model(**arrays, **{str(cache_argument(model)): cache}, use_cache=True)
        return result.logits.double().numpy(), cache

    return read
