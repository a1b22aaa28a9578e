"""Prune, measure, and keep the results, so that nothing is measured twice."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from bench.pruning_quality.methods import DENSE, MAIN, METHODS, Method, words
from bench.pruning_quality.splitting import Split

from amp_export import __version__
from amp_export.architectures import parameter_count
from amp_export.checkpoints.loading import load_model, load_tokenizer
from amp_export.checkpoints.reading import open_checkpoint
from amp_export.documents import read_json, to_json
from amp_export.errors import command_line
from amp_export.evaluation.decoders import TorchDecoder
from amp_export.evaluation.encoding import Encoder
from amp_export.evaluation.generation import GenerationResult
from amp_export.evaluation.measuring import Measured, Work, measure
from amp_export.evaluation.perplexity import PerplexityResult, read_text_file
from amp_export.evaluation.tasks import read_tasks
from amp_export.hardware.machine import Machine
from amp_export.hardware.placement import choose_device, move
from amp_export.inputs.texts import read_prompts
from amp_export.outputs.manifest import Manifest, package_versions
from amp_export.outputs.names import PRUNED, SCORES

if TYPE_CHECKING:
    from amp_export.progress import Progress

WINDOW, NEW_TOKENS = 512, 64
"""Tokens of a window of text, and of a generated text."""

DIGEST = 12
"""Digits of the hash in the name of a row's file."""

QUESTIONS_PER_WINDOW = 4
"""A limit of questions stands for fewer windows: one takes as long as several questions."""

SHOWN_PROMPTS = (
    "Instruction: Explain to a child why the moon seems to change its shape.\nResponse:",
    "Bread is one of the oldest foods that people prepare. It is made from",
)
"""Prompts written for the page, which shows what models write after them."""


