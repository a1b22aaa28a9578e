"""Where a graph and its model part: their values within, side by side, up to the first that differs.

Every value has a tolerance of its own, measured as that of logits is: PyTorch in the graph's precision against PyTorch
in a higher one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from amp_export.errors import UnsupportedModelError
from amp_export.exporters import Precision
from amp_export.exporters.onnx.tapping import KEY, MASK, QUERY, VALUE, Tap, find_taps, tapped_decoder
from amp_export.parity_cases import Case, Floats, Integers, replay, token_pool
from amp_export.parity_suites import torch_decoder
from amp_export.validation import NOISE_FACTOR, REFERENCE, run_torch

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from amp_export.progress import Progress

Recording = dict[str, list[Any]]
"""By name, the value of every call."""

FLOOR = 1e-6
"""The least tolerance, as a share of a value's largest entry: what is looked up has no noise at all."""


@dataclass(frozen=True)
class Point:
    """A value that graph and model both have.

    Attributes:
        module: The model's name for it.
        layer: The decoder layer it is in, or None.
        value: The graph's name for it.
        operator: The operator that makes it.
        error: The largest absolute difference; infinite where the graph has NaN or infinity and the model has not.
        noise: The largest difference between PyTorch in the graph's precision and in a higher one.
        tolerance: What the error may be.
        holds: Whether it is within.
    """

    module: str
    layer: int | None
    value: str
    operator: str
    error: float
    noise: float
    tolerance: float
    holds: bool


@dataclass(frozen=True)
class Explanation:
    """Where graph and model part.

    Attributes:
        case: The case that was run.
        points: Every value that both have, in the order of the graph.
        first: The first that differs, or None.
        operators: The operators from the last value that agrees to that one: the fault is among them.
    """

    case: str
    points: tuple[Point, ...]
    first: Point | None
    operators: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def explain(checkpoint: Path, graph: Path, case: Case, *, progress: Progress) -> Explanation:
    """Holds the values within a decoder's graph against those of the model.

    Args:
        checkpoint: What was exported.
        graph: The file of the graph, its weights beside it.
        case: What to run.
        progress: Where to show what is going on.

    Raises:
        UnsupportedModelError: No value of the graph can be told to be one of the model's.
    """
    import onnx

    from amp_export.checkpoints import open_checkpoint
    from amp_export.loading import load_model

    model = onnx.load(graph, load_external_data=False)
    names = [name for name, _ in load_model(checkpoint).named_modules() if name]
    taps = find_taps(model, names)
    if not taps:
        raise UnsupportedModelError(
            f"No value within {graph} is named after a module of the model, so that they cannot be compared.\n"
            "Export with amp-export, or with an exporter that keeps the modules' names."
        )
    pool = token_pool(checkpoint, open_checkpoint(checkpoint).config.vocab_size)
    with (
        progress.step("Running the graph, and looking within"),
        tapped_decoder(graph.parent, graph.name, taps) as decoder,
    ):
        found = _record_graph(decoder, taps, case, pool)
        precision = decoder.precision
    with progress.step(f"Running PyTorch in {REFERENCE[precision]}, and looking within"):
        expected = run_torch(checkpoint, REFERENCE[precision], lambda made: _record_torch(made, taps, case, pool))
    with progress.step(f"Running PyTorch in {precision}, and looking within"):
        same = run_torch(checkpoint, precision.value, lambda made: _record_torch(made, taps, case, pool))
    points = tuple(_points(taps, found, expected, same, precision))
    first = next((point for point in points if not point.holds), None)
    return Explanation(case.name, points, first, _operators(model, points, first))


def _points(
    taps: Sequence[Tap], found: Recording, expected: Recording, same: Recording, precision: Precision
) -> Iterator[Point]:
    for tap in taps:
        if tap.module not in found or tap.module not in expected:
            continue
        pairs = list(zip(found[tap.module], expected[tap.module], same[tap.module], strict=True))
        pairs = [_align(*pair) for pair in pairs]
        error = max(_largest(graph - reference) for graph, reference, _ in pairs)
        noise = max(_largest(rounded - reference) for _, reference, rounded in pairs)
        scale = max(_largest(reference) for _, reference, _ in pairs)
        # what is computed exactly in float64 is still rounded once in the graph
        floor = scale * (FLOOR if precision is Precision.FLOAT32 else float(np.finfo(np.float16).eps))
        tolerance = NOISE_FACTOR * max(noise, floor)
        match = re.search(r"\.(\d+)(\.|$)", tap.module)
        layer = int(match[1]) if match is not None else None
        yield Point(tap.module, layer, tap.value, tap.operator, error, noise, tolerance, bool(error <= tolerance))


def _align(graph: Any, reference: Any, rounded: Any) -> tuple[Any, Any, Any]:
    """The same entries of all three: a window's cache has dropped the oldest keys, and heads may lie on one axis."""
    if graph.ndim == reference.ndim == 4 and graph.shape != reference.shape:
        kept = reference.shape[-1] if graph.shape[-1] != reference.shape[-1] else None
        if kept is not None:
            return graph[..., -kept:], reference, rounded
        return graph[:, :, -reference.shape[2] :], reference, rounded
    return graph.reshape(reference.shape), reference, rounded


def _largest(difference: Any) -> float:
    return float(np.nan_to_num(abs(difference), nan=np.inf, posinf=np.inf).max()) if difference.size else 0.0


