"""Weights that a config ties and that the files hold with different values; as in transformers, the files decide.

Source: `PreTrainedModel.tie_weights`, `modeling_utils.py`, transformers 5.24: two weights in the files that differ are
not tied, whatever the config says.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from amp_export.architectures import ModelConfig
from amp_export.checkpoints.weight_files import DTYPES, TensorInfo, has_safetensors, read_headers, read_tensor

ROWS = 1 << 14
"""Rows that are compared at a time."""


def differs_from_embedding(path: Path, config: ModelConfig) -> bool:
    """Return whether the files hold an LM head whose values differ from those of the token embedding.

    Args:
        path: A checkpoint directory, with weights or without.
        config: Its config, of a family whose tensor names are known.

    Raises:
        ModelError: A weight file is missing or damaged.
    """
    if config.is_bare or not has_safetensors(path):
        return False
    tensors = read_headers(path)
    modules = (config.architecture.head, config.architecture.embedding)
    head, embedding = (_find(tensors, config, f"{module}.weight") for module in modules)
    return head is not None and embedding is not None and _differ(head, embedding)


def count_untied(path: Path, tied: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Return the number of parameters that a config ties to others, though the files hold other values for them.

    Args:
        path: A checkpoint directory, with weights or without.
        tied: The names of the tied weights, with those of the weights that they are tied to.
        shapes: Shapes of all weights.

    Raises:
        ModelError: A weight file is missing or damaged.
    """
    if not tied or not has_safetensors(path):
        return 0
    tensors = read_headers(path)
    both = [name for name, other in tied.items() if name in tensors and other in tensors]
    return sum(math.prod(shapes[name]) for name in both if _differ(tensors[name], tensors[tied[name]]))


def _find(tensors: Mapping[str, TensorInfo], config: ModelConfig, name: str) -> TensorInfo | None:
    """Return a tensor that is stored under its name, under its module's, or relative to a model without a head."""
    architecture = config.architecture
    module, _, parameter = name.rpartition(".")
    names = (
        name,
        f"{architecture.module_names.get(module, module)}.{parameter}",
        name.removeprefix(f"{architecture.base_model}."),
    )
    return next((tensors[each] for each in names if each in tensors), None)


def _differ(first: TensorInfo, second: TensorInfo) -> bool:
    import numpy as np

    if first.shape != second.shape or not first.shape:
        return True
    if not {first.dtype, second.dtype} <= set(DTYPES.values()):
        return False  # quantized weights are refused when they are opened
    one, other = read_tensor(first), read_tensor(second)
    rows = range(0, first.shape[0], ROWS)
    return not all(np.array_equal(one[start : start + ROWS], other[start : start + ROWS]) for start in rows)
