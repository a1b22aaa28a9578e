"""What a decoder's graph reads: tokens, or embeddings of tokens and images."""

from __future__ import annotations

import enum

from amp_export.exporters.models.ports import EMBEDDINGS


class Entry(enum.Enum):
    """Inputs of a decoder's graph, besides mask, positions and KV cache."""

    TOKENS = enum.auto()
    """`input_ids`."""
    EMBEDDINGS = enum.auto()
    """`inputs_embeds`, which another graph looked up, and in which images have taken the places of some tokens."""
    EMBEDDINGS_AND_TYPES = enum.auto()
    """`inputs_embeds` and `token_type_ids`, for models in which all tokens of an image attend to each other."""

    @property
    def reads_tokens(self) -> bool:
        """Whether the graph looks up embeddings itself."""
        return self is Entry.TOKENS

    @property
    def input_name(self) -> str:
        """The name of the input whose second axis is the number of new tokens."""
        return "input_ids" if self.reads_tokens else EMBEDDINGS
