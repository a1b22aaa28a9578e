"""Weights that make up for what is gone, computed in another way than the package does."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from amp_export.pruning.stand_ins import RIDGE


def inputs_of(
    model: torch.nn.Module, layer: str, projection: str, token_ids: list[list[int]]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns a projection's inputs and the weights of tokens, by hooks on the whole model."""
    inputs, outputs = [], []
    module = model.get_submodule(layer)
    handles = [
        module.get_submodule(projection).register_forward_pre_hook(lambda _, given: inputs.append(given[0][0])),
        module.register_forward_hook(lambda *given: outputs.append(given[-1])),
    ]
    with torch.no_grad():
        for ids in token_ids:
            model(torch.tensor([ids]))
    for handle in handles:
        handle.remove()
    stream_th = torch.cat([(each[0] if isinstance(each, tuple) else each)[0] for each in outputs])
    return torch.cat(inputs).double(), 1 / stream_th.double().square().mean(dim=1)


def fitted(
    weight_oi: torch.Tensor, gone: Sequence[int], inputs_ti: torch.Tensor, weights_t: torch.Tensor
) -> torch.Tensor:
    """Returns the weight that makes up for inputs that are gone, by ridge regression on stacked rows."""
    kept = [place for place in range(weight_oi.shape[1]) if place not in gone]
    rows_ti = inputs_ti * weights_t.sqrt()[:, None]
    ridge = RIDGE * float(rows_ti[:, kept].square().sum(dim=0).mean())
    stacked = torch.cat((rows_ti[:, kept], ridge**0.5 * torch.eye(len(kept), dtype=torch.float64)))
    targets = torch.cat((rows_ti[:, list(gone)], torch.zeros(len(kept), len(gone), dtype=torch.float64)))
    found = weight_oi.clone()
    found[:, kept] += (weight_oi.double()[:, list(gone)] @ torch.linalg.lstsq(stacked, targets).solution.T).float()
    return found