@dataclass(frozen=True)
class Extent:
    """How much is measured.

    Attributes:
        questions: Questions of each task, from the first on; None for all.
        windows: Windows of each text, from the first on; None for all.
        window: Tokens of a window.
        new_tokens: Tokens to write after a prompt.
    """

    questions: int | None = None
    windows: int | None = None
    window: int = WINDOW
    new_tokens: int = NEW_TOKENS

    @classmethod
    def of(cls, limit: int | None) -> Extent:
        """Return the extent for a limit of questions, or of everything."""
        return cls() if limit is None else cls(limit, max(2, limit // QUESTIONS_PER_WINDOW))


@dataclass(frozen=True)
class Made:
    """How the model of a method was made.

    Attributes:
        parameters: Its parameters, tied ones counted once.
        removed: Share of the dense model's parameters that was removed.
        pruning_seconds: Seconds of the command that prunes; None for the dense model.
        recovery_seconds: Seconds of the command that trains; None if the model is not trained.
        reused_scores: Whether it was not scored, since another method's scores were used again.
    """

    parameters: int
    removed: float = 0.0
    pruning_seconds: float | None = None
    recovery_seconds: float | None = None
    reused_scores: bool = False


@dataclass(frozen=True)
class Row:
    """Results of a method.

    Attributes:
        made: How its model was made.
        measured: Answers to the tasks, perplexity of the text, and what is written after the prompts of the data.
        instructions: Perplexity of the instructions.
        overlapping: Perplexity of the text in windows that overlap, so that every token has half a window before it.
        shown: What is written after `SHOWN_PROMPTS`; None for methods whose texts the page does not show.
        evaluation_seconds: Seconds of measuring.
        machine: The machine that measured it.
        threads: Threads of torch.
        packages: Versions of the packages that computed it.
        schema: Version of this format.
    """

    SCHEMA: ClassVar[int] = 2

    made: Made
    measured: Measured
    instructions: PerplexityResult
    overlapping: PerplexityResult
    shown: GenerationResult | None
    evaluation_seconds: float
    machine: str
    threads: int
    packages: Mapping[str, str] = field(default_factory=dict)
    schema: int = SCHEMA


@dataclass(frozen=True)
class Bench:
    """What all rows share.

    Attributes:
        model: The model as the command line takes it.
        checkpoint: Its checkpoint.
        sha256: Hash of the checkpoint's weights and config.
        split: The divided data.
        extent: How much is measured.
        folder: Where the data's parts and scores are kept, and pruned checkpoints until they are measured.
        rows: Where rows are kept; they hold nothing of the data.
        keep: Whether to keep the pruned checkpoints.
    """

    model: str
    checkpoint: Path
    sha256: str
    split: Split
    extent: Extent
    folder: Path
    rows: Path
    keep: bool = False

    def row_file(self, method: Method) -> Path:
        """Return where the row of a method is kept: anything that decides its numbers changes the name."""
        calibration = [] if not method.pruning or method.seed is None else [self.split.calibrations[method.seed]]
        decisive = {
            "version": __version__,
            "schema": Row.SCHEMA,
            "model": self.sha256,
            "device": choose_device(),
            "pruning": words(method.pruning),
            "recovery": words(method.recovery),
            "extent": asdict(self.extent),
            "prompts": SHOWN_PROMPTS,
            "files": [hashlib.sha256(each.read_bytes()).hexdigest() for each in (*calibration, *self.split.measured)],
        }
        digest = hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()
        return self.rows / f"{method.name}-{digest[:DIGEST]}.json"

    def scores_file(self, method: Method) -> Path:
        """Return where the scores of a method are kept."""
        return self.folder / "scores" / self.row_file(method).with_suffix(".safetensors").name

    def kept_scores(self, method: Method) -> Path | None:
        """Return the scores that a method can use again, if they are kept."""
        source = next((each for each in METHODS if each.name == method.scores_of), None)
        file = None if source is None else self.scores_file(source)
        return file if file is not None and file.is_file() else None

    def kept_row(self, method: Method) -> Row | None:
        """Return the row of a method if it was measured."""
        file = self.row_file(method)
        return read_json(file, Row, newest=Row.SCHEMA) if file.is_file() else None

    def keep_row(self, method: Method, row: Row) -> None:
        """Keep a row instead of earlier ones of the method; a file that is there is whole."""
        file = self.row_file(method)
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(".partial")
        partial.write_text(to_json(without_data(row)) + "\n", encoding="utf-8")
        for earlier in self.rows.glob(f"{method.name}-{'[0-9a-f]' * DIGEST}.json"):
            earlier.unlink()
        partial.replace(file)


def without_data(row: Row) -> Row:
    """Return a row without the prompts of the data and what is written after them, and without what no table needs."""
    written = row.measured.generation
    tasks = {name: replace(each, log_likelihoods=()) for name, each in row.measured.tasks.items()}
    generation = None if written is None else replace(written, texts=())
    return replace(row, measured=replace(row.measured, tasks=tasks, generation=generation))


def commands(
    method: Method, model: str, output: Path, calibrations: Sequence[Path], *, scores: Path | None = None
) -> list[list[str]]:
    """Return the commands that make the model of a method, without `amp-export`; none for the dense model.

    Args:
        method: The method.
        model: The model to prune.
        output: The output directory.
        calibrations: Calibration files by seed.
        scores: Scores to use again; by default the model is scored.
    """
    if not method.pruning:
        return []
    calibration = [] if method.seed is None else ["--calibration", str(calibrations[method.seed])]
    scoring = [] if scores is None else ["--scores", str(scores)]
    pruning = ["prune", "--model", model, *words(method.pruning), *calibration, *scoring, "--output", str(output)]
    return [pruning, *([["recover", str(output), *words(method.recovery)]] if method.recovery else [])]


def amp_export(arguments: Sequence[str]) -> None:
    """Run a command; what it prints is shown.

    Raises:
        subprocess.CalledProcessError: The command failed.
    """
    subprocess.run([sys.executable, "-m", "amp_export", *arguments], stdout=sys.stderr, check=True)


def run_method(method: Method, bench: Bench, progress: Progress) -> Row:
    """Prune as a method says, and measure the result.

    Raises:
        subprocess.CalledProcessError: A command failed.
        AmpExportError: The model cannot be measured.
    """
    if not method.pruning:
        made = Made(parameter_count(open_checkpoint(bench.checkpoint).config))
        return evaluate(method.name, bench.checkpoint, made, bench, progress)
    output = bench.folder / "outputs" / method.name
    output.parent.mkdir(parents=True, exist_ok=True)
    seconds, scores = [], bench.kept_scores(method)
    for command in commands(method, bench.model, output, bench.split.calibrations, scores=scores):
        progress.note(command_line("amp-export", *command))
        started = time.perf_counter()
        amp_export([*command, *(["--overwrite"] if command[0] == "prune" else [])])
        seconds.append(time.perf_counter() - started)
    plan = Manifest.load(output).plan
    assert plan is not None
    pruning, recovery = (*seconds, None)[:2]
    made = Made(plan.parameters_after, plan.achieved, pruning, recovery, reused_scores=scores is not None)
    row = evaluate(method.name, output / PRUNED, made, bench, progress)
    if any(each.scores_of == method.name for each in METHODS):
        file = bench.scores_file(method)
        file.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(output / SCORES, file)
    if not bench.keep:
        shutil.rmtree(output)
    return row


def evaluate(name: str, path: Path, made: Made, bench: Bench, progress: Progress) -> Row:
    """Measure a checkpoint, in float32, on a GPU if torch sees one.

    Args:
        name: Name of the model.
        path: The checkpoint.
        made: How it was made.
        bench: What to measure, and how much of it.
        progress: Where to show progress.

    Raises:
        AmpExportError: The model cannot be loaded or measured.
    """
    import torch

    split, extent = bench.split, bench.extent
    encoder = Encoder(load_tokenizer(path), open_checkpoint(path).config)
    window = min(extent.window, encoder.longest_text or extent.window)
    model = TorchDecoder(move(load_model(path, dtype=torch.float32), choose_device()))
    started = time.perf_counter()

    def measured(work: Work) -> Measured:
        return measure(name, model, encoder, work, progress)

    def perplexity(file: Path, stride: int) -> PerplexityResult:
        work = Work(text=read_text_file(file), window=window, stride=stride, limit=extent.windows)
        found = measured(work).perplexity
        assert found is not None
        return found

    def generation(prompts: tuple[str, ...]) -> GenerationResult:
        found = measured(Work(prompts=prompts, new_tokens=extent.new_tokens)).generation
        assert found is not None
        return found

    answers = measured(Work(read_tasks(split.tasks, limit=extent.questions)))
    text, instructions = perplexity(split.text, window), perplexity(split.instructions, window)
    written = generation(read_prompts(split.prompts))
    shown = generation(SHOWN_PROMPTS) if name in {DENSE.name, MAIN.name} else None
    return Row(
        made=made,
        measured=replace(answers, perplexity=text, generation=written),
        instructions=instructions,
        overlapping=perplexity(split.text, window // 2),
        shown=shown,
        evaluation_seconds=time.perf_counter() - started,
        machine=str(Machine.here()),
        threads=torch.get_num_threads(),
        packages=package_versions(),
    )
