"""Prune trained models of many families end to end, and write docs/results/real-models.md.

    python ci/bench/real_models.py --work DIR [--only NAME ...] [--without-speed] [--page FILE]

The models are those that packages on the index carry, since no hub is needed for them. Each is pruned, exported to
ONNX, validated and measured against the dense model; what is done is kept in DIR, and not done again. The row of a
finished model is kept beside the page, which is written from all rows. A run with --without-speed can share the
machine; a later one without it measures speed alone. All take about two hours on two cores, and espeak-ng for the
speech that Whisper hears.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

PROJECT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(PROJECT / "ci"))

from bench.trained import texts  # noqa: E402
from bench.trained.models import IGLM, MODELS, TrainedModel  # noqa: E402
from bench.trained.page import Row, read_rows, write_page  # noqa: E402
from bench.trained.quality import compare_encoders, compare_speech  # noqa: E402
from bench.trained.texts import Text  # noqa: E402
from rich.console import Console  # noqa: E402

import amp_export  # noqa: E402
from amp_export import BenchmarkOptions, ExportOptions, PruneOptions, Report  # noqa: E402
from amp_export.architectures import parameter_count  # noqa: E402
from amp_export.checkpoints.reading import open_checkpoint  # noqa: E402
from amp_export.checkpoints.sources import resolve_model  # noqa: E402
from amp_export.cli.console import ConsoleProgress  # noqa: E402
from amp_export.errors import AmpExportError  # noqa: E402
from amp_export.hardware.machine import Machine  # noqa: E402
from amp_export.inputs.texts import load_calibration  # noqa: E402
from amp_export.outputs.names import PRUNED  # noqa: E402
from amp_export.parity.results import ParityReport  # noqa: E402
from amp_export.progress import Progress  # noqa: E402

PAGE = PROJECT / "docs/results/real-models.md"


@dataclass(frozen=True)
class Bench:
    """Where models are prepared and measured.

    Attributes:
        work: Folder of models, texts and outputs.
        progress: Where to show progress.
    """

    work: Path
    progress: Progress

    @property
    def wheels(self) -> Path:
        """The wheels that were downloaded."""
        return self.work / "wheels"

    def calibration(self, model: TrainedModel) -> Path | None:
        """Return the file that a model is calibrated on, which is made once; None for the shipped text."""
        if model.text is Text.SHIPPED:
            return None
        if model.text is Text.REACTIONS:
            file = self.work / "reactions.txt"
            if not file.exists():
                texts.write_reactions(file)
            return file
        if model.text is Text.ANTIBODIES:
            tagged, plain = self.work / "antibodies-tagged.txt", self.work / "antibodies.txt"
            if not plain.exists():
                texts.write_antibodies(Path(IGLM.prepare(self.work / IGLM.name / "model", self.wheels)), tagged, plain)
            return tagged if model.family == IGLM.family else plain
        file = self.work / "speech.npz"
        if not file.exists():
            spoken = [text for clip, text in enumerate(texts.sentences()) if not texts.is_held_out(clip)]
            checkpoint = Path(model.prepare(self.work / model.name / "model", self.wheels))
            np.savez(file, input_features=texts.hear(checkpoint, spoken))
        return file

    def make(self, model: TrainedModel) -> Path:
        """Return a model's output directory, pruned, exported and validated, as far as that is not done."""
        self.work.mkdir(parents=True, exist_ok=True)
        source = model.prepare(self.work / model.name / "model", self.wheels)
        output = self.work / model.name / "out"
        if not output.exists():
            options = PruneOptions(ratio=model.ratio, calibration=self.calibration(model), allow_pickle=model.pickled)
            amp_export.prune(source, output, options, progress=self.progress)
        if not (output / "onnx").exists():
            amp_export.export(output / PRUNED, output, ExportOptions(), progress=self.progress)
        if Report.load(output).parity is None:
            amp_export.validate(output, progress=self.progress)
        return output

    def measure_quality(self, model: TrainedModel, output: Path) -> str:
        """Return the quality of a pruned model, measured once."""
        kept = self.work / model.name / "quality.txt"
        if not kept.exists():
            kept.write_text(self._measure_quality(model, output), encoding="utf-8")
        return kept.read_text(encoding="utf-8")

    def _measure_quality(self, model: TrainedModel, output: Path) -> str:
        if (quality := Report.load(output).quality) is not None:
            return f"perplexity {quality.dense:.4g} to {quality.pruned:.4g}"
        dense = self._dense(model)
        if model.text is Text.SPEECH:
            spoken = [text for clip, text in enumerate(texts.sentences()) if texts.is_held_out(clip)]
            return compare_speech(dense, output / PRUNED, spoken)
        file = self.calibration(model)
        return compare_encoders(dense, output / PRUNED, load_calibration(file).held_out)

    def _dense(self, model: TrainedModel) -> Path:
        source = model.prepare(self.work / model.name / "model", self.wheels)
        return resolve_model(source, allow_pickle=model.pickled, on_status=self.progress.note).path

    def measure_speed(self, output: Path) -> None:
        """Measure the speed of an output, unless it was measured."""
        if Report.load(output).benchmark is None:
            amp_export.benchmark(output, BenchmarkOptions(time_limit=60), progress=self.progress)

    def row(self, model: TrainedModel, output: Path, *, busy: bool) -> Row:
        """Return the row of a model that is finished."""
        report = Report.load(output)
        assert report.parity is not None
        assert report.pruning is not None
        source = model.prepare(self.work / model.name / "model", self.wheels)
        calibration = self.calibration(model)
        return Row(
            source=source if model.write is None else str(Path(source).relative_to(self.work)),
            calibration=None if calibration is None else calibration.name,
            parameters=parameter_count(open_checkpoint(self._dense(model)).config),
            removed=report.pruning.achieved,
            parity=_describe_parity(report.parity),
            quality=self.measure_quality(model, output),
            speedup=_describe_speedup(report),
            machine=str(Machine.here()),
            busy=busy,
        )


