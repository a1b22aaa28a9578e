"""Where PyTorch runs a model: on a GPU if there is one with room for it, otherwise on the CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CPU, GPU = "cpu", "cuda"


def choose_device(*, needed_bytes: int = 0) -> str:
    """Return the GPU if torch sees one that has so much free memory, otherwise the CPU.

    Args:
        needed_bytes: What will be held there.
    """
    import torch

    if not torch.cuda.is_available():
        return CPU
    free_bytes, _ = torch.cuda.mem_get_info()
    return GPU if needed_bytes <= free_bytes else CPU


def model_bytes(model: PreTrainedModel) -> int:
    """Return the size of a model's weights."""
    return sum(parameter.nbytes for parameter in model.parameters())


def move(model: PreTrainedModel, device: str) -> PreTrainedModel:
    """Move a model to a device, and return it."""
    import torch

    torch.nn.Module.to(model, device)
    return model
