"""Low-rank adapters of the layers' projections: which modules get one, and how they are merged into the weights.

Source: Hu et al., LoRA, arXiv 2106.09685: a projection W becomes W + (alpha / r) B A, of which A and B are trained, and
B is zero at first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from amp_export.errors import UnsupportedModelError

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel

    from amp_export.architectures import ModelConfig, Projection


@dataclass(frozen=True)
class Adapters:
    """Shape of adapters.

    The defaults are the paper's: "AMP", arXiv 2504.21174.

    Attributes:
        rank: Rank r of each.
        alpha: Their scale is alpha / r.
        dropout: Share of their input that is dropped in training.
    """

    rank: int = 8
    alpha: int = 16
    dropout: float = 0.05


def projections(config: ModelConfig) -> Iterator[tuple[str, Projection]]:
    """Yield the module path of each projection of attention and MLP in the layers, with its facts."""
    for site in config.sites:
        for block in filter(None, (site.stack.attention, site.stack.mlp)):
            for projection in block.projections:
                if config.meets(projection.when):
                    yield f"{site.path}.{projection.name}", projection


def check_adaptable(config: ModelConfig) -> None:
    """Raise UnsupportedModelError if a projection is not a module of its own.

    Raises:
        UnsupportedModelError: The weights of experts are stacked in one parameter.
    """
    for path, projection in projections(config):
        if projection.stacked is not None:
            raise UnsupportedModelError(
                f"--method lora adds adapters to linear layers, but a {config.class_name} stacks the weights of its "
                f"experts in one parameter, {path}.\nUse --method distill, which trains them."
            )


def add_adapters(model: PreTrainedModel, config: ModelConfig, shape: Adapters, *, seed: int) -> PeftModel:
    """Return a model with adapters, which alone are trained.

    Rows and columns of a weight that are zero, as padding is, stay zero. torch's random state is set.

    Args:
        model: The model in float32, which is changed.
        config: Its config.
        shape: Shape of the adapters.
        seed: Seed of their first values.
    """
    import torch
    from peft import LoraConfig, get_peft_model

    found = list(projections(config))
    lora = LoraConfig(
        r=shape.rank,
        lora_alpha=shape.alpha,
        lora_dropout=shape.dropout,
        target_modules=[path for path, _ in found],
        fan_in_fan_out=any(projection.transposed for _, projection in found),
    )
    # with a name, peft looks for the config that belongs to it, on the hub if need be, whenever it saves
    model.name_or_path = ""
    torch.manual_seed(seed)
    adapted = get_peft_model(model, lora)
    for path, projection in found:
        _keep_zeros(adapted.get_base_model().get_submodule(path), transposed=projection.transposed)
    return adapted


def _keep_zeros(layer: torch.nn.Module, *, transposed: bool) -> None:
    """Let no adapter change rows and columns of a weight that are zero."""
    import torch

    weight = layer.get_parameter("base_layer.weight")
    weight_oi = weight.T if transposed else weight
    for name, axis in (("lora_A.default.weight", 0), ("lora_B.default.weight", 1)):
        parameter = layer.get_parameter(name)
        kept = (weight_oi != 0).any(dim=axis)
        if kept.all():
            continue
        mask = kept.to(parameter.dtype)
        mask = mask[None, :] if axis == 0 else mask[:, None]
        with torch.no_grad():
            parameter.mul_(mask)
        parameter.register_hook(mask.to(parameter.device).mul)  # type: ignore[no-untyped-call]


def adapter_weights(adapted: PeftModel) -> dict[str, torch.Tensor]:
    """Return the adapters' weights, those that are trained, by name."""
    return {name: parameter for name, parameter in adapted.named_parameters() if parameter.requires_grad}


def merge(adapted: PeftModel, config: ModelConfig, weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Merge adapters into the projections, and return the weights of these by their names without adapters.

    Args:
        adapted: The model with adapters, which is changed.
        config: Its config.
        weights: The adapters' weights, which replace those that it has.
    """
    import torch

    with torch.no_grad():
        for name, parameter in adapter_weights(adapted).items():
            parameter.copy_(weights[name])
    merged = adapted.merge_and_unload()
    return {f"{path}.weight": merged.get_parameter(f"{path}.weight").detach() for path, _ in projections(config)}
