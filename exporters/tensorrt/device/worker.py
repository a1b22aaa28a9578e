"""The process that holds one graph: `python3 -m device.worker`, which reads tasks as lines of JSON.

The first line names the graph, which it loads; it answers this line and each further task with a line, and ends when
its input ends. Each graph has its own process, so that the memory of one does not affect the other.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from .errors import RunError
from .runtimes import TENSORRT, Array, OnnxRuntime


def load(task: dict[str, Any]) -> Any:
    """Load the decoder of a task on its runtime."""
    if task["runtime"] == TENSORRT:
        from .engines import TensorRT

        return TensorRT(task["engine"])
    return OnnxRuntime(
        task["graph"],
        precision=task["precision"],
        opset=task["opset"],
        provider=task["provider"],
        threads=task["threads"],
    )


def compare(decoder: Any, task: dict[str, Any]) -> list[dict[str, Any]]:
    """Compare a decoder's logits with the reference cases.

    Args:
        decoder: Decoder to check.
        task: `references`, the file with the arrays of every call; `cases`, their names and numbers of calls;
            `tolerance` and `mean_tolerance`.

    Returns:
        For each case, the errors of its logits and whether they are within tolerance.
    """
    results = []
    with np.load(task["references"]) as arrays:
        for number, case in enumerate(task["cases"]):
            errors, agreements = [], []
            tokens = arrays[f"{number}.{case['calls'] - 1}.attention_mask"].shape[1]
            decoder.start(arrays[f"{number}.0.input_ids"].shape[0], tokens)
            for call in range(case["calls"]):
                scope = f"{number}.{call}"
                names = ("input_ids", "attention_mask", "position_ids")
                found_bv = decoder.step(*(arrays[f"{scope}.{name}"] for name in names))
                expected_bv = arrays[f"{scope}.logits"]
                errors.append(np.abs(found_bv - expected_bv))
                agreements.append(found_bv.argmax(axis=1) == expected_bv.argmax(axis=1))
            results.append(_judge(case["name"], np.concatenate(errors), np.concatenate(agreements), task))
    return results


def _judge(name: str, error_rv: Array, agreement_r: Array, task: dict[str, Any]) -> dict[str, Any]:
    worst, mean = float(error_rv.max()), float(error_rv.mean())
    return {
        "name": name,
        "output": "logits",
        "positions": len(error_rv),
        "max_error": worst,
        "mean_error": mean,
        "top1_agreement": float(agreement_r.mean()),
        # a NaN compares false, so it fails
        "holds": worst <= task["tolerance"] and mean <= task["mean_tolerance"],
    }


def time_round(decoder: Any, task: dict[str, Any]) -> dict[str, Any]:
    """Run a prompt twice, and time its second run and every decoded token after it.

    The first run only warms up: after a turn of the other process, the caches are cold.

    Returns:
        `phases`, the seconds of each call by phase; `spans`, the start and end of each phase, on a clock that all
        processes share.
    """
    total = task["prompt_tokens"] + task["decode_tokens"]
    # random tokens, not sampled ones: sampling would be timed, and both graphs must get the same tokens
    tokens_bs = np.random.default_rng(task["seed"]).integers(task["vocab_size"], size=(1, total))
    mask_bs, positions_bs = np.ones_like(tokens_bs), np.arange(total)[np.newaxis]
    ends = list(range(task["prompt_tokens"], total + 1))
    calls = [
        (tokens_bs[:, start:end], mask_bs[:, :end], positions_bs[:, start:end]) for start, end in zip([0, *ends], ends)
    ]
    decoder.start(1, total)
    decoder.step(*calls[0])
    decoder.start(1, total)
    seconds, began = [], time.monotonic()
    for call in calls:
        started = time.perf_counter()
        decoder.step(*call)
        seconds.append(time.perf_counter() - started)
        if len(seconds) == 1:
            prefilled = time.monotonic()
    return {
        "phases": {"prefill": seconds[:1], "decode": seconds[1:]},
        "spans": {"prefill": [began, prefilled], "decode": [prefilled, time.monotonic()]},
    }


def memory(decoder: Any) -> dict[str, Any]:
    """Return the peak memory of the process, and the GPU memory in use."""
    return {"peak_memory_bytes": peak_memory_bytes(), "gpu_used_bytes": decoder.device_memory_bytes()}


def peak_memory_bytes() -> int:
    """Return the peak memory of this process so far, in bytes."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("Linux tells VmHWM")


def main() -> None:
    """Serve tasks until standard input ends."""
    # output of the runtime goes to standard error, so that it does not mix with the answers
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def answer(content: dict[str, Any]) -> None:
        print(json.dumps(content), file=answers, flush=True)

    try:
        started = time.perf_counter()
        decoder = load(json.loads(sys.stdin.readline()))
        seconds = time.perf_counter() - started
        answer({"load_seconds": seconds, "runtime": decoder.description, "threads": decoder.threads})
        gc.disable()  # a collection during a token would add to its time
        for line in sys.stdin:
            task = json.loads(line)
            found = {"cases": compare(decoder, task)} if "references" in task else time_round(decoder, task)
            answer({**found, **memory(decoder)})
    except RunError as error:
        answer({"error": str(error)})


if __name__ == "__main__":
    main()
