"""Decoders that other exporters wrote: their inputs and outputs, by whatever name, told by what they are."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amp_export.errors import ModelError, RequestError, UnsupportedModelError
from amp_export.exporters import Precision
from amp_export.exporters.decoders import Decoder, Past
from amp_export.exporters.onnx.sessions import CPU_PROVIDER, open_session, require_runtime
from amp_export.exporters.threads import usable_cores

if TYPE_CHECKING:
    from amp_export.architectures import LayerWidths
    from amp_export.exporters.sessions import Floats, Integers, Port, Session

CACHE_NAMES = (
    # Optimum (`ORTModelForCausalLM`) and the onnxruntime-genai builder, 0.18
    r"(?:past_key_values|past|present)\.(?P<layer>\d+)\.(?:decoder\.)?(?P<part>key|value)",
    # transformers.exporters, 5.24: the path of a leaf, with what it is of where a graph takes and returns it
    r"(?:input\.|output\.)?(?:cache|past_key_values)\.layers\.(?P<layer>\d+)\.(?P<part>key|value)s",
    r"(?:past|present)_(?P<part>key|value)s?_(?P<layer>\d+)",
)
"""Names of keys and values, whole."""

TOKENS = ("input_ids", "attention_mask", "position_ids")

PREFILL, DECODE = "prefill.onnx", "decode.onnx"
"""What transformers.exporters writes for generation: a graph for the prompt, and one for single tokens after it."""


@dataclass(frozen=True)
class Ports:
    """What a graph takes and returns.

    Attributes:
        tokens: By our name, the dtypes of inputs for tokens.
        past: The graph's names of inputs for keys and values, by layer and part.
        present: The same of outputs.
        logits: The output that has logits.
    """

    tokens: Mapping[str, str]
    past: Mapping[tuple[int, str], str]
    present: Mapping[tuple[int, str], str]
    logits: str


def map_ports(inputs: Mapping[str, Port], outputs: Iterable[str]) -> Ports:
    """Tells what inputs and outputs are, by their names.

    Args:
        inputs: What a graph takes.
        outputs: The names of what it returns.

    Raises:
        RequestError: Some cannot be told; they are listed.
    """
    tokens, past, unknown = {}, {}, []
    for name, port in inputs.items():
        if name in TOKENS:
            tokens[name] = port.dtype
        elif (key := _cache_key(name)) is not None:
            past[key] = name
        else:
            unknown.append(name)
    names = list(outputs)
    present = {key: name for name in names if (key := _cache_key(name)) is not None}
    logits = next((name for name in names if name == "logits"), None)
    if unknown or logits is None or "input_ids" not in tokens:
        missing = [
            name for name, known in (("input_ids", "input_ids" in tokens), ("logits", logits is not None)) if not known
        ]
        problem = (
            f"takes {', '.join(unknown)}, whose meaning cannot be told"
            if unknown
            else f"has no {' and no '.join(missing)}"
        )
        raise RequestError(
            f"The graph {problem}.\nKnown are {', '.join(TOKENS)}, keys and values such as past_key_values.0.key, and "
            "the output logits: rename them, or export with Optimum, transformers or the onnxruntime-genai builder."
        )
    return Ports(tokens, past, present, logits)


class ForeignDecoder(Decoder):
    """A decoder that another exporter wrote, loaded and ready; its precision is that of its logits.

    `open_foreign` makes one.
    """

    def __init__(self, first: Session, later: Session, widths: Sequence[LayerWidths], *, head_dim: int) -> None:
        """Takes the graphs for prompt and later tokens, which may be one, and the model's heads."""
        self._sessions: tuple[Session, ...] = (first, later)
        self._ports = tuple(map_ports(session.inputs, session.outputs) for session in self._sessions)
        self._widths = widths
        self._head_dim = head_dim
        self.num_layers = len(widths)
        precision = first.outputs[self._ports[0].logits].precision
        if precision is None:
            raise UnsupportedModelError(
                f"The graph's logits are {first.outputs[self._ports[0].logits].dtype}.\n"
                f"Supported: {', '.join(Precision)}."
            )
        self.precision = precision
        self.threads, self.description = first.threads, first.description
        self.one_at_a_time = later.inputs["input_ids"].axes[1] == 1

    def forward(
        self, input_ids: Integers, attention_mask: Integers, position_ids: Integers, past: Past | None = None
    ) -> tuple[Floats, Past]:
        """See `Decoder.forward`."""
        if not self._sessions:
            raise ValueError("This decoder was closed.")
        session, ports = self._sessions[past is not None], self._ports[past is not None]
        given = {"input_ids": input_ids, "attention_mask": attention_mask, "position_ids": position_ids}
        values = {name: session.to_value(given[name].astype(dtype)) for name, dtype in ports.tokens.items()}
        for (layer, part), name in ports.past.items():
            key = f"{layer}.{part}"
            values[name] = past.values[key] if past is not None else self._empty(session, layer, name, len(input_ids))
        kept = list(ports.present.values())
        try:
            logits, *present = session.run([ports.logits, *kept], values, keep=kept)
        except Exception as error:  # onnxruntime's errors have no other base class in common
            length = past.length if past is not None else 0
            raise RequestError(
                f"The graph does not run on {len(input_ids)} texts of {input_ids.shape[1]} new tokens after {length}: "
                f"{error}\nGive cases that it takes with --cases."
            ) from error
        keys = (f"{layer}.{part}" for layer, part in ports.present)
        return session.to_float32(logits), Past(attention_mask.shape[1], dict(zip(keys, present, strict=True)))

    def close(self) -> None:
        """Frees the weights."""
        self._sessions = ()

    def _empty(self, session: Session, layer: int, name: str, batch_size: int) -> Any:
        import numpy as np

        shape = (batch_size, self._widths[layer].key_value_heads, 0, self._head_dim)
        return session.to_value(np.empty(shape, np.float32), session.inputs[name].precision)


