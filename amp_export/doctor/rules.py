"""The form of rules that say which runtime loads a checkpoint."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from amp_export.architectures import ModelConfig
from amp_export.outputs.manifest import RewriteKind


class Status(enum.StrEnum):
    """Whether a runtime loads it."""

    LOADS = "loads"
    LOADS_WITH = "loads with"
    CANNOT = "cannot"
    NOT_TRIED = "not tried"
    NOT_KNOWN = "not known"


@dataclass(frozen=True)
class Outcome:
    """What a plan makes of a model, as far as that is known before the scores are.

    Attributes:
        config: The config as the class that computes it reads it.
        class_name: That class.
        kind: The kind of rewrite.
        query_heads: Query heads of every layer, or None where the scores decide.
        keeps_neurons: Whether every layer has all its neurons.
        heads_alike: Whether all layers have as many heads.
        has_end_token: Whether the config says which token ends a text.
    """

    config: ModelConfig
    class_name: str
    kind: RewriteKind
    query_heads: int | None
    keeps_neurons: bool
    heads_alike: bool
    has_end_token: bool

    @property
    def is_stock(self) -> bool:
        """Whether a class of transformers loads it."""
        return self.kind is not RewriteKind.RESIZED_CLASS

    @property
    def heads_fill_hidden_size(self) -> bool | None:
        """Whether hidden_size / heads is the width of a head; None where the scores decide."""
        if self.query_heads is None:
            return None
        return self.query_heads * self.config.head_dim == self.config.hidden_size


@dataclass(frozen=True)
class Rule:
    """One thing that a runtime asks.

    Attributes:
        holds: Whether an outcome meets it; None where that is not known.
        why: What is wrong with an outcome that does not.
        source: Where that is said: a file or a page, and its version.
        otherwise: What an outcome that does not meet it is, unless something makes up for it.
        needs: What makes up for it, or None.
    """

    holds: Callable[[Outcome], bool | None]
    why: Callable[[Outcome], str]
    source: str
    otherwise: Status = Status.CANNOT
    needs: str | None = None


@dataclass(frozen=True)
class Support:
    """What a runtime can say of a class.

    Attributes:
        any_heads: Whether it takes the width of a head from `head_dim`, so that any number of heads is possible.
        any_neurons: Whether it takes the number of neurons from the config.
        note: What else is to be known.
    """

    any_heads: bool = True
    any_neurons: bool = True
    note: str | None = None


@dataclass(frozen=True)
class Loader:
    """Something that loads a checkpoint or a graph.

    Attributes:
        name: Its name.
        version: The version that the rules are of.
        rules: What it asks, the first that fails deciding.
        classes: What it can say of each class that it knows, where that matters.
        tried: Whether this project runs it; the rules of the others are read from their sources.
    """

    name: str
    version: str
    rules: tuple[Rule, ...]
    classes: Mapping[str, Support] = field(default_factory=dict)
    tried: bool = True
