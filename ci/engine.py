"""Build an engine of a pruned model for a GPU that is not in this machine, and check it: python ci/engine.py OUT.

OUT is an output directory of `amp-export --to onnx`. `ci/bench/engines.py` builds for more GPUs, and measures.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from amp_export.checkpoints.reading import open_checkpoint
from amp_export.exporters.onnx import export as export_onnx
from amp_export.exporters.tensorrt import EngineFacts, EngineSettings, Limits, export, load_flavor
from amp_export.hardware.targets import TARGETS
from amp_export.options import Dtype, TargetName

GPU = TargetName.RTX5090
"""The newest compute capability; tests build small engines for the others."""


def check(facts: EngineFacts, layers: int) -> None:
    """Check that an engine has the inputs, outputs and profiles of the model."""
    parts = [f"{layer}.{part}" for layer in range(layers) for part in ("key", "value")]
    tokens = {"input_ids", "attention_mask", "position_ids"}
    assert set(facts.inputs) == {*tokens, *(f"past_key_values.{part}" for part in parts)}
    assert set(facts.outputs) == {"logits", *(f"present.{part}" for part in parts)}
    assert {facts.inputs[name].dtype for name in tokens} == {"int64"}
    assert {binding.dtype for binding in facts.outputs.values()} == {"float16"}
    assert [profile.name for profile in facts.profiles] == ["prefill", "decode"]


def main() -> None:
    """Build the engine and print its size and build time."""
    checkpoint = open_checkpoint(Path(sys.argv[1]) / "pruned")
    runtime = load_flavor(for_target=True)
    with tempfile.TemporaryDirectory() as scratch:
        graph = Path(scratch) / "onnx"
        export_onnx(checkpoint, graph, dtype=Dtype.FLOAT16)
        settings = EngineSettings(Limits(max_batch=2), TARGETS[GPU].compute_capability)
        facts = export(graph, Path(scratch) / "engine", runtime, settings)
    check(facts, len(checkpoint.widths))
    size = f"{facts.engine_bytes / 1e6:.0f} MB in {facts.build_seconds:.0f} s"
    print(f"{GPU}, compute capability {facts.compute_capability}: {size}, {runtime.label}")


if __name__ == "__main__":
    main()