def open_foreign(
    path: Path,
    widths: Sequence[LayerWidths],
    *,
    head_dim: int,
    threads: int | None = None,
    provider: str = CPU_PROVIDER,
) -> ForeignDecoder:
    """Loads a decoder that another exporter wrote.

    Args:
        path: The graph, or a folder with `prefill.onnx` and `decode.onnx`, or with `model.onnx`.
        widths: The heads of each layer, which graphs do not always tell.
        head_dim: The width of a head.
        threads: How many threads compute one operator; by default one for each core.
        provider: ONNX Runtime's execution provider.

    Raises:
        MissingExtraError: onnxruntime is not installed.
        ModelError: There is no such graph, or it is damaged.
        RequestError: An input cannot be told.
        UnsupportedModelError: It takes or returns no keys and values.
    """
    require_runtime()
    threads = threads if threads is not None else usable_cores()
    sessions = [open_session(file, threads=threads, providers=[provider]) for file in decoder_files(path)]
    decoder = ForeignDecoder(sessions[0], sessions[-1], widths, head_dim=head_dim)
    if not decoder._ports[-1].past or not decoder._ports[0].present:
        raise UnsupportedModelError(f"{path} takes or returns no keys and values: it is no decoder with a cache.")
    return decoder


def decoder_files(path: Path) -> list[Path]:
    """The graphs of a decoder: one, or that for prompts and that for later tokens.

    Args:
        path: The graph, or a folder with `prefill.onnx` and `decode.onnx`, or with `model.onnx`.

    Raises:
        ModelError: There is none.
    """
    if path.is_dir():
        both = [path / PREFILL, path / DECODE]
        found = both if all(file.is_file() for file in both) else [path / "model.onnx"]
    else:
        found = [path]
    if missing := [file for file in found if not file.is_file()]:
        raise ModelError(f"There is no {missing[0]}.\nName the graph, or the folder that it is in.")
    return found


def _cache_key(name: str) -> tuple[int, str] | None:
    for pattern in CACHE_NAMES:
        if (match := re.fullmatch(pattern, name)) is not None:
            return int(match["layer"]), match["part"]
    return None
