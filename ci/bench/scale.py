"""Prune and export a Llama larger than memory, and write docs/results/scale.md.

    python ci/bench/scale.py --work DIR [--layers N,...] [--small] [--page FILE]

Random weights in bfloat16 of the 7B shape (or with --small of one that takes seconds, whose layers are kept in files,
too) go through `amp-export prune --plan --no-compensate` and `amp-export export`. Memory is what the system cannot take
back (RssAnon on Linux), of a command and its children together; mapped files are not counted. Speed is compared with
that of copying the same bytes on the same disk.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import ml_dtypes
import numpy as np

PROJECT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(PROJECT / "ci"))

from bench.processes import Taken, run_measured  # noqa: E402

from amp_export.architectures import ModelConfig, find_architecture, tensor_shapes  # noqa: E402
from amp_export.checkpoints.reading import open_checkpoint  # noqa: E402
from amp_export.checkpoints.writing import write_checkpoint  # noqa: E402
from amp_export.hardware.machine import Machine  # noqa: E402
from amp_export.pruning.plan import LayerPlan, Plan  # noqa: E402

PAGE = PROJECT / "docs/results/scale.md"
LARGE = {"hidden_size": 4096, "intermediate_size": 11008, "num_attention_heads": 32, "vocab_size": 32000}
SMALL = {"hidden_size": 1024, "intermediate_size": 2816, "num_attention_heads": 8, "vocab_size": 4096}
KEPT = 0.7
"""Share of the neurons of each layer that is kept; heads are all kept."""

ALWAYS_SPILL = "import amp_export.pruning.pipeline as it; it.SPILLED_BYTES = 0; "
MAIN = "import sys; from amp_export.cli import main; sys.exit(main())"


def write_model(folder: Path, shape: dict[str, int], layers: int) -> None:
    """Write a Llama with random weights, one tensor at a time."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    fields = {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 2048,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "dtype": "bfloat16",
        "num_hidden_layers": layers,
        "num_key_value_heads": shape["num_attention_heads"],
        "eos_token_id": 2,
        **shape,
    }
    config = ModelConfig.read(find_architecture("llama"), fields)
    generator = np.random.default_rng(0)

    def tensors() -> Iterator[tuple[str, np.ndarray]]:
        for name, dims in tensor_shapes(config).items():
            values = generator.standard_normal(dims, np.float32) / np.float32(np.sqrt(dims[-1]))
            yield name, values.astype(ml_dtypes.bfloat16)

    write_checkpoint(folder, fields, tensors(), shard_bytes=1 << 30)


def write_plan(checkpoint: Path, file: Path) -> None:
    """Write a plan that keeps the first neurons of each layer."""
    config = open_checkpoint(checkpoint).config
    kept = int(config.intermediate_size * KEPT) // 32 * 32
    heads = tuple(range(config.widths.query_heads))
    layer = LayerPlan(heads, heads, tuple(range(kept)))
    Plan(layers=(layer,) * config.num_hidden_layers, asked=None, achieved=0.0).save(file)


def run(words: list[str], *, spill: bool) -> Taken:
    """Run amp-export, and watch its memory."""
    script = (ALWAYS_SPILL if spill else "") + MAIN
    # glibc keeps what small tensors took, and gives back at once what large ones did: so also here
    environment = {**os.environ, **({"MALLOC_MMAP_THRESHOLD_": "65536"} if spill else {})}
    return run_measured([sys.executable, "-c", script, *words], environment=environment)


def copy_seconds(folder: Path, place: Path) -> float:
    """Return how long it takes to copy the weights of a folder to the same disk."""
    os.sync()
    began = time.monotonic()
    shutil.copytree(folder, place)
    os.sync()
    taken = time.monotonic() - began
    shutil.rmtree(place)
    return taken


def prune(place: Path, *, spill: bool) -> Taken:
    """Prune the checkpoint of a folder by its plan."""
    words = [*("prune", "--model", str(place / "dense"), "--plan", str(place / "plan.json")), "--no-compensate"]
    return run([*words, "--output", str(place / "out")], spill=spill)


def export(place: Path, *, spill: bool) -> Taken:
    """Export what `prune` wrote."""
    words = [*("export", "--model", str(place / "out/pruned"), "--to", "onnx", "--dtype", "bfloat16")]
    return run([*words, "--output", str(place / "out")], spill=spill)


def measure(work: Path, shape: dict[str, int], layers: int, *, spill: bool) -> list[str]:
    """Return the row of a model, which is removed afterwards."""
    place = work / f"llama-{shape['hidden_size']}-{layers}"
    shutil.rmtree(place, ignore_errors=True)
    write_model(place / "dense", shape, layers)
    write_plan(place / "dense", place / "plan.json")
    copied = copy_seconds(place / "dense", place / "copy")
    pruned, exported = prune(place, spill=spill), export(place, spill=spill)
    recopied = copy_seconds(place / "out/pruned", place / "copy")
    sizes = [_weight_bytes(folder) / 1e9 for folder in (place / "dense", place / "out/pruned")]
    shutil.rmtree(place)
    memory = (f"{each.own_bytes / 1e6:,.0f}" for each in (pruned, exported))
    times = (f"{pruned.seconds:.0f} ({copied:.0f})", f"{exported.seconds:.0f} ({recopied:.0f})")
    return [str(shape["hidden_size"]), str(layers), *(f"{size:.1f}" for size in sizes), *memory, *times]


def _weight_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def write_page(rows: list[list[str]]) -> str:
    """Return the page."""
    return "\n".join(
        [
            "# Models larger than memory",
            "",
            "Llamas with random weights in bfloat16: `amp-export prune --plan --no-compensate`, with",
            f"{KEPT:.0%} of the neurons kept, and `amp-export export --to onnx --dtype bfloat16`. Memory is what the",
            "system cannot take back, of a command and its children together; in parentheses is how long the same",
            "disk takes to copy the same bytes.",
            "",
            "| hidden size | layers | GB | pruned, GB | prune, MB | export, MB | prune, s (copy) | export, s (copy) |",
            "| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
            *(f"| {' | '.join(row)} |" for row in rows),
            "",
            f"Measured on {Machine.here()}, by `python ci/bench/scale.py`.",
            "",
        ]
    )


def main() -> None:
    """Measure, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder on a disk with room for three such models")
    parser.add_argument("--layers", default=None, help="default: 32, with --small 8,16,32")
    parser.add_argument("--small", action="store_true", help="a shape that takes seconds")
    parser.add_argument("--page", type=Path, default=PAGE)
    asked = parser.parse_args()
    layers = asked.layers or ("8,16,32" if asked.small else "32")
    shape = SMALL if asked.small else LARGE
    rows = []
    for count in layers.split(","):
        rows.append(measure(asked.work, shape, int(count), spill=asked.small))
        print(*rows[-1], flush=True)
    asked.page.write_text(write_page(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
