"""Check for activations that overflow float16 before an export in float16.

The model runs on calibration text in a dtype with a larger range, and its modules' inputs and outputs are checked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amp_export.errors import RequestError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LIMIT = 65504.0
"""The largest float16: IEEE 754, binary16."""

TEXTS = 4
"""Outliers occur in the same neurons for all texts, mostly at the first token (arXiv 2402.17762), so a few suffice."""

TOKENS = 128

SHOWN = 3


@dataclass(frozen=True)
class Overflow:
    """A module whose values float16 cannot hold.

    Attributes:
        module: Its name in the model.
        value: The largest absolute value of its inputs and outputs.
    """

    module: str
    value: float


def check_float16(checkpoint: Path) -> None:
    """Raise RequestError if a checkpoint's activations overflow float16.

    Raises:
        RequestError: Activations overflow; the message names the modules.
    """
    import torch

    from amp_export.checkpoints.loading import load_model
    from amp_export.inputs.tokens import draw_rows, token_pool

    model = load_model(checkpoint, dtype=torch.float32)
    context = getattr(model.config, "max_position_embeddings", TOKENS)
    pool = token_pool(checkpoint, model.config.vocab_size)
    overflows = find_overflows(model, draw_rows(pool, TEXTS, min(TOKENS, context)).tolist())
    if not overflows:
        return
    named = ", ".join(f"{overflow.module} ({overflow.value:.3g})" for overflow in overflows[:SHOWN])
    more = f" and {len(overflows) - SHOWN} more" if len(overflows) > SHOWN else ""
    raise RequestError(
        f"float16 holds at most {LIMIT:.0f}, but larger values occur on the calibration text in {named}{more}.\nUse "
        "bfloat16, which has the range of float32: --dtype bfloat16."
    )


def find_overflows(model: PreTrainedModel, token_ids: Sequence[Sequence[int]]) -> list[Overflow]:
    """Run a decoder on texts and return the modules with values beyond float16's range, the largest first.

    Attention scores within a kernel are not checked: runtimes compute them in float32.

    Args:
        model: The decoder, in float32 or bfloat16.
        token_ids: Token ids of the texts, all of the same length.
    """
    import torch

    largest: dict[str, float] = {}

    def watch(name: str) -> Any:
        def hook(_: torch.nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            for value in (*inputs, output):
                if isinstance(value, torch.Tensor) and value.is_floating_point():
                    # a NaN means that even this dtype overflowed earlier
                    found = float(value.abs().max().nan_to_num(torch.inf))
                    largest[name] = max(largest.get(name, 0.0), found)

        return hook

    leaves = ((name, module) for name, module in model.named_modules() if not any(module.children()))
    handles = [module.register_forward_hook(watch(name)) for name, module in leaves]
    try:
        with torch.inference_mode():
            model(input_ids=torch.tensor(token_ids), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    found = [Overflow(name, value) for name, value in largest.items() if value > LIMIT]
    return sorted(found, key=lambda overflow: -overflow.value)
