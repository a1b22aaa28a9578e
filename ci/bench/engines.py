"""Writes docs/results/engines.md: python ci/bench/engines.py. Takes ten minutes on two cores, and no GPU.

Engines of the demo model, dense and pruned, for GPUs that are not here; and of a tiny random decoder of every family,
in every precision, from old and new operators.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).parents[2]
sys.path.insert(0, str(PROJECT / "tests"))

from tiny_models import BUILDABLE, save_tiny_model  # noqa: E402

from amp_export.checkpoints import open_checkpoint  # noqa: E402
from amp_export.errors import AmpExportError  # noqa: E402
from amp_export.exporters import Opset, Precision  # noqa: E402
from amp_export.exporters.onnx import export as export_onnx  # noqa: E402
from amp_export.exporters.tensorrt import EngineSettings, Limits, export, load_runtime  # noqa: E402
from amp_export.options import TargetName  # noqa: E402
from amp_export.targets import TARGETS  # noqa: E402

GPUS = (TargetName.A100, TargetName.RTX3090, TargetName.RTX4090, TargetName.RTX5090)
BATCHES = (1, 8)
REPEATS = 3
RATIO = "0.1"

HEADER = """# Engines built without a GPU

Written by `python ci/bench/engines.py`, with {runtime}. Nothing here was run: for that a GPU is needed, and a bundle
takes the graph to one (`amp-export bundle`).

## The demo model

SmolLM2-135M-Instruct (`--model demo`), dense and pruned with `--ratio {ratio}`, float16, contexts of up to 2048 tokens,
two optimization profiles. Seconds are the median of {repeats} builds and their range. An engine for single texts alone
holds most weights twice, in one layout for prefill and in one for decode; one for batches holds them once.

| target | compute capability | largest batch | dense: MB | s | pruned: MB | s | size |
| --- | --- | ---: | ---: | --- | ---: | --- | ---: |
"""

FAMILIES = """
## Every family

A tiny random decoder of each, for compute capability 8.9: in float32, float16 and bfloat16, from graphs of opset 23 and
of opset 20.

| family | opset 23 | opset 20 |
| --- | --- | --- |
"""


def run(*arguments: str) -> None:
    """Runs amp-export."""
    subprocess.run([sys.executable, "-m", "amp_export", *arguments], check=True, stderr=subprocess.DEVNULL)


def build(checkpoint: str, target: TargetName, batch: int, folder: Path) -> dict[str, Any]:
    """Builds an engine through the command line and returns what it says of itself."""
    options = ["--to", "tensorrt", "--target", target, "--max-batch", str(batch)]
    run("export", "--model", checkpoint, *options, "--output", str(folder), "--overwrite")
    facts: dict[str, Any] = json.loads((folder / "tensorrt" / "engine.json").read_text(encoding="utf-8"))
    return facts


def demo_rows(scratch: Path) -> list[str]:
    """One line for each target and batch."""
    run("prune", "--model", "demo", "--ratio", RATIO, "--target", GPUS[0], "--output", str(scratch / "pruned"))
    rows = []
    for target in GPUS:
        for batch in BATCHES:
            cells, sizes = [], []
            for checkpoint in ("demo", str(scratch / "pruned" / "pruned")):
                built = [build(checkpoint, target, batch, scratch / "engine") for _ in range(REPEATS)]
                seconds = [facts["build_seconds"] for facts in built]
                sizes.append(built[0]["engine_bytes"])
                spread = f"{statistics.median(seconds):.1f} ({min(seconds):.1f} to {max(seconds):.1f})"
                cells += [f"{sizes[-1] / 1e6:.0f}", spread]
            capability = TARGETS[target].compute_capability
            rows.append(f"| {target} | {capability} | {batch} | {' | '.join(cells)} | {sizes[1] / sizes[0] - 1:+.1%} |")
            print(rows[-1], file=sys.stderr)
    return rows


def family_rows(scratch: Path) -> list[str]:
    """One line for each family: which precisions were built, from which operators."""
    runtime = load_runtime(for_target=True)
    settings = EngineSettings(Limits(max_batch=2, max_context=64), "8.9")
    rows = []
    for model_type in BUILDABLE:
        checkpoint = open_checkpoint(save_tiny_model(scratch / model_type, model_type))
        cells = []
        for opset in (Opset.OPSET_23, Opset.OPSET_20):
            failed = []
            for precision in Precision:
                folder = scratch / f"{model_type}-{opset}-{precision}"
                export_onnx(checkpoint, folder / "onnx", precision=precision, opset=opset)
                try:
                    export(folder / "onnx", folder / "engine", runtime, settings)
                except AmpExportError as error:
                    print(model_type, opset, precision, error, file=sys.stderr)
                    failed.append(precision.value)
            cells.append("built" if not failed else f"not built: {', '.join(failed)}")
        rows.append(f"| {model_type} | {' | '.join(cells)} |")
        print(rows[-1], file=sys.stderr)
    return rows


def main() -> None:
    """Builds everything and writes the page."""
    header = HEADER.format(runtime=load_runtime(for_target=True).label, ratio=RATIO, repeats=REPEATS)
    with tempfile.TemporaryDirectory() as folder:
        families = family_rows(Path(folder))
        demo = demo_rows(Path(folder))
    page = header + "\n".join(demo) + "\n" + FAMILIES + "\n".join(families) + "\n"
    (PROJECT / "docs" / "results" / "engines.md").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