def _record_graph(decoder: Any, taps: Sequence[Tap], case: Case, pool: Integers) -> Recording:
    from amp_export.exporters.onnx.sessions import to_float32

    recording: Recording = {}

    def forward(ids: Integers, mask: Integers, places: Integers, past: Any) -> tuple[Floats, Any]:
        logits, past = decoder.forward(ids, mask, places, past)
        real = mask[:, -ids.shape[1] :] == 1
        for tap in taps:
            value = decoder.tapped.get(tap.value)
            if value is None:
                value = past.values.get(tap.value.replace("present", "past_key_values"))
            if value is None:
                continue
            array = value.numpy() if value.data_type() == "tensor(bool)" else to_float32(value)
            recording.setdefault(tap.module, []).append(_real(tap.module, array.astype(np.float64), real, mask))
        return logits, past

    replay(case, pool, forward)
    return recording


def _record_torch(model: PreTrainedModel, taps: Sequence[Tap], case: Case, pool: Integers) -> Recording:
    recording: Recording = {}
    wanted = {tap.module for tap in taps}
    state: dict[str, Any] = {}

    def note(name: str, tensor: torch.Tensor) -> None:
        if name in wanted:
            array = tensor.detach().double().numpy()
            recording.setdefault(name, []).append(_real(name, array, state["real"], state["mask"]))

    def watch(name: str) -> Any:
        def hook(module: Any, inputs: Any, output: Any) -> None:
            del module, inputs
            first = output[0] if isinstance(output, tuple) else output
            if hasattr(first, "detach") and first.is_floating_point():
                note(name, first)

        return hook

    handles = [module.register_forward_hook(watch(name)) for name, module in model.named_modules() if name in wanted]
    run = torch_decoder(model)

    def forward(ids: Integers, mask: Integers, places: Integers, past: Any) -> tuple[Floats, Any]:
        state.update(real=mask[:, -ids.shape[1] :] == 1, mask=mask)
        return run(ids, mask, places, past)

    try:
        with _attention_watched(model, note):
            replay(case, pool, forward)
    finally:
        for handle in handles:
            handle.remove()
    return recording


@contextmanager
def _attention_watched(model: PreTrainedModel, note: Any) -> Iterator[None]:
    """Tells what attentions take, where transformers looks their function up in its table: not in eager attention."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS as TABLE

    name = model.config._attn_implementation
    if name not in TABLE:
        yield
        return
    layers: Mapping[int, str] = {
        id(module): match[1]
        for path, module in model.named_modules()
        if (match := re.match(r"(.*\.\d+)\.[^.]+$", path)) is not None
    }
    original = TABLE[name]

    def watched(module: Any, query: Any, key: Any, value: Any, mask: Any, *rest: Any, **named: Any) -> Any:
        if (layer := layers.get(id(module))) is not None:
            for part, tensor in ((QUERY, query), (KEY, key), (VALUE, value)):
                note(f"{layer}.attention.{part}", tensor)
            note(f"{layer}.attention.{MASK}", _seen(query, key, mask))
        return original(module, query, key, value, mask, *rest, **named)

    TABLE.register(name, watched)
    try:
        yield
    finally:
        TABLE.register(name, original)


def _seen(query: torch.Tensor, key: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Which key each query sees, as numbers; without a mask all before it, as scaled_dot_product_attention has it."""
    import torch

    new, total = query.shape[2], key.shape[2]
    if mask is None:
        seen = torch.ones(new, total).tril(total - new) if new > 1 else torch.ones(new, total)
        return seen.expand(query.shape[0], 1, new, total)
    return mask.double() if mask.dtype is torch.bool else (mask > torch.finfo(mask.dtype).min / 2).double()


def _real(name: str, array: Any, real: Any, mask: Integers) -> Any:
    """Only what belongs to real tokens: nobody looks at what is computed of padding."""
    part = name.rsplit(".", 1)[-1] if ".attention." in name else ""
    array = np.array(array)
    if part == MASK and array.ndim == 5:
        # where attention is spelled out, the query heads of a group have an axis
        array = array[:, :, 0]
    if part in (KEY, VALUE):
        array[np.broadcast_to(mask[:, np.newaxis, -array.shape[2] :, np.newaxis] == 0, array.shape)] = 0.0
    elif part in (QUERY, MASK):
        array = np.broadcast_to(array, (len(real), *array.shape[1:])).copy()
        array[np.broadcast_to(~real[:, np.newaxis, :, np.newaxis], array.shape)] = 0.0
    elif array.ndim == 2 and len(array) == real.size:
        array[~real.reshape(-1)] = 0.0
    elif array.ndim >= 2 and array.shape[:2] == real.shape:
        array[~real] = 0.0
    elif array.ndim == 4 and array.shape[2] == real.shape[1]:
        array[np.broadcast_to(~real[:, np.newaxis, :, np.newaxis], array.shape)] = 0.0
    return array


def _operators(model: Any, points: Sequence[Point], first: Point | None) -> tuple[str, ...]:
    """The operators that make the first value that differs out of values that agree."""
    if first is None:
        return ()
    agreeing = {point.value for point in points if point.holds}
    nodes = model.graph.node
    makers = {output: node for node in nodes for output in node.output}
    pending, seen, operators = [first.value], set(), []
    while pending:
        value = pending.pop()
        if value in seen or value not in makers or (value in agreeing and value != first.value):
            continue
        seen.add(value)
        operators.append(makers[value].op_type)
        pending += makers[value].input
    return tuple(dict.fromkeys(operators))
