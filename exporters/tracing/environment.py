"""The environment of tracing: checks before it, suppressed output during it, and errors that name the model."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amp_export.errors import OutputError, UnsupportedModelError
from amp_export.options import Dtype

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def check_traceable(model: PreTrainedModel, folder: Path, dtype: Dtype) -> None:
    """Make sure that a model can be traced into a folder.

    Raises:
        OutputError: The folder is not empty.
        ValueError: The model is in training mode, or has another dtype.
    """
    if model.training:
        raise ValueError(f"{type(model).__name__} is in training mode.\nCall its eval() first.")
    if str(model.dtype) != f"torch.{dtype.value}":
        raise ValueError(
            f"{type(model).__name__} is in {model.dtype}.\nLoad it in {dtype.value} to export it in that dtype."
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OutputError(f"{folder} is not an empty folder.\nRemove it, or export to another folder.")


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress prints, logs and warnings of torch, transformers and the exporters.

    Only stdout is captured: they write only logs and warnings to stderr, where progress is shown.
    """
    disabled = logging.root.manager.disable
    handlers = list(logging.root.handlers)
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            logging.disable(disabled)
            # some modules add a handler when they are imported
            logging.root.handlers[:] = handlers


@contextmanager
def fast_export() -> Iterator[None]:
    """Switch off settings of torch that only cost time."""
    import torch._dynamo.config
    import torch.fx.config

    without_stacks = getattr(torch.fx.config, "do_not_emit_stack_traces", False)
    torch.fx.config.do_not_emit_stack_traces = True
    try:
        # with dynamic lengths, looking results up costs more than inferring them again
        with torch._dynamo.config.patch(fake_tensor_cache_enabled=False):
            yield
    finally:
        torch.fx.config.do_not_emit_stack_traces = without_stacks


@contextmanager
def complex_axes() -> Iterator[None]:
    """Let indexing with None add axes to complex tensors, as Llama 4 does where it rotates queries and keys.

    onnxscript has no function for what that becomes. transformers' exporter does the same for `unsqueeze`:
    `_patch_unsqueeze`, `exporter_onnx.py`, transformers 5.24.
    """
    import torch
    from torch.overrides import TorchFunctionMode

    # a method set on torch.Tensor would make every tensor a sequence for good, so that lists of scalars are no tensors
    class Split(TorchFunctionMode):
        def __torch_function__(self, function: Any, _types: Any, given: Any = (), named: Any = None) -> Any:
            if function is torch.Tensor.__getitem__:
                tensor, key = given
                if torch.is_complex(tensor) and isinstance(key, tuple) and any(each is None for each in key):
                    return torch.complex(tensor.real[key], tensor.imag[key])
            return function(*given, **(named or {}))

    with Split():
        yield


@contextmanager
def named_errors(model: PreTrainedModel) -> Iterator[None]:
    """Turn any error during tracing into one that names the model and says what to do."""
    try:
        yield
    except (UnsupportedModelError, MemoryError):
        raise
    except Exception as error:  # tracing runs the model's code, which may raise anything
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        reason = next((line.strip() for line in str(cause).splitlines() if line.strip()), "no reason given")
        raise UnsupportedModelError(
            f"{type(model).__name__} cannot be traced: {type(cause).__name__}: {reason}\n"
            'Try a newer transformers and torch, or another attention: model.set_attn_implementation("eager").'
        ) from error
