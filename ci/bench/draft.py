"""Measure pruned models as drafts of their dense one, by ratio, and write `docs/results/draft.md`.

Each draft is written by what `amp-export draft` calls, and measured in its runtime on the beginnings of held-out texts:
the dense model alone and with drafts, in turns. What is made and measured is kept in DIR for the next run;
`--only` measures one draft, so that the machine need not be quiet for long.

    python ci/bench/draft.py --work DIR [--only NAME] [--prepare]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amp_export.api.draft import read_beginnings
from amp_export.benchmarking.drafting.measuring import measure_draft
from amp_export.checkpoints.reading import open_checkpoint
from amp_export.checkpoints.sources import resolve_model
from amp_export.documents import to_json
from amp_export.exporting.drafting import PRUNED, prepare_pair, write_pair
from amp_export.hardware.machine import Machine
from amp_export.options import Format, WeightFormat
from amp_export.progress import Silent
from amp_export.verb_options import DraftOptions

PAGE = Path(__file__).parents[2] / "docs/results/draft.md"
TEXTS, NEW_TOKENS = 8, 48
FITTING_TOKENS = 6144


@dataclass(frozen=True)
class Variant:
    """A draft.

    Attributes:
        ratio: Share of the dense model's parameters that is removed.
        weights: Numbers that its weights are stored as; None for float32.
        draft_tokens: Tokens that are drafted before the dense model checks them.
        to: Format of both models, which is that of one runtime.
    """

    ratio: float
    weights: WeightFormat | None
    draft_tokens: int = 2
    to: Format = Format.ONNX

    @property
    def name(self) -> str:
        """Name of its files."""
        return f"{self.to}-{self.ratio:g}-{self.weights or 'float32'}-{self.draft_tokens}"

    @property
    def model(self) -> str:
        """What drafts, as the page says it."""
        return f"{self.ratio:.0%} pruned" if self.ratio else "dense"


VARIANTS = (
    Variant(0, WeightFormat.INT4),
    *(Variant(ratio, weights) for weights in (WeightFormat.INT4, None) for ratio in (0.1, 0.2, 0.3, 0.4)),
    Variant(0.1, WeightFormat.INT4, 4),
    *(Variant(ratio, WeightFormat.Q4_0, to=Format.GGUF) for ratio in (0, 0.1, 0.2, 0.3, 0.4)),
    *(Variant(ratio, WeightFormat.Q8_0, to=Format.GGUF) for ratio in (0, 0.1)),
)

RUNTIMES = {Format.ONNX: "onnxruntime-genai", Format.GGUF: "llama.cpp"}


def make(variant: Variant, model: str, work: Path) -> Path:
    """Prune, if that is not done, and write both models into a folder."""
    folder = work / f"draft-{variant.name}"
    if folder.exists():
        return folder
    dense = open_checkpoint(resolve_model(model).path)
    drafting = dense
    if variant.ratio:
        pruned = work / f"pruned-{variant.ratio:g}"
        if not pruned.exists():
            command = [sys.executable, "-m", "amp_export", "prune", "--model", model, "--ratio", f"{variant.ratio:g}"]
            settings = ["--snap", "32", "--fitting-tokens", str(FITTING_TOKENS)]
            subprocess.run([*command, *settings, "--output", str(pruned)], check=True)
        drafting = open_checkpoint(pruned / "pruned")
    options = DraftOptions(to=variant.to, weights=variant.weights, draft_tokens=variant.draft_tokens)
    write_pair(folder, prepare_pair(dense, drafting, options), options, progress=Silent())
    return folder


def measure(variant: Variant, model: str, work: Path) -> None:
    """Measure a draft, and keep the result."""
    folder = make(variant, model, work)
    prompts = read_beginnings(resolve_model(model).path, TEXTS)
    found = measure_draft(folder, prompts, new_tokens=NEW_TOKENS, draft_tokens=variant.draft_tokens)
    files = (folder / PRUNED).glob("*.onnx*") if variant.to is Format.ONNX else [folder / f"{PRUNED}.gguf"]
    size = sum(file.stat().st_size for file in files)
    row = {"measurement": json.loads(to_json(found)), "bytes": size}
    (work / f"{variant.name}.json").write_text(json.dumps(row), encoding="utf-8")


def cells(variant: Variant, row: dict[str, Any]) -> Iterator[str]:
    """Yield the cells of a row of the page."""
    found = row["measurement"]
    texts = found["texts"]
    low, high = found["acceptance_interval"]
    slow, fast = found["interval"]
    ties = sum(text["first_difference"] is not None for text in texts)
    yield variant.model
    yield str(variant.weights or "float32")
    yield f"{row['bytes'] / 1e6:.0f}"
    yield str(variant.draft_tokens)
    yield f"{found['acceptance']:.0%} [{low:.0%}, {high:.0%}]"
    yield f"{found['tokens_per_pass']:.2f}"
    yield f"{found['drafted_tokens_per_second']:.1f} / {found['dense_tokens_per_second']:.1f}"
    yield f"{found['speedup']:.2f} [{slow:.2f}, {fast:.2f}]"
    yield f"{len(texts) - ties} of {len(texts)}" + (f", {ties} near ties" if ties and found["same"] else "")


_BUSY = (
    "Other work ran on the machine meanwhile. Dense and drafted text took turns, so that speedups can be compared, but",
    "times are longer than on a quiet machine, and intervals wider.",
)


def write_page(model: str, rows: Sequence[tuple[Variant, dict[str, Any]]], *, busy: bool) -> str:
    """Return the page."""
    lines = [
        "# Pruned models as drafts",
        "",
        f"`{model}` in float32 checks what its pruned models draft, as [`amp-export draft`](../draft.md) writes them.",
        f"Models are pruned by `amp-export prune --ratio R --snap 32 --fitting-tokens {FITTING_TOKENS}`: half of the",
        f"default's text. {TEXTS} beginnings of held-out texts, {NEW_TOKENS} tokens each, greedily. Intervals are of",
        "95 %, over texts.",
        "",
    ]
    for to, runtime in RUNTIMES.items():
        if here := [(variant, row) for variant, row in rows if variant.to is to]:
            lines += [f"## {runtime}", "", *_table(here), ""]
    lines += [f"Measured on {Machine.here()}, by `python ci/bench/draft.py`.", *(_BUSY if busy else ()), ""]
    return "\n".join(lines)


def _table(rows: Sequence[tuple[Variant, dict[str, Any]]]) -> Iterator[str]:
    """Yield the lines of what was measured in a runtime."""
    best_variant, best = max(rows, key=lambda row: row[1]["measurement"]["speedup"])
    speedup, (low, high) = best["measurement"]["speedup"], best["measurement"]["interval"]
    verdict = "a gain" if low > 1 else "no certain gain" if high >= 1 else "a loss"
    yield (
        f"In {best['measurement']['runtime']}, the fastest draft is {best_variant.model} in "
        f"{best_variant.weights or 'float32'}: {speedup:.2f} times as fast as the dense model alone "
        f"[{low:.2f}, {high:.2f}], {verdict}."
    )
    yield from (
        "",
        "| draft | weights | MB | tokens drafted | accepted | tokens per pass | tokens/s, with drafts / alone "
        "| speedup | same text |",
        "| --- | --- | ---: | ---: | --- | ---: | ---: | --- | --- |",
        *(f"| {' | '.join(cells(variant, row))} |" for variant, row in rows),
    )


def main() -> None:
    """Measure what is not measured yet, and write the page of all that is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for checkpoints, drafts and results")
    parser.add_argument("--model", default="demo")
    parser.add_argument("--only", choices=[variant.name for variant in VARIANTS], help="measure this draft only")
    parser.add_argument("--prepare", action="store_true", help="make the drafts, and measure none")
    parser.add_argument("--busy", action="store_true", help="say on the page that other work ran meanwhile")
    parser.add_argument("--page", type=Path, default=PAGE)
    asked = parser.parse_args()
    asked.work.mkdir(parents=True, exist_ok=True)
    for variant in VARIANTS:
        if asked.only in (None, variant.name) and not (asked.work / f"{variant.name}.json").is_file():
            (make if asked.prepare else measure)(variant, asked.model, asked.work)
    done = [(each, asked.work / f"{each.name}.json") for each in VARIANTS]
    rows = [(each, json.loads(file.read_text())) for each, file in done if file.is_file()]
    if rows and not asked.prepare:
        asked.page.write_text(write_page(asked.model, rows, busy=asked.busy), encoding="utf-8")


if __name__ == "__main__":
    main()
