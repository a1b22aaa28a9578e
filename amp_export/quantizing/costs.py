"""What rounding each weight costs: an estimate of the divergence from the model as it is, in one backward pass.

To the second order, the KL divergence of a model whose weight W becomes W + D is half the Fisher information in the
direction D: the mean of `(sum of g . D x over the tokens of a text)^2 / 2`, with x the weight's input, and g the
gradient of the log-likelihood of tokens that are drawn from the model's own predictions. On SmolLM2-135M with blocks of
32 in 4 bits, the estimates of all value projections add up to 0.093 nats and of all down projections to 0.133; 0.084
and 0.101 were measured, by rounding them alone. Source: S. Amari, Natural Gradient Works Efficiently in Learning, 1998,
section 2, for the second order.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from amp_export.pruning.gradients import run_backward
from amp_export.pruning.predictions import compare_predictions
from amp_export.quantizing.changes import Change, changed

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from amp_export.architectures import ModelConfig
    from amp_export.inputs.batches import Batch


def estimate_costs(
    model: PreTrainedModel,
    config: ModelConfig,
    changes: Mapping[str, Change],
    batches: Sequence[Batch],
    *,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[str, float]:
    """Return the divergence that each change alone leads to, in nats per token.

    Args:
        model: A decoder; it is left as it was.
        config: Its config.
        changes: The changes, by name.
        batches: Text to estimate on; many short texts tell more than few long ones.
        seed: Seed of the tokens that are drawn.
        on_progress: Called with the number of batches done and the total.
    """
    costs = dict.fromkeys(changes, 0.0)
    with _projecting(changes) as sums:

        def add_up(_: Batch | None = None) -> None:
            """Add the squares of the last batch, whose backward pass has ended."""
            for name, sums_b in sums.items():
                costs[name] += 0.5 * float(sums_b.square().sum())
            sums.clear()

        layers = [model.get_submodule(site.path) for site in config.sites]
        run_backward(model, layers, batches, begin=add_up, seed=seed, on_progress=on_progress)
        add_up()
    tokens = sum(batch.tokens for batch in batches)
    return {name: cost / tokens for name, cost in costs.items()}


@contextmanager
def _projecting(changes: Mapping[str, Change]) -> Iterator[dict[str, Any]]:
    """Yield sums of `g . D x` for each text of the current batch, by name of the change; hooks add to them."""
    from torch.nn import functional

    sums: dict[str, Any] = defaultdict(lambda: 0)

    def watch_product(name: str, change_oi: torch.Tensor) -> Callable[..., None]:
        def hook(_: Any, given: tuple[torch.Tensor, ...], output_bso: torch.Tensor) -> None:
            _note(sums, name, output_bso, given[0].detach() @ change_oi.T)

        return hook

    def watch_rows(name: str, change_vh: torch.Tensor) -> Callable[..., None]:
        def hook(module: Any, given: tuple[torch.Tensor, ...], output_bsh: torch.Tensor) -> None:
            rows_bsh, changed_bsh = (functional.embedding(given[0], each) for each in (module.weight, change_vh))
            # Gemma's embedding multiplies what it looks up
            factor = (rows_bsh * output_bsh).sum() / rows_bsh.square().sum()
            _note(sums, name, output_bsh.requires_grad_(), changed_bsh * factor)

        return hook

    handles = []
    try:
        for name, change in changes.items():
            product, owners = watch_product(name, change.change_oi), change.owners
            handles += [module.register_forward_hook(product) for module in owners.products]
            if owners.rows is not None:
                handles.append(owners.rows.register_forward_hook(watch_rows(name, change.change_oi)))
        yield sums
    finally:
        for handle in handles:
            handle.remove()


def _note(sums: dict[str, Any], name: str, output: torch.Tensor, changed: torch.Tensor) -> None:
    """Add `g . D x` once the gradient g of an output is there, given D x."""

    def add(gradient: torch.Tensor) -> None:
        sums[name] = sums[name] + (changed * gradient).sum(dim=(1, 2))

    # layers may run twice, without gradients first
    if output.requires_grad:
        output.register_hook(add)  # type: ignore[no-untyped-call]


def measure_divergences(
    model: PreTrainedModel, alternatives: Sequence[Mapping[str, Change]], batches: Sequence[Batch]
) -> list[float]:
    """Return the KL divergence of the model with each set of changes from the model as it is, in nats a token.

    Args:
        model: A decoder; it is left as it was.
        alternatives: The sets of changes.
        batches: Text to measure on.
    """
    return compare_predictions(model, [partial(changed, changes) for changes in alternatives], batches)
