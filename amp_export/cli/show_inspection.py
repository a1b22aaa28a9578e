"""Show what was found out about a model's architecture."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from amp_export.architectures import Architecture, Block, Layout, PrunedUnit

if TYPE_CHECKING:
    from rich.console import Console

    from amp_export.api.inspecting import Inspection


def show_inspection(console: Console, inspection: Inspection) -> None:
    """Print the facts, what is proved of them, and where they were written."""
    for line in (*_facts(inspection.architecture), *_proof(inspection)):
        console.print(line, markup=False, soft_wrap=True)
    if inspection.file is not None:
        console.print(f"Written: {inspection.file}", markup=False, soft_wrap=True)


def _facts(architecture: Architecture) -> Iterator[str]:
    yield f"{architecture.model_type}: {architecture.class_name}, {_article(architecture.kind.value)}"
    for stack in architecture.stacks:
        yield f"{stack.layers}:"
        if stack.attention is not None:
            yield f"  attention: {_block(stack.attention)}"
        if stack.mlp is not None:
            yield f"  MLP: {_block(stack.mlp)}"
            if stack.mlp.pruned_shared_expert is not None:
                yield f"  shared expert: {_block(stack.mlp.pruned_shared_expert)}"
    names = {canonical: name for canonical, name in architecture.names.items() if name is not None}
    if names:
        yield f"config fields: {', '.join(f'{name} ({canonical})' for canonical, name in names.items())}"
    says = architecture.says_head_dim_when is not None
    yield f"another number of heads: {'the config can say it' if says else 'needs a resized class'}"
    if architecture.heads_stay is not None:
        yield f"heads stay: {architecture.heads_stay}"


def _block(block: Block) -> str:
    inputs = (f"{each.name} ({_rows(each.rows, each.layout)})" for each in block.inputs)
    return f"{', '.join(inputs)} -> {block.output.name}"


def _rows(rows: PrunedUnit | tuple[PrunedUnit, ...] | None, layout: Layout) -> str:
    units = rows if isinstance(rows, tuple) else (rows,)
    said = " + ".join(unit.value.replace("_", " ") if unit is not None else "hidden size" for unit in units)
    return said if len(units) == 1 else f"{said}, in {layout.value}"


def _article(kind: str) -> str:
    return f"an {kind}" if kind.startswith("e") else f"a {kind}"


def _proof(inspection: Inspection) -> Iterator[str]:
    failed = [case for case in inspection.cases if not case.holds]
    if not failed:
        yield f"Proved on a tiny random copy, in {len(inspection.cases)} cases: {_names(inspection)}."
        return
    yield f"Refuted in {len(failed)} of {len(inspection.cases)} cases:"
    yield from (f"  {case.name}: {case.problem}" for case in failed)


def _names(inspection: Inspection) -> str:
    return "; ".join(case.name for case in inspection.cases)
