"""Write docs/results/gpu.md: python ci/bench/gpu.py. Needs a GPU with 40 GB of memory; takes fifteen minutes there.

Times a Llama of the shape of LLaMA-2-7B with random weights, dense and pruned by AMP at a ratio of 0.3; the values of
the weights do not affect the times. Dense and pruned model are interleaved, in PyTorch and in ONNX Runtime, for prefill
and decode at several batch sizes. `--layers 2 --device cpu --output FILE` tries the script without a GPU.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache

from amp_export.architectures import ModelConfig
from amp_export.benchmarking.statistics import PhaseResult
from amp_export.benchmarking.timing import Clock, EventClock, WallClock
from amp_export.checkpoints.reading import open_checkpoint, read_config
from amp_export.exporters.models.decoder import GraphDecoder
from amp_export.exporters.onnx import export, run
from amp_export.hardware.gpus import find_gpu
from amp_export.options import Dtype, HeadPolicy, Phase
from amp_export.pruning.candidates import list_candidates
from amp_export.pruning.planning import choose_candidate
from amp_export.pruning.rewriting import rewrite
from amp_export.pruning.settings import PlanSettings

RESULTS = Path(__file__).parents[2] / "docs" / "results" / "gpu.md"
RATIO = 0.3
BATCHES = (1, 8, 32)
PROMPT, DECODED, ROUNDS, WARM_UP_ROUNDS = 256, 16, 10, 2

LLAMA_2_7B = {"vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "num_attention_heads": 32}
"""Shape of LLaMA-2-7B without its number of layers. Source: default values of `LlamaConfig`, transformers 5.24."""

HEADER = """# A 7B Llama on a GPU

Written by `python ci/bench/gpu.py`. {shapes}
Random weights in {dtype}; prompts of {prompt} tokens, {decoded} decoded tokens, {rounds} interleaved rounds. Times are
medians; the speedup is dense over pruned median of each round, averaged over rounds (geometric mean), with the 95 %
paired t interval of the rounds. All rounds run in one process: another process may differ by more than the interval.

{machine}

