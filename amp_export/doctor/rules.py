"""Data classes of the rules that determine which runtimes load a checkpoint."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from amp_export.architectures import ModelConfig
from amp_export.outputs.manifest import RewriteKind


class Status(enum.StrEnum):
    """Whether a runtime loads a model."""

    LOADS = "loads"
    LOADS_WITH = "loads with"
    CANNOT = "cannot"
    NOT_KNOWN = "not known"


@dataclass(frozen=True)
class Outcome:
    """The pruned model, as far as it is known before scoring.

    Attributes:
        config: Its config, as the class that computes it reads it.
        class_name: Name of that class.
        kind: Kind of rewrite.
        query_heads: Query heads of each layer, or None if the scores decide.
        keeps_neurons: Whether every layer keeps all its neurons.
        has_end_token: Whether the config has an end-of-sequence token.
        layers_differ: Whether layers are stored with different widths.
    """

    config: ModelConfig
    class_name: str
    kind: RewriteKind
    query_heads: int | None
    keeps_neurons: bool
    has_end_token: bool
    layers_differ: bool

    @property
    def is_stock(self) -> bool:
        """Whether a stock transformers class loads it."""
        return self.kind is not RewriteKind.RESIZED_CLASS

    @property
    def heads_fill_hidden_size(self) -> bool | None:
        """Whether hidden_size / heads is the head dimension; None if the scores decide."""
        if self.query_heads is None:
            return None
        return self.query_heads * self.config.head_dim == self.config.hidden_size


@dataclass(frozen=True)
class Rule:
    """One requirement of a runtime.

    Attributes:
        holds: Returns whether an outcome meets it; None if that is not known.
        why: Returns the reason why an outcome does not meet it.
        source: Where the rule is from: a file or a page, and its version.
        needs: Option with which the runtime loads the outcome all the same, or None.
    """

    holds: Callable[[Outcome], bool | None]
    why: Callable[[Outcome], str]
    source: str
    needs: str | None = None


@dataclass(frozen=True)
class Support:
    """How a runtime supports a model class.

    Attributes:
        any_heads: Whether it reads the head dimension from `head_dim`, so that any number of heads is possible.
        any_neurons: Whether it reads the number of neurons from the config.
        note: Further note to the user.
    """

    any_heads: bool = True
    any_neurons: bool = True
    note: str | None = None


@dataclass(frozen=True)
class Loader:
    """A runtime that loads a checkpoint or a graph.

    Attributes:
        name: Name of the runtime.
        version: The version that the rules describe.
        rules: Its requirements; the first that fails decides.
        classes: Support of each model class that it knows, where needed.
        tried: Whether this project runs it; otherwise its rules are read from its sources.
    """

    name: str
    version: str
    rules: tuple[Rule, ...]
    classes: Mapping[str, Support] = field(default_factory=dict)
    tried: bool = True
