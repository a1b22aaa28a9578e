"""The weights of experts in files: one tensor for all experts of a layer, or several for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from amp_export.architectures import ModelConfig, expert_name, stacked_names, stored_parts
from amp_export.checkpoints.weight_files import DTYPES, TensorInfo
from amp_export.errors import ModelError


def known_names(config: ModelConfig) -> set[str]:
    """Return the names in files that `name_matrices` knows."""
    return {*stacked_names(config), *(part for parts in stored_parts(config).values() for part in parts)}


def name_matrices(config: ModelConfig, tensors: Mapping[str, TensorInfo]) -> dict[str, TensorInfo]:
    """Return the tensors of files with one matrix for each expert: see `matrix_shapes`.

    Transformers writes several tensors for an expert, or one for all, under names of their own. Checkpoints whose class
    is this package's have one for all, as in memory.

    Args:
        config: Config of the model.
        tensors: The tensors, by their names in files.

    Raises:
        ModelError: Parts of a matrix do not fit together.
    """
    named = dict(tensors)
    for name, parts in stored_parts(config).items():
        infos = [tensors[part] for part in parts if part in tensors]
        if len(infos) == len(parts):
            for part in parts:
                del named[part]
            named[name] = infos[0] if len(infos) == 1 else _join(infos)
    for name in stacked_names(config):
        info = named.get(name)
        # other dtypes are refused later
        if info is not None and info.shape and info.dtype in DTYPES.values():
            del named[name]
            named |= {expert_name(name, number): info.entry(number) for number in range(info.shape[0])}
    return named


def _join(infos: Sequence[TensorInfo]) -> TensorInfo:
    if len({(len(info.shape), info.shape[1:], info.dtype) for info in infos}) > 1 or not infos[0].shape:
        found = ", ".join(f"{info.stored_name} {list(info.shape)} in {info.dtype}" for info in infos)
        raise ModelError(
            f"{infos[0].file}: tensors whose rows belong together do not fit: {found}.\nThe weights are damaged, or of "
            "different models."
        )
    rows = sum(info.shape[0] for info in infos)
    return replace(infos[0], shape=(rows, *infos[0].shape[1:]), parts=tuple(infos))