def _describe_parity(parity: ParityReport) -> str:
    """Return the verdict, with the largest error of the case that comes nearest to its tolerance."""
    worst = max(parity.cases, key=lambda case: case.max_error / parity.tolerances(case)[0])
    verdict = "holds" if parity.holds else "FAILS"
    return f"{verdict}: {worst.max_error:.1e} of {parity.tolerances(worst)[0]:.1e}"


def _describe_speedup(report: Report) -> str:
    if report.benchmark is None:
        return "not measured"
    found = []
    for phase, result in report.benchmark.phases.items():
        low, high = result.interval
        found.append(f"{phase} {result.speedup:.2f} [{low:.2f}, {high:.2f}]")
    return ", ".join(found)


def main() -> int:
    """Measure what is missing, and write the page; return 1 if a model fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for models and outputs; 20 GB")
    parser.add_argument("--only", nargs="+", choices=[model.name for model in MODELS], help="models to measure")
    parser.add_argument("--without-speed", action="store_true", help="leave speed to a later run")
    parser.add_argument("--busy", action="store_true", help="say that the machine does other work")
    parser.add_argument(
        "--page",
        type=Path,
        default=PAGE,
        help="default: docs/results/real-models.md; rows are kept in a directory of that name, without .md",
    )
    asked = parser.parse_args()
    bench = Bench(asked.work, ConsoleProgress(Console(stderr=True)))
    rows, failed = asked.page.with_suffix(""), False
    for model in MODELS:
        if asked.only and model.name not in asked.only:
            continue
        try:
            output = bench.make(model)
            print(model.name, bench.measure_quality(model, output), flush=True)
            if not asked.without_speed:
                bench.measure_speed(output)
            bench.row(model, output, busy=asked.busy).write(rows / f"{model.name}.json")
        except AmpExportError as error:
            print(f"{model.name}: {error}", file=sys.stderr)
            failed = True
    asked.page.write_text(write_page(read_rows(rows)), encoding="utf-8")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
