"""Run a model where it is fastest: on a GPU in bfloat16, with activations computed again, or on a CPU as it is."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from amp_export.architectures import ModelConfig


def precision(device: torch.device) -> AbstractContextManager[object]:
    """Return the context that a model is trained in: bfloat16 on a GPU, the weights' own dtype on a CPU."""
    import torch

    return torch.autocast("cuda", torch.bfloat16) if device.type == "cuda" else nullcontext()


def run_windows(model: PreTrainedModel, windows: Sequence[Sequence[int]]) -> torch.Tensor:
    """Return a model's logits at all positions of windows of one length, [windows x tokens, vocabulary]."""
    import torch

    input_ids_bs = torch.tensor(windows, device=model.device)
    logits_bsv: torch.Tensor = model(
        input_ids=input_ids_bs, attention_mask=torch.ones_like(input_ids_bs), use_cache=False
    ).logits
    return logits_bsv.flatten(0, 1)


def checkpoint_layers(model: PreTrainedModel, config: ModelConfig) -> None:
    """Let each layer compute its activations again for its gradients, instead of keeping them.

    transformers' own `gradient_checkpointing_enable` works in training mode alone, in which families drop activations.

    Args:
        model: The model, which is changed.
        config: Its config.
    """
    from torch.utils.checkpoint import checkpoint

    for site in config.sites:
        layer = model.get_submodule(site.path)
        layer.forward = functools.partial(checkpoint, layer.forward, use_reentrant=False)
