"""Measure the peak memory of building an engine, and the engine's size, in multiples of the weights.

Each engine is built in a separate process, for SM89 in float16, from the demo model and from Llamas with random
weights. `amp_export/doctor/memory.py` uses these multiples. This needs the extra `tensorrt-rtx`, and no GPU.

    python ci/bench/build_memory.py [--model NAME ...] [--rounds N]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

MODELS: dict[str, dict[str, Any] | None] = {
    "demo": None,
    "362M": {
        "hidden_size": 960,
        "intermediate_size": 2560,
        "num_hidden_layers": 32,
        "num_attention_heads": 15,
        "num_key_value_heads": 5,
        "vocab_size": 49152,
        "tie_word_embeddings": True,
    },
    "1.1B": {
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 32000,
    },
}
"""Config fields of each Llama; None is the demo model itself."""


@dataclass(frozen=True)
class BuildMemory:
    """Memory of one build, in bytes.

    Attributes:
        weights: Size of the graph's weights.
        engine: Size of the engine.
        before: Peak memory of the process before the build, after loading the runtime.
        peak: Peak memory of the process after the build, including the mapped file of weights.
    """

    weights: int
    engine: int
    before: int
    peak: int

    @property
    def copies(self) -> float:
        """Memory of the build in multiples of the weights."""
        return (self.peak - self.before) / self.weights


def save_random_llama(folder: Path, fields: dict[str, Any]) -> None:
    """Write a checkpoint with random weights."""
    import torch
    import transformers

    config = transformers.AutoConfig.for_model("llama", **fields, max_position_embeddings=4096)
    transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float16).save_pretrained(folder)


def build_here(graph: Path, profiles: int) -> BuildMemory:
    """Build an engine in this process."""
    from amp_export.exporters.limits import Limits
    from amp_export.exporters.tensorrt.building import BuildSettings, build_engine
    from amp_export.exporters.tensorrt.exporting import describe_decoder
    from amp_export.exporters.tensorrt.flavors import load_flavor
    from amp_export.exporters.tensorrt.profiles import decoder_profiles
    from amp_export.hardware.machine import peak_memory_bytes
    from amp_export.options import EngineRuntime

    axes = {name: binding.axes for name, binding in describe_decoder(graph).inputs.items()}
    runtime = load_flavor(EngineRuntime.TENSORRT_RTX, for_target=True)
    before = peak_memory_bytes()
    settings = BuildSettings(profiles=decoder_profiles(axes, Limits())[-profiles:], compute_capability="8.9")
    engine = build_engine(graph, runtime, settings)
    weights = sum(file.stat().st_size for file in graph.parent.glob("*.onnx_data"))
    return BuildMemory(weights, engine.content.nbytes, before, peak_memory_bytes())


def measure(graph: Path, profiles: int) -> BuildMemory:
    """Build an engine in a separate process."""
    command = [sys.executable, __file__, "--build", str(graph), "--profiles", str(profiles)]
    found = subprocess.run(command, check=True, capture_output=True, text=True)
    return BuildMemory(**json.loads(found.stdout))


def main() -> None:
    """Print a line for each build."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", choices=MODELS, help="what to build; all by default")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--build", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--profiles", type=int, default=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.build is not None:
        print(json.dumps(asdict(build_here(arguments.build, arguments.profiles))))
        return
    for name in arguments.model or MODELS:
        with tempfile.TemporaryDirectory() as scratch:
            model, output = Path(scratch) / "model", Path(scratch) / "output"
            if (fields := MODELS[name]) is not None:
                save_random_llama(model, fields)
            export = [sys.executable, "-m", "amp_export", "export", "--dtype", "float16", "--output", str(output)]
            source = str(model) if fields is not None else name
            subprocess.run([*export, "--model", source], check=True, capture_output=True)
            for profiles in (1, 2) * arguments.rounds:
                found = measure(output / "onnx" / "model.onnx", profiles)
                made = found.engine / found.weights
                print(
                    f"{name}, optimization profiles: {profiles}. Weights {found.weights / 1e6:.0f} MB, build "
                    f"{found.copies:.2f} times as much, engine {made:.2f} times",
                    flush=True,
                )


if __name__ == "__main__":
    main()