| runtime | batch | phase | dense: ms | pruned: ms | speedup |
| --- | ---: | --- | ---: | ---: | --- |
"""

Integers = np.ndarray[Any, np.dtype[np.int64]]
Step = Callable[[Integers, int, Any], Any]
"""Takes tokens [batch, sequence], the number of tokens before them and the KV cache; returns the new cache."""


def torch_step(config: Any, dtype: torch.dtype, device: torch.device) -> Step:
    """Return a step of a model with random weights in PyTorch."""
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype).eval()

    def step(tokens_bs: Integers, before: int, past: Any) -> Any:
        del before
        with torch.inference_mode():
            ids = torch.from_numpy(tokens_bs).to(device)
            cache = past if past is not None else DynamicCache(config=config)
            model(input_ids=ids, cache=cache, use_cache=True, logits_to_keep=1)
            return cache

    return step


def onnx_step(graph: Path, provider: str) -> Step:
    """Return a step of a graph in ONNX Runtime."""
    decoder = run(graph, providers=[provider])
    assert isinstance(decoder, GraphDecoder)

    def step(tokens_bs: Integers, before: int, past: Any) -> Any:
        batch, sequence = tokens_bs.shape
        mask = np.ones((batch, before + sequence), np.int64)
        places = np.tile(np.arange(before, before + sequence), (batch, 1))
        return decoder.forward(tokens_bs, mask, places, past)[1]

    return step


def time_step(step: Step, tokens_bs: Integers, before: int, past: Any, clock: Clock) -> tuple[float, Any]:
    """Return the seconds that a step takes, and the KV cache."""
    tokens_bs, caches = tokens_bs.copy(), []
    seconds = clock.seconds(lambda: caches.append(step(tokens_bs, before, past)))
    return seconds, caches[0]


def time_round(step: Step, batch: int, vocab_size: int, clock: Clock) -> dict[Phase, list[float]]:
    """Time one prompt and the tokens decoded after it."""
    tokens_bt = np.random.default_rng(0).integers(vocab_size, size=(batch, PROMPT + DECODED))
    prefill, past = time_step(step, tokens_bt[:, :PROMPT], 0, None, clock)
    decode = []
    for place in range(PROMPT, PROMPT + DECODED):
        seconds, past = time_step(step, tokens_bt[:, place : place + 1], place, past, clock)
        decode.append(seconds)
    return {Phase.PREFILL: [prefill], Phase.DECODE: decode}


def compare(name: str, steps: Sequence[Step], vocab_size: int, clock: Clock) -> Iterator[str]:
    """Yield the rows of the table: every batch size, dense and pruned interleaved.

    Args:
        name: Name of the runtime.
        steps: Steps of the dense and of the pruned model.
        vocab_size: Number of tokens to draw from.
        clock: Clock that times the steps.

    Yields:
        One row per batch size and phase.
    """
    for batch in BATCHES:
        times: dict[Phase, list[list[list[float]]]] = {Phase.PREFILL: [[], []], Phase.DECODE: [[], []]}
        for number in range(-WARM_UP_ROUNDS, ROUNDS):
            order = (0, 1) if number % 2 == 0 else (1, 0)
            for which in order:
                measured = time_round(steps[which], batch, vocab_size, clock)
                for phase, seconds in measured.items():
                    if number >= 0:
                        times[phase][which].append(seconds)
        for phase, (dense_seconds, pruned_seconds) in times.items():
            # one process measures all rounds, so that the rounds are the only repetitions
            result = PhaseResult.of(dense_seconds, pruned_seconds, launches=ROUNDS)
            low, high = result.interval
            cells = (f"{result.dense.median * 1e3:.2f}", f"{result.pruned.median * 1e3:.2f}")
            speedup = f"{result.speedup:.2f} [{low:.2f}, {high:.2f}]"
            row = f"| {name} | {batch} | {phase} | {' | '.join(cells)} | {speedup} |"
            print(row)
            yield row


def make_configs(layers: int, folder: Path) -> tuple[Any, Any, str]:
    """Return the dense config, the pruned config, and a sentence about both shapes."""
    dense = AutoConfig.for_model("llama", **LLAMA_2_7B, num_hidden_layers=layers, architectures=["LlamaForCausalLM"])
    dense.save_pretrained(folder / "dense")
    raw, config = read_config(folder / "dense")
    settings = PlanSettings(RATIO, heads=HeadPolicy.GROUPS)
    candidate = choose_candidate(config, settings, list_candidates(raw, config, settings))
    rewritten = rewrite(raw, config, config.everywhere(candidate.widths))
    (folder / "pruned").mkdir()
    (folder / "pruned" / "config.json").write_text(json.dumps(rewritten.config))
    widths = candidate.widths
    shapes = (
        f"The shape of LLaMA-2-7B with {layers} layers; pruned: {widths.query_heads} of {dense.num_attention_heads} "
        f"heads and {widths.neurons}\nof {dense.intermediate_size} neurons are kept ({rewritten.class_name}, "
        f"{candidate.ratio:.1%} removed)."
    )
    return dense, AutoConfig.from_pretrained(folder / "pruned"), shapes


def export_random(config: Any, folder: Path, dtype: Dtype) -> Path:
    """Export a graph with random weights and return its folder."""
    model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype.value))
    model.save_pretrained(folder / "checkpoint")
    del model
    checkpoint = open_checkpoint(folder / "checkpoint")
    assert isinstance(checkpoint.config, ModelConfig)
    export(checkpoint, folder / "onnx", dtype=dtype)
    return folder / "onnx"


def main() -> None:
    """Measure everything and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--output", type=Path, default=RESULTS)
    asked = parser.parse_args()
    device = torch.device(asked.device)
    on_gpu = device.type == "cuda"
    clock = EventClock(torch.cuda.current_stream(device)) if on_gpu else WallClock()
    dtype = torch.bfloat16 if on_gpu else torch.float32
    rows: list[str] = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        dense, pruned, shapes = make_configs(asked.layers, folder)
        steps = [torch_step(config, dtype, device) for config in (dense, pruned)]
        rows += compare(f"PyTorch {torch.__version__}", steps, dense.vocab_size, clock)
        del steps
        if on_gpu:
            torch.cuda.empty_cache()
        import onnxruntime

        provider = "CUDAExecutionProvider" if on_gpu else "CPUExecutionProvider"
        graph_dtype = Dtype.FLOAT16 if on_gpu else Dtype.FLOAT32
        graphs = [export_random(config, folder / name, graph_dtype) for name, config in (("d", dense), ("p", pruned))]
        steps = [onnx_step(graph, provider) for graph in graphs]
        label = f"ONNX Runtime {onnxruntime.__version__}, {graph_dtype}"
        rows += compare(label, steps, dense.vocab_size, clock)
    gpu = find_gpu()
    machine = f"{gpu.name}, driver {gpu.driver}." if gpu is not None else "No GPU: this was a dry run of the script."
    dtype_name = str(dtype).removeprefix("torch.")
    header = HEADER.format(
        shapes=shapes, dtype=dtype_name, prompt=PROMPT, decoded=DECODED, rounds=ROUNDS, machine=machine
    )
    asked.output.write_text(header + "\n".join(rows) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
