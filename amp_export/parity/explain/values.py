"""Intermediate values of graphs and of a model, one per call, with padding masked out."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from amp_export.exporters.onnx.introspection.taps import KEY, LOGITS, MASK, QUERY, VALUE, Tap, tapped_sessions
from amp_export.exporters.onnx.values import is_float, to_float32
from amp_export.outputs.scratch import scratch_beside
from amp_export.parity.explain.runs import Call, Run, Watch

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

Taps = Mapping[str, Sequence[Tap]]
"""Tapped values by the graph's file name."""

Recording = dict[tuple[str, str], list[Any]]
"""Values of all calls, float64, by the graph's file name and the module."""


def record_graphs(run: Run, files: Sequence[Path], taps: Taps) -> Recording:
    """Run graphs and return their intermediate values."""
    with scratch_beside(files[0].parent) as scratch:
        sessions = tapped_sessions(files, taps, scratch)
        calls = run.through_graphs(sessions)
        seen = []
        for file, session in zip(files, sessions, strict=True):
            its_calls = [call for call in calls if call.file == file.name]
            for call, values in zip(its_calls, session.calls, strict=True):
                for tap in taps[file.name]:
                    value = values[tap.value]
                    if is_float(value):
                        seen.append((call, tap.module, to_float32(value)))
                    elif value.data_type() == "tensor(bool)":
                        seen.append((call, tap.module, value.numpy()))
        return _gather(seen, taps)


def record_torch(model: PreTrainedModel, run: Run, taps: Taps) -> Recording:
    """Run PyTorch and return its intermediate values."""
    wanted = {tap.module for graph_taps in taps.values() for tap in graph_taps}
    watch = Watch(Call(""))
    with _modules_watched(model, wanted, watch), _attention_watched(model, wanted, watch):
        run.through_torch(model, watch)
    cut = ((part, name, array) for call, name, whole in watch.seen for part, array in run.cut(call, whole))
    return _gather(cut, taps)


def _gather(seen: Iterable[tuple[Call, str, Any]], taps: Taps) -> Recording:
    wanted = {(file, tap.module) for file, graph_taps in taps.items() for tap in graph_taps}
    recording: Recording = {}
    for call, name, array in seen:
        if (call.file, name) in wanted:
            recording.setdefault((call.file, name), []).append(_real(name, array.astype(np.float64), call))
    return recording


@contextmanager
def _modules_watched(model: PreTrainedModel, wanted: Collection[str], watch: Watch) -> Iterator[None]:
    def watching(name: str) -> Any:
        def hook(module: Any, inputs: Any, output: Any) -> None:
            del module, inputs
            if (returned := _returned(output)) is not None:
                watch.note(name, returned.detach().double().numpy())

        return hook

    def watch_logits(module: Any, inputs: Any, output: Any) -> None:
        del module, inputs
        watch.note(LOGITS, output.logits.detach().double().numpy())

    with ExitStack() as stack:
        for name, module in model.named_modules():
            if name in wanted:
                stack.enter_context(module.register_forward_hook(watching(name)))
        if LOGITS in wanted:
            stack.enter_context(model.register_forward_hook(watch_logits))
        yield


def _returned(output: Any) -> torch.Tensor | None:
    """Return a module's output, or the first of several; None if several have the same shape, such as cos and sin."""
    first, *others = output if isinstance(output, tuple) and output else (output,)
    if not hasattr(first, "detach") or not first.is_floating_point():
        return None
    if any(getattr(other, "shape", None) == first.shape for other in others):
        return None
    tensor: torch.Tensor = first
    return tensor


@contextmanager
def _attention_watched(model: PreTrainedModel, wanted: Collection[str], watch: Watch) -> Iterator[None]:
    """Record the inputs of attention functions from transformers' table, which does not include eager attention."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS as TABLE

    name = model.config._attn_implementation
    if name not in TABLE:
        yield
        return
    layers: Mapping[int, str] = {
        id(module): match[1]
        for path, module in model.named_modules()
        if (match := re.match(r"(.*\.\d+)\.[^.]+$", path)) is not None and f"{match[1]}.attention.{QUERY}" in wanted
    }
    original = TABLE[name]

    def watched(module: Any, query: Any, key: Any, value: Any, mask: Any, *rest: Any, **named: Any) -> Any:
        if (layer := layers.get(id(module))) is not None:
            for part, tensor in ((QUERY, query), (KEY, key), (VALUE, value), (MASK, _seen(query, key, mask))):
                watch.note(f"{layer}.attention.{part}", tensor.detach().double().numpy())
        return original(module, query, key, value, mask, *rest, **named)

    TABLE.register(name, watched)
    try:
        yield
    finally:
        TABLE.register(name, original)


def _seen(query: torch.Tensor, key: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Return the mask of the keys that each query attends to, as numbers; without a mask, it is causal, as in torch."""
    import torch

    new, total = query.shape[2], key.shape[2]
    if mask is None:
        seen = torch.ones(new, total).tril(total - new) if new > 1 else torch.ones(new, total)
        return seen.expand(query.shape[0], 1, new, total)
    return mask.double() if mask.dtype is torch.bool else (mask > torch.finfo(mask.dtype).min / 2).double()


def _real(name: str, array: Any, call: Call) -> Any:
    """Return a value with padding set to zero, since padding is not compared."""
    real, mask = call.real, call.mask
    if real is None:
        return array
    part = name.rsplit(".", 1)[-1] if ".attention." in name and mask is not None else ""
    if part == MASK and array.ndim == 5:
        # decomposed attention has an axis for the query heads of a group
        array = array[:, :, 0]
    if part in (KEY, VALUE) and array.ndim == 4:
        assert mask is not None
        array[np.broadcast_to(mask[:, np.newaxis, -array.shape[2] :, np.newaxis] == 0, array.shape)] = 0.0
    elif part in (QUERY, MASK) and array.ndim == 4:
        array = np.broadcast_to(array, (len(real), *array.shape[1:])).copy()
        array[np.broadcast_to(~real[:, np.newaxis, :, np.newaxis], array.shape)] = 0.0
    elif array.ndim == 2 and len(array) == real.size:
        array[~real.reshape(-1)] = 0.0
    elif array.ndim >= 2 and array.shape[:2] == real.shape:
        array[~real] = 0.0
    elif array.ndim == 4 and array.shape[2] == real.shape[1]:
        array[np.broadcast_to(~real[:, np.newaxis, :, np.newaxis], array.shape)] = 0.0
    return array
