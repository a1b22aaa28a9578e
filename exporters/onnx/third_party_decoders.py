"""Third-party decoders, whose inputs and outputs are recognized by the names that other exporters give them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from amp_export.errors import RequestError, UnsupportedModelError
from amp_export.exporters.models.decoder import Decoder, Past, check_logits
from amp_export.exporters.models.ports import LOGITS_TO_KEEP, kept_logits
from amp_export.exporters.models.session import floating_dtype

if TYPE_CHECKING:
    from amp_export.architectures import CacheTensor
    from amp_export.exporters.models.session import Floats, Integers, Port, Session

CACHE_NAMES = (
    # Optimum (`ORTModelForCausalLM`) and the onnxruntime-genai builder, 0.18
    r"(?:past_key_values|past|present)\.(?P<layer>\d+)\.(?:decoder\.)?(?P<part>key|value)",
    # transformers.exporters, 5.24: the path of a leaf, with a prefix if it is both an input and an output
    r"(?:input\.|output\.)?(?:cache|past_key_values)\.layers\.(?P<layer>\d+)\.(?P<part>key|value)s",
    r"(?:past|present)_(?P<part>key|value)s?_(?P<layer>\d+)",
    # states, in graphs for transformers.js 4.3 and of the onnxruntime-genai builder, 0.18
    r"(?:past|present)_(?P<part>conv|recurrent|ssm)\.(?P<layer>\d+)",
    r"(?:past|present)\.(?P<layer>\d+)\.(?P<part>conv|recurrent)",
)
"""Patterns that match the whole name of a cache tensor."""

_HELD = {
    "key": "keys",
    "value": "values",
    "conv": "state of the convolution",
    "recurrent": "state of the recurrence",
    "ssm": "state of the state space",
}
"""What the parts of a cache are called in messages."""

TOKENS = ("input_ids", "attention_mask", "position_ids", LOGITS_TO_KEEP)


@dataclass(frozen=True)
class Ports:
    """Inputs and outputs of a graph.

    Attributes:
        tokens: Dtypes of the inputs in `TOKENS`, by name.
        past: Names of the cache's inputs, by layer and part.
        present: Names of the cache's outputs, by layer and part.
        logits: Name of the logits output.
    """

    tokens: Mapping[str, str]
    past: Mapping[tuple[int, str], str]
    present: Mapping[tuple[int, str], str]
    logits: str


def map_ports(inputs: Mapping[str, Port], outputs: Iterable[str]) -> Ports:
    """Recognize the inputs and outputs of a graph by their names.

    Args:
        inputs: Inputs by name.
        outputs: Names of the outputs.

    Raises:
        RequestError: An input is unknown, or `input_ids` or `logits` is missing; the message names them.
    """
    tokens, past, unknown = {}, {}, []
    for name, port in inputs.items():
        if name in TOKENS:
            tokens[name] = port.dtype
        elif (key := cache_key(name)) is not None:
            past[key] = name
        else:
            unknown.append(name)
    names = list(outputs)
    present = {key: name for name in names if (key := cache_key(name)) is not None}
    logits = next((name for name in names if name == "logits"), None)
    if unknown or logits is None or "input_ids" not in tokens:
        missing = [
            name for name, known in (("input_ids", "input_ids" in tokens), ("logits", logits is not None)) if not known
        ]
        problem = f"has unknown inputs: {', '.join(unknown)}" if unknown else f"has no {' and no '.join(missing)}"
        raise RequestError(
            f"The graph {problem}.\nKnown are the inputs {', '.join(TOKENS)}, KV cache tensors such as "
            "past_key_values.0.key, and the output logits: rename them, or export with Optimum, transformers or the "
            "onnxruntime-genai builder."
        )
    return Ports(tokens, past, present, logits)


class ThirdPartyDecoder(Decoder):
    """A loaded third-party decoder; its dtype is that of its logits.

    `open_third_party` creates it.
    """

    def __init__(self, first: Session, later: Session, cache: Iterable[CacheTensor]) -> None:
        """Take the graphs for prefill and decode, which may be the same, and what the model's cache holds."""
        self._sessions: tuple[Session, ...] = (first, later)
        self._ports = tuple(map_ports(session.inputs, session.outputs) for session in self._sessions)
        if not self._ports[1].past or not self._ports[0].present:
            raise UnsupportedModelError(
                "The graph does not take or return a KV cache, so it is not a decoder with a cache."
            )
        self._cache = {(tensor.layer, tensor.part): tensor for tensor in cache}
        self.num_layers = len({layer for layer, _ in self._cache})
        self._check_caches()
        self.logits = kept_logits(first.outputs)
        logits = self._ports[0].logits
        self.dtype = floating_dtype(logits, first.outputs[logits])
        self.threads, self.description = first.threads, first.description
        self.one_at_a_time = later.inputs["input_ids"].axes[1] == 1

    def _check_caches(self) -> None:
        """Check that each graph returns the cache that the later one takes, and that of no other layers.

        Raises:
            RequestError: A tensor of the cache is missing, or belongs to a layer that the model lacks.
        """
        expected = set(self._cache)
        for found, what in ((self._ports[1].past, "takes"), *((ports.present, "returns") for ports in self._ports)):
            if (wrong := min(expected ^ set(found), default=None)) is not None:
                layer, part = wrong
                lacks = "lacks" if wrong in expected else "has"
                raise RequestError(
                    f"The KV cache that the graph {what} {lacks} the {_HELD[part]} of layer {layer}, while the "
                    f"reference has {self.num_layers} layers.\nExport the graph again from this reference, or give "
                    "its own with --reference."
                )

    def forward(
        self,
        input_ids: Integers,
        attention_mask: Integers,
        position_ids: Integers,
        past: Past | None = None,
        *,
        logits_to_keep: int = 0,
    ) -> tuple[Floats, Past]:
        """See `Decoder.forward`."""
        import numpy as np

        if not self._sessions:
            raise ValueError("This decoder is closed.")
        check_logits(self.logits, logits_to_keep, input_ids.shape[1])
        session, ports = self._sessions[past is not None], self._ports[past is not None]
        arrays = (input_ids, attention_mask, position_ids, np.array(logits_to_keep))
        given = dict(zip(TOKENS, arrays, strict=True))
        values = {name: session.to_value(given[name].astype(dtype)) for name, dtype in ports.tokens.items()}
        for (layer, part), name in ports.past.items():
            key = f"{layer}.{part}"
            values[name] = (
                past.values[key]
                if past is not None
                else self._start(session, self._cache[layer, part], name, len(input_ids))
            )
        kept = list(ports.present.values())
        logits, *present = session.run([ports.logits, *kept], values, keep=kept)
        keys = (f"{layer}.{part}" for layer, part in ports.present)
        kept_bsv = session.to_float32(logits)[:, -logits_to_keep:]
        return kept_bsv, Past(attention_mask.shape[1], dict(zip(keys, present, strict=True)))

    def close(self) -> None:
        """Free the weights."""
        self._sessions = ()

    def _start(self, session: Session, tensor: CacheTensor, name: str, batch_size: int) -> Any:
        """Return what a call without a cache is given: keys and values of no tokens, and states of zeros."""
        import numpy as np

        port = session.inputs[name]
        sizes = [axis or 0 for axis in tensor.axes]
        if tensor.is_state:
            # other graphs may keep fewer tokens: those that are still within the reach of new ones
            given = zip(port.axes[1:], sizes, strict=True)
            sizes = [axis if isinstance(axis, int) else size for axis, size in given]
        return session.to_value(np.zeros((batch_size, *sizes), np.float32), port.float_dtype)


def cache_key(name: str) -> tuple[int, str] | None:
    """Return the layer and the part of a cache tensor, as in `CacheTensor`; None for any other name."""
    for pattern in CACHE_NAMES:
        if (match := re.fullmatch(pattern, name)) is not None:
            return int(match["layer"]), match["part"]
    return None
