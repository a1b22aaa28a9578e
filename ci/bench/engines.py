"""Write docs/results/engines.md: python ci/bench/engines.py. Takes ten minutes on two cores; needs no GPU.

Builds engines of the demo model, dense and pruned, for GPUs that are not in this machine; and of a tiny random decoder
of every family, in every dtype, from opset 20 and opset 23.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

PROJECT = Path(__file__).parents[2]
sys.path.insert(0, str(PROJECT))

from amp_export.checkpoints.reading import open_checkpoint  # noqa: E402
from amp_export.errors import AmpExportError  # noqa: E402
from amp_export.exporters.onnx import export as export_onnx  # noqa: E402
from amp_export.exporters.tensorrt import EngineSettings, Limits, export, load_flavor  # noqa: E402
from amp_export.hardware.targets import TARGETS  # noqa: E402
from amp_export.options import (  # noqa: E402
    Dtype,
    Opset,
    TargetName,
)
from tests.support.tiny_models import BUILDABLE, save_tiny_model  # noqa: E402

GPUS = (TargetName.A100, TargetName.RTX3090, TargetName.RTX4090, TargetName.RTX5090)
BATCHES = (1, 8)
RATIO = "0.1"

HEADER = """# Engines built without a GPU

Written by `python ci/bench/engines.py`, with {runtime}. These engines were built and not run: running them needs a GPU.
`amp-export bundle` packs the graph for a device that has one.

## The demo model

SmolLM2-135M-Instruct (`--model demo`), dense and pruned with `--ratio {ratio}`, float16, contexts of up to 2048 tokens,
two optimization profiles. Seconds are medians and ranges of {repeats} builds. An engine for batch 1 only holds most
weights twice, in one layout for prefill and in one for decode; an engine for larger batches holds them once.

| target | compute capability | largest batch | dense: MB | s | pruned: MB | s | size |
| --- | --- | ---: | ---: | --- | ---: | --- | ---: |
"""

FAMILIES = """
## Every family

A tiny random decoder of each family, for compute capability 8.9, in float32, float16 and bfloat16, from graphs of opset
23 and of opset 20.

| family | opset 23 | opset 20 |
| --- | --- | --- |
"""


def export_graph(checkpoint: str, folder: Path) -> Path:
    """Export in float16 through the command line, after pruning unless `checkpoint` is `demo`."""
    if checkpoint != "demo":
        run("prune", "--model", "demo", "--ratio", RATIO, "--target", GPUS[0], "--output", str(folder / "made"))
        checkpoint = str(folder / "made" / "pruned")
    run("export", "--model", checkpoint, "--dtype", "float16", "--output", str(folder / "out"))
    return folder / "out" / "onnx"


def run(*arguments: str) -> None:
    """Run amp-export."""
    subprocess.run([sys.executable, "-m", "amp_export", *arguments], check=True, stderr=subprocess.DEVNULL)


def demo_rows(scratch: Path, repeats: int) -> list[str]:
    """Return one row per target and batch."""
    graphs = [export_graph(name, scratch / name) for name in ("demo", "pruned")]
    runtime = load_flavor(for_target=True)
    rows = []
    for target, batch in itertools.product(GPUS, BATCHES):
        capability = TARGETS[target].compute_capability
        settings = EngineSettings(Limits(max_batch=batch), capability)
        cells, sizes = [], []
        for graph in graphs:
            built = [export(graph, scratch / "engine", runtime, settings) for _ in range(repeats)]
            seconds = [facts.build_seconds for facts in built]
            sizes.append(built[0].engine_bytes)
            spread = f"{statistics.median(seconds):.1f} ({min(seconds):.1f} to {max(seconds):.1f})"
            cells += [f"{sizes[-1] / 1e6:.0f}", spread]
        rows.append(f"| {target} | {capability} | {batch} | {' | '.join(cells)} | {sizes[1] / sizes[0] - 1:+.1%} |")
        print(rows[-1], file=sys.stderr)
    return rows


def family_rows(scratch: Path) -> list[str]:
    """Return one row per family: which dtypes were built, from which opset."""
    runtime = load_flavor(for_target=True)
    settings = EngineSettings(Limits(max_batch=2, max_context=64), "8.9")
    rows = []
    for model_type in BUILDABLE:
        checkpoint = open_checkpoint(save_tiny_model(scratch / model_type, model_type))
        cells = []
        for opset in (Opset.OPSET_23, Opset.OPSET_20):
            failed = []
            for dtype in Dtype:
                folder = scratch / f"{model_type}-{opset}-{dtype}"
                export_onnx(checkpoint, folder / "onnx", dtype=dtype, opset=opset)
                try:
                    export(folder / "onnx", folder / "engine", runtime, settings)
                except AmpExportError as error:
                    print(model_type, opset, dtype, error, file=sys.stderr)
                    failed.append(dtype.value)
            cells.append("built" if not failed else f"not built: {', '.join(failed)}")
        rows.append(f"| {model_type} | {' | '.join(cells)} |")
        print(rows[-1], file=sys.stderr)
    return rows


def main() -> None:
    """Build everything and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
    header = HEADER.format(runtime=load_flavor(for_target=True).label, ratio=RATIO, repeats=repeats)
    with tempfile.TemporaryDirectory() as folder:
        families = family_rows(Path(folder))
        demo = demo_rows(Path(folder), repeats)
    page = header + "\n".join(demo) + "\n" + FAMILIES + "\n".join(families) + "\n"
    (PROJECT / "docs" / "results" / "engines.md").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
