"""What a decoder's graph reads: tokens, or embeddings of tokens and images."""

from __future__ import annotations

from dataclasses import dataclass

from amp_export.exporters.models.ports import EMBEDDINGS


@dataclass(frozen=True, kw_only=True)
class Entry:
    """Inputs of a decoder's graph, besides mask and KV cache.

    Attributes:
        reads_tokens: Whether it reads `input_ids`, and looks up embeddings itself. Otherwise it reads `inputs_embeds`,
            which another graph looked up, and in which images have taken the places of some tokens.
        reads_types: Whether it also reads `token_type_ids`, for models in which all tokens of an image attend to each
            other.
        axes: The row of `position_ids` that turns each pair of a head's dimensions, where positions are in time, height
            and width; empty where there is one row. See `PositionAxes`.
        deep_layers: Number of first layers to whose outputs something of an image is added, which follows its embedding
            in `inputs_embeds`, layer by layer, and is zero where there is no image.
    """

    reads_tokens: bool = True
    reads_types: bool = False
    axes: tuple[int, ...] = ()
    deep_layers: int = 0

    @property
    def input_name(self) -> str:
        """The name of the input whose second axis is the number of new tokens."""
        return "input_ids" if self.reads_tokens else EMBEDDINGS


OF_TOKENS = Entry()
OF_EMBEDDINGS = Entry(reads_tokens=False)
