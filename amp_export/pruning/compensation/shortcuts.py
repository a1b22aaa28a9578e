"""Run a layer again without the blocks whose projections' inputs are known from an earlier run.

Fitting an output projection changes its weight, and nothing that is computed before it. A block whose output is that of
its projection can therefore be replaced by the projection of the inputs that were seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from amp_export.pruning.compensation.streams import LayerCall, replaced, run_layer

if TYPE_CHECKING:
    import torch

    from amp_export.architectures import Block


@dataclass(frozen=True)
class Shortcut:
    """A block that can be replaced by its output projection.

    Attributes:
        block: The block.
        extras: Number of None that it returns after its output; None if it returns no tuple.
    """

    block: Block
    extras: int | None


def find_shortcut(layer: torch.nn.Module, block: Block, hidden_bsh: torch.Tensor, call: LayerCall) -> Shortcut | None:
    """Return the shortcut of a block, seen by running its layer; None if it returns more than its projection does.

    Args:
        layer: The layer.
        block: The block.
        hidden_bsh: An input of the layer, [batch, sequence, hidden].
        call: Its other arguments.
    """
    if not block.module or block.has_experts:
        return None
    seen: dict[str, Any] = {}

    def keep(name: str) -> Callable[[Any, Any, Any], None]:
        def hook(_: Any, __: Any, output: Any) -> None:
            values = output if isinstance(output, tuple) else (output,)
            # copies, since some layers add to what they get in place
            copies = [None if value is None else value.clone() for value in values]
            seen[name] = (copies, len(values) - 1 if isinstance(output, tuple) else None)

        return hook

    modules = {name: layer.get_submodule(name) for name in (block.output.name, block.module)}
    handles = [module.register_forward_hook(keep(name)) for name, module in modules.items()]
    try:
        run_layer(layer, hidden_bsh, call)
    finally:
        for handle in handles:
            handle.remove()
    ((projected,), _), ((first, *rest), extras) = seen[block.output.name], seen[block.module]
    is_same = first.shape == projected.shape and bool((first == projected).all())
    return Shortcut(block, extras) if is_same and all(value is None for value in rest) else None


@contextmanager
def skipped(layer: torch.nn.Module, known: Sequence[tuple[Shortcut, torch.Tensor]]) -> Iterator[None]:
    """Replace blocks by their output projections; leaving the context restores them.

    Args:
        layer: The layer.
        known: Shortcuts of blocks, and the inputs of their output projections, [batch, sequence, inputs].
    """
    pairs = iter(known)

    def replace(_: Callable[..., Any]) -> Callable[..., Any]:
        shortcut, input_bsi = next(pairs)
        project = layer.get_submodule(shortcut.block.output.name)
        if shortcut.extras is None:
            return lambda *_, **__: project(input_bsi)
        nothing = (None,) * shortcut.extras
        return lambda *_, **__: (project(input_bsi), *nothing)

    with replaced([layer.get_submodule(shortcut.block.module) for shortcut, _ in known], replace):
        yield
