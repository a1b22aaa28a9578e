"""Decoders that other exporters wrote: their inputs and outputs, by whatever name, told by what they are."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amp_export.errors import ModelError, RequestError, UnsupportedModelError
from amp_export.exporters.onnx.running_decoders import Past
from amp_export.exporters.onnx.sessions import (
    CPU_PROVIDER,
    PRECISIONS,
    empty_value,
    open_session,
    require_runtime,
    to_float32,
)
from amp_export.exporters.onnx.threads import usable_cores

if TYPE_CHECKING:
    from onnxruntime import InferenceSession, OrtValue

    from amp_export.architectures import LayerWidths
    from amp_export.exporters.onnx.sessions import Floats, Integers

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

_INTEGERS = {"tensor(int64)": "int64", "tensor(int32)": "int32", "tensor(bool)": "bool"}


@dataclass(frozen=True)
class Ports:
    """What a graph takes and returns.

    Attributes:
        tokens: By our name, the types of inputs for tokens, as ONNX Runtime names them.
        past: The graph's names of inputs for keys and values, by layer and part.
        present: The same of outputs.
        logits: The output that has logits.
    """

    tokens: Mapping[str, str]
    past: Mapping[tuple[int, str], str]
    present: Mapping[tuple[int, str], str]
    logits: str


def map_ports(inputs: Iterable[Any], outputs: Iterable[Any]) -> Ports:
    """Tells what inputs and outputs are, by their names.

    Args:
        inputs: As `InferenceSession.get_inputs` lists them.
        outputs: As `get_outputs` does.

    Raises:
        RequestError: Some cannot be told; they are listed.
    """
    tokens, past, unknown = {}, {}, []
    for entry in inputs:
        if entry.name in TOKENS:
            tokens[entry.name] = entry.type
        elif (key := _cache_key(entry.name)) is not None:
            past[key] = entry.name
        else:
            unknown.append(entry.name)
    names = [entry.name for entry in outputs]
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


class ForeignDecoder:
    """A decoder that another exporter wrote, loaded and ready. `open_foreign` makes one.

    Attributes:
        num_layers: How many decoder layers it has.
        precision: The dtype of its logits.
        threads: How many threads compute one operator.
        one_at_a_time: Whether it takes single tokens alone after the prompt.
    """

    def __init__(
        self,
        first: InferenceSession,
        later: InferenceSession,
        widths: Sequence[LayerWidths],
        *,
        head_dim: int,
        threads: int,
    ) -> None:
        """Takes the graphs for prompt and later tokens, which may be one, and the model's heads."""
        self._sessions: tuple[InferenceSession, ...] = (first, later)
        self._ports = tuple(map_ports(session.get_inputs(), session.get_outputs()) for session in self._sessions)
        self._widths = widths
        self._head_dim = head_dim
        self.num_layers = len(widths)
        kinds = {entry.name: entry.type for entry in first.get_outputs()}
        self.precision = PRECISIONS[kinds[self._ports[0].logits]]
        self._cache_types = {entry.name: PRECISIONS.get(entry.type) for entry in first.get_inputs()}
        self.threads = threads
        ids = next(entry for entry in later.get_inputs() if entry.name == "input_ids")
        self.one_at_a_time = ids.shape[1] == 1

    def forward(
        self, input_ids: Integers, attention_mask: Integers, position_ids: Integers, past: Past | None = None
    ) -> tuple[Floats, Past]:
        """Computes the logits of new tokens: see `OnnxDecoder.forward`."""
        if not self._sessions:
            raise ValueError("This decoder was closed.")
        session, ports = self._sessions[past is not None], self._ports[past is not None]
        given = {"input_ids": input_ids, "attention_mask": attention_mask, "position_ids": position_ids}
        values = {name: self._integers(given[name], kind) for name, kind in ports.tokens.items()}
        for (layer, part), name in ports.past.items():
            key = f"{layer}.{part}"
            values[name] = past.values[key] if past is not None else self._empty(layer, name, len(input_ids))
        names = [ports.logits, *ports.present.values()]
        try:
            logits, *present = session.run_with_ort_values(names, values)
        except Exception as error:  # onnxruntime's errors have no other base class in common
            length = past.length if past is not None else 0
            raise RequestError(
                f"The graph does not run on {len(input_ids)} texts of {input_ids.shape[1]} new tokens after {length}: "
                f"{error}\nGive cases that it takes with --cases."
            ) from error
        keys = (f"{layer}.{part}" for layer, part in ports.present)
        return to_float32(logits), Past(attention_mask.shape[1], dict(zip(keys, present, strict=True)))

    def close(self) -> None:
        """Frees the weights."""
        self._sessions = ()

    def _integers(self, array: Integers, kind: str) -> OrtValue:
        from onnxruntime import OrtValue

        return OrtValue.ortvalue_from_numpy(array.astype(_INTEGERS[kind]))

    def _empty(self, layer: int, name: str, batch_size: int) -> OrtValue:
        precision = self._cache_types[name]
        assert precision is not None, name
        return empty_value((batch_size, self._widths[layer].key_value_heads, 0, self._head_dim), precision)


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
    decoder = ForeignDecoder(sessions[0], sessions[-1], widths, head_dim=head_dim, threads=threads)
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
