"""Looks for values that float16 cannot hold, before anything is exported in it.

A model is run on calibration text in a dtype of more range, and what its modules take and return is looked at.
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
"""Outliers sit in the same neurons for all texts, the first token's above all (arXiv 2402.17762): a few texts do."""

TOKENS = 128

SHOWN = 3


@dataclass(frozen=True)
class Overflow:
    """A module whose values float16 cannot hold.

    Attributes:
        module: Its name in the model.
        value: The largest absolute value that it took or returned.
    """

    module: str
    value: float


def check_float16(checkpoint: Path) -> None:
    """Refuse a checkpoint whose activations overflow float16.

    Raises:
        RequestError: They do; the modules are named.
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
    """Run a decoder on texts and returns the modules through which too large values pass, the worst first.

    What happens within an attention's kernel, the products of queries and keys, is not seen: runtimes take them in
    float32.

    Args:
        model: The decoder, in float32 or bfloat16.
        token_ids: The texts' tokens, all of one length.
    """
    import torch

    largest: dict[str, float] = {}

    def watch(name: str) -> Any:
        def hook(_: torch.nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            for value in (*inputs, output):
                if isinstance(value, torch.Tensor) and value.is_floating_point():
                    # NaN means that it overflowed before, even here
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
