"""Facts about GGUF: which of llama.cpp's architectures stands for a family, and what each of these computes.

A family's own file names its routes; the table of llama.cpp's architectures is here, since several families share one.
All facts are of the llama.cpp in xllamacpp 2026.10.11549: `load_arch_hparams`, `load_arch_tensors` and the graph in
`src/models/NAME.cpp`, and `llama_model_rope_type` in `src/llama-model.cpp`.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

_LINEAR = frozenset({"default", "linear", "yarn"})
_BY_TENSOR = _LINEAR | {"llama3"}

ATTENTION, OUTPUT, MLP = "attention", "output", "mlp"
"""Where a layer may have biases: queries, keys and values; the attention's output; the MLP."""


class Multipliers(enum.StrEnum):
    """Where llama.cpp has a family's multipliers, such as those of embeddings and logits."""

    CODE = "code"
    """In its code, where it has any."""
    KEYS = "keys"
    """In keys of the file."""
    WEIGHTS = "weights"
    """Nowhere: the file's weights are multiplied with them."""


@dataclass(frozen=True)
class GgufArchitecture:
    """What llama.cpp computes for one value of `general.architecture`.

    Attributes:
        widths_by_layer: Whether each layer has head counts and neurons of its own.
        rotates_neighbours: Whether rotary embeddings turn neighbouring dimensions. transformers turns those of two
            halves, so that the rows of queries and keys are reordered.
        fuses_attention: Whether queries, keys and values are one tensor.
        has_head: Whether an LM head of its own is read; otherwise it is always the embedding.
        biases: Where biases are read.
        ropes: Types of rotary embeddings, by their names in transformers.
        activation: The MLP's activation function, by its name in transformers.
        has_windows: Whether layers may have sliding windows, which a key lists.
        unrotated_every: Interval N: every N-th layer has no rotary embeddings.
        may_not_rotate: Whether a key can say that no layer has rotary embeddings.
        scales_by_width_at: Number of layers at which attention scores are divided by the root of hidden size over
            heads, instead of head dimension.
        fills_hidden_size: Whether all query heads together are as wide as the hidden size, whatever a key says.
        final_norm: Name of the norm before the LM head.
        mlp_norm: Name of the tensor of the norm before the MLP, within a layer.
        multipliers: Where the multipliers are.
        has_mixers: Whether layers may mix tokens otherwise than by attention, with sizes that keys hold.
        expands: Width of a state-space mixer over the hidden size; None if it has any.
    """

    widths_by_layer: bool = False
    rotates_neighbours: bool = False
    fuses_attention: bool = False
    has_head: bool = True
    biases: frozenset[str] = frozenset({ATTENTION})
    ropes: frozenset[str] = _LINEAR
    activation: str = "silu"
    has_windows: bool = False
    unrotated_every: int | None = None
    may_not_rotate: bool = False
    scales_by_width_at: int | None = None
    fills_hidden_size: bool = False
    final_norm: str = "output_norm"
    mlp_norm: str = "ffn_norm.weight"
    multipliers: Multipliers = Multipliers.CODE
    has_mixers: bool = False
    expands: int | None = None


_EVERYWHERE = frozenset({ATTENTION, OUTPUT, MLP})

_GRANITE = GgufArchitecture(
    rotates_neighbours=True,
    biases=_EVERYWHERE,
    ropes=_BY_TENSOR,
    may_not_rotate=True,
    multipliers=Multipliers.KEYS,
)

GGUF_ARCHITECTURES: Mapping[str, GgufArchitecture] = MappingProxyType(
    {
        "llama": GgufArchitecture(rotates_neighbours=True, biases=_EVERYWHERE, ropes=_BY_TENSOR),
        "deci": GgufArchitecture(widths_by_layer=True, rotates_neighbours=True, biases=_EVERYWHERE, ropes=_BY_TENSOR),
        "granite": _GRANITE,
        # layers without key/value heads have a state-space mixer: `src/models/mamba-base.cpp`
        "granitehybrid": replace(_GRANITE, has_mixers=True, expands=2),
        # each layer has a state-space mixer beside attention
        "falcon-h1": GgufArchitecture(
            biases=frozenset({ATTENTION, MLP}),
            mlp_norm="ffn_norm",
            multipliers=Multipliers.WEIGHTS,
            has_mixers=True,
        ),
        "smollm3": GgufArchitecture(rotates_neighbours=True, unrotated_every=4),
        "qwen3": GgufArchitecture(),
        "qwen3moe": GgufArchitecture(),
        "openelm": GgufArchitecture(
            widths_by_layer=True, fuses_attention=True, has_head=False, biases=frozenset(), ropes=frozenset({"default"})
        ),
        "gemma": GgufArchitecture(has_head=False, activation="gelu_pytorch_tanh"),
        "gemma2": GgufArchitecture(
            has_head=False, activation="gelu_pytorch_tanh", has_windows=True, scales_by_width_at=46
        ),
        "gemma3": GgufArchitecture(activation="gelu_pytorch_tanh", has_windows=True, scales_by_width_at=62),
        # layers without key/value heads have a short convolution
        "lfm2": GgufArchitecture(
            biases=frozenset(), fills_hidden_size=True, final_norm="token_embd_norm", has_mixers=True
        ),
    }
)


@dataclass(frozen=True)
class GgufRoutes:
    """The architectures of llama.cpp that a family's checkpoints are written as.

    Attributes:
        uniform: Where all layers have the same widths, with any number of heads.
        varied: Where their widths differ; None if there is none.
        unmixed: Where all layers have the same widths, and none has the family's mixer; None if it is `uniform`, too.
        requires: Config fields with the values that these compute with, whatever the config says.
    """

    uniform: str
    varied: str | None = None
    unmixed: str | None = None
    requires: Mapping[str, Any] = field(default_factory=dict)
