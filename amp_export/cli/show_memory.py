"""Show the memory estimate of a device, and the upper bound of its decoding speed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from amp_export.doctor.diagnose import Diagnosis
from amp_export.doctor.memory import NOT_ESTIMATED, MemoryEstimate, Need, Room, VariantEstimate
from amp_export.hardware.target_facts import Target
from amp_export.hardware.targets import GB_PER_SECOND, TARGETS
from amp_export.options import TargetName

_ANSWERS = {Room.FITS: "yes", Room.MAY_NOT_FIT: "maybe", Room.DOES_NOT_FIT: "no", None: "host"}
"""`host` is the memory of the card's host computer, whose size is unknown."""


def show_memory(console: Console, diagnosis: Diagnosis) -> None:
    """Print whether model and build fit on the requested device, and the bandwidth bound."""
    memory = diagnosis.memory
    if memory is None:
        if diagnosis.target is not TargetName.CPU:
            device = TARGETS[diagnosis.target].device
            console.print(f"No memory estimate for {device}: {NOT_ESTIMATED}.", soft_wrap=True)
        return
    console.print(_describe(memory), soft_wrap=True)
    console.print(f"TensorRT: {'; '.join(_tensorrt(memory.facts))}.", soft_wrap=True)
    console.print()
    console.print(_room_table(diagnosis, memory))
    if len(_pruned(memory)) > 1:
        console.print("The scores decide how many query and KV heads are kept: the most and the fewest are shown.")
    if not memory.facts.is_unified:
        console.print("host: a build takes the memory of the computer that the card is in.", soft_wrap=True)
    console.print(_bound_table(diagnosis, memory))


def _describe(memory: MemoryEstimate) -> str:
    facts, limits = memory.facts, memory.limits
    assert facts.memory_bytes is not None
    assert facts.bandwidth is not None
    free, total = _gigabytes(memory.available_bytes), _gigabytes(facts.memory_bytes)
    shared = ", shared with the CPU" if facts.is_unified else ""
    texts = "single texts" if limits.max_batch == 1 else f"batches of up to {limits.max_batch} texts"
    return (
        f"[bold]{facts.device}[/], compute capability {facts.compute_capability}: of {total} GB{shared}, about {free} "
        f"GB are available to a model. Estimated for {texts} of up to {limits.max_context} tokens."
    )


def _tensorrt(facts: Target) -> Iterator[str]:
    for each in facts.tensorrt:
        name = each.comes_with if each.version is None else f"{each.version} with {each.comes_with}"
        yield f"{name} takes --opset {each.opset}"


def _room_table(diagnosis: Diagnosis, memory: MemoryEstimate) -> Table:
    table = _table("Memory in GB: minimum and worst case")
    for heading in ("running", "fits", "building", "fits"):
        table.add_column(heading, justify="left" if heading == "fits" else "right", no_wrap=True)
    for dtype, fit in _rows(memory.fits):
        needs = (*_need_cells(fit.run), *_need_cells(fit.build))
        table.add_row(dtype, _name(diagnosis, memory, fit), *needs)
    return table


def _bound_table(diagnosis: Diagnosis, memory: MemoryEstimate) -> Table:
    assert memory.facts.bandwidth is not None
    speed = memory.facts.bandwidth / GB_PER_SECOND
    table = _table(f"Upper bound of tokens per second at {speed:g} GB/s (not measured)")
    for heading in ("weights", "cache", "half context", "full context"):
        table.add_column(heading, justify="right", no_wrap=True)
    for dtype, fit in _rows(memory.fits):
        sizes = (f"{_gigabytes(fit.weight_bytes)} GB", f"{_gigabytes(fit.cache_bytes)} GB")
        bounds = (_rate(fit.bound.half_context), _rate(fit.bound.full_context))
        table.add_row(dtype, _name(diagnosis, memory, fit), *sizes, *bounds)
    return table


def _table(title: str) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE)
    for heading in ("dtype", "model"):
        table.add_column(heading, no_wrap=True)
    return table


def _rows(fits: Sequence[VariantEstimate]) -> Iterator[tuple[str, VariantEstimate]]:
    """Yield each estimate once per dtype size: dtypes of the same size give the same numbers."""
    for size in dict.fromkeys(fit.dtype.bytes for fit in fits):
        alike = list(dict.fromkeys(fit.dtype for fit in fits if fit.dtype.bytes == size))
        name = alike[0].value if len(alike) == 1 else f"{8 * size}-bit"
        yield from ((name, fit) for fit in fits if fit.dtype is alike[0])


def _pruned(memory: MemoryEstimate) -> set[int]:
    return {fit.option for fit in memory.fits if fit.option is not None}


def _name(diagnosis: Diagnosis, memory: MemoryEstimate, fit: VariantEstimate) -> str:
    if fit.option is None or len(_pruned(memory)) == 1:
        return fit.model
    widths = diagnosis.options[fit.option].candidate.widths
    return f"{fit.model} {widths.query_heads}/{widths.key_value_heads}"


def _need_cells(need: Need) -> tuple[str, str]:
    style = "yellow" if need.room in (Room.MAY_NOT_FIT, Room.DOES_NOT_FIT) else None
    answer = _ANSWERS[need.room]
    span = f"{_gigabytes(need.least)} - {_gigabytes(need.most)}"
    return span, f"[{style}]{answer}[/]" if style else answer


def _rate(tokens: float) -> str:
    return f"{tokens:.1f}" if tokens < 100 else f"{tokens:,.0f}"


def _gigabytes(size: int) -> str:
    gigabytes = size / 1e9
    return f"{gigabytes:.2f}" if gigabytes < 10 else f"{gigabytes:.0f}"
