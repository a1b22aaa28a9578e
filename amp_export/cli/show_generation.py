"""Show generated texts: one below the other, or those of two models side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from amp_export.api.generate import Generation
    from amp_export.generation.texts import GeneratedText, GeneratedTexts


def show_generation(result: Generation) -> None:
    """Print the texts on stdout, below their prompts."""
    console = Console(highlight=False)
    if result.against is None:
        for number, text in enumerate(result.model.texts):
            if number:
                console.print()
            console.print(text.prompt, style="bold", markup=False, soft_wrap=True)
            console.print(_shown(text), markup=False, soft_wrap=True)
        return
    for number, (text, other) in enumerate(zip(result.model.texts, result.against.texts, strict=True)):
        table = Table(box=SIMPLE_HEAD, show_header=number == 0, expand=True, padding=(0, 1))
        for name in (result.against.model, result.model.model):
            table.add_column(Text(name), ratio=1, overflow="fold")
        table.add_row(Text(_shown(other)), Text(_shown(text)))
        console.print(text.prompt, style="bold", markup=False, soft_wrap=True)
        console.print(table)


def show_speed(console: Console, result: Generation) -> None:
    """Print how fast each model wrote."""
    for found in (result.model, *([result.against] if result.against is not None else [])):
        console.print(_describe(found), markup=False, soft_wrap=True)


def _shown(text: GeneratedText) -> str:
    return text.text.strip("\n") or "(nothing)"


def _describe(found: GeneratedTexts) -> str:
    prompts = sum(text.prompt_tokens for text in found.texts)
    speed = found.tokens_per_second
    written = "" if speed is None else f", then {speed:.1f} tokens per second"
    return f"{found.model}: {prompts} prompt tokens in {found.prefill_seconds:.2f} s{written} ({found.runtime})."
