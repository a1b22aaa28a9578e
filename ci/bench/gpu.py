"""Measure and check everything that needs a GPU, in six minutes, and write docs/results/gpu.md.

    python ci/bench/gpu.py [--time-limit SECONDS] [--shape NAME,...] [--only WORD ...] [--rows FILE] [--page FILE]
    python ci/bench/gpu.py --from-rows --rows FILE [--page FILE]

Each step is a process of its own with a limit of its own, what matters most first; its results are appended to the rows
as they come. The page is made from the rows that there are, also later. The machine needs a GPU with 80 GB of memory,
40 GB on disk, and CUDA builds of PyTorch and ONNX Runtime, nvidia-ml-py, and onnxruntime-genai for its builder.
`--device cpu --shape tiny` rehearses all of it without a GPU.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(PROJECT / "ci"))

from bench.on_gpu.rows import Done, Fact, Row, read_rows, write_row  # noqa: E402

PAGE = PROJECT / "docs/results/gpu.md"
ROWS = PROJECT / "docs/results/gpu.jsonl"

RUNTIMES = ("onnxruntime, CUDA graph", "onnxruntime", "against the builder", "pytorch", "pytorch-compiled, CUDA graph")
"""What is timed, by its value. The last compiles two programs for each workload and model, which takes minutes."""

TINY = "tiny"
"""The shape that is used for checks."""

LIMITS = {"describe": 60, "models": 120, "time": 75, "parity": 60, "replay": 60}
"""Seconds that a step may take, by the first word of its name; the last steps may take what is left."""


@dataclass(frozen=True)
class Task:
    """What the steps have in common.

    Attributes:
        device: Name of the device.
        work: Folder for models.
        rows: File of rows.
        batches, prompts: Sizes of the workloads.
        seconds: Time for one workload: see `compare`.
    """

    device: str
    work: Path
    rows: Path
    batches: tuple[int, ...]
    prompts: tuple[int, ...]
    seconds: float


def list_steps(shapes: Sequence[str]) -> Iterator[str]:
    """Yield the names of all steps, in the order of their value; each needs only the models before it."""
    yield f"models {TINY}"
    yield "describe"
    yield "replay"
    for shape in shapes:
        yield from [f"models {shape}"] if shape != TINY else []
        yield from (f"time {shape}: {runtime}" for runtime in RUNTIMES[:3])
        yield from ["parity float16"] if shape == shapes[0] else []
    yield from (f"time {shape}: {RUNTIMES[3]}" for shape in shapes)
    yield from ("parity bfloat16", "parity float32")
    yield from (f"time {shape}: {RUNTIMES[4]}" for shape in shapes)


def run_step(name: str, task: Task) -> Iterator[Row]:
    """Do a step in this process, and yield its rows."""
    import torch
    from bench.on_gpu import checks, models

    from amp_export.options import Dtype, Provider

    device = torch.device(task.device)
    on_gpu = device.type == "cuda"
    provider = Provider.CUDA if on_gpu else Provider.CPU
    word, *rest = name.split(maxsplit=1)
    tiny = task.work / TINY
    with tempfile.TemporaryDirectory(dir=task.work) as scratch:
        if word == "describe":
            yield from checks.describe(device)
            yield from checks.where_logits_stay(tiny, Path(scratch), provider)
        elif word == "replay":
            yield from checks.replay(tiny, Path(scratch), provider)
        elif word == "parity":
            yield from checks.validate(tiny, Path(scratch), Dtype(rest[0]), provider)
        elif word == "models":
            dtype = torch.float32 if rest[0] == TINY else torch.float16
            yield from models.write_checkpoints(rest[0], task.work / rest[0], device=device, dtype=dtype)
            models.export_fused(task.work / rest[0])
        else:
            shape, runtime = rest[0].split(": ")
            yield from time_models(shape, runtime, task)


def time_models(shape: str, runtime: str, task: Task) -> Iterator[Row]:
    """Yield the times of one shape in one runtime."""
    from bench.on_gpu import models
    from bench.on_gpu.page import GRAPH
    from bench.on_gpu.timing import Pair, compare, workloads

    from amp_export.benchmarking.setup import Setup
    from amp_export.options import Dtype, Provider, Runtime

    folder, on_gpu = task.work / shape, task.device == "cuda"
    first, second = models.DENSE, models.PRUNED
    if runtime.startswith("pytorch"):
        kind = Runtime.COMPILED if GRAPH in runtime else Runtime.PYTORCH
        setup = Setup(kind, gpu=on_gpu, dtype=Dtype.FLOAT16, cuda_graph=GRAPH in runtime)
        paths = folder / first, folder / second
    else:
        setup = Setup(provider=Provider.CUDA if on_gpu else Provider.CPU, cuda_graph=runtime != "onnxruntime")
        if runtime == RUNTIMES[2]:
            first, second, runtime = models.BUILDER, models.DENSE, RUNTIMES[0]
            models.build_with_genai(folder)
        paths = models.graph_folder(folder, first), models.graph_folder(folder, second)
    pair = Pair(shape, runtime, paths, (first, second), setup)
    yield from compare(pair, workloads(task.batches, task.prompts), seconds=task.seconds)


def supervise(steps: Sequence[str], task: Task, arguments: Sequence[str], *, time_limit: float) -> None:
    """Run steps one after another, each in a process, until the time is over."""
    started = time.monotonic()
    for step in steps:
        left = time_limit - (time.monotonic() - started)
        limit = left if step.endswith(RUNTIMES[4]) else min(LIMITS[step.split()[0]], left)
        began = time.monotonic()
        problem = "the time was over" if left <= 0 else _run_apart([*arguments, "--step", step], limit)
        done = Done(step, round(time.monotonic() - began, 1), problem)
        print(f"{done.seconds:6.1f} s  {step}{f': {problem}' if problem else ''}", flush=True)
        write_row(task.rows, done)


def _run_apart(arguments: Sequence[str], limit: float) -> str:
    """Run this script in a process of its own, and return why it failed; nothing if it did not."""
    command = [sys.executable, __file__, *arguments]
    with tempfile.TemporaryFile() as log:
        # a group of its own, so that the processes that it starts end with it
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log, start_new_session=True)
        try:
            code = process.wait(limit)
        except subprocess.TimeoutExpired:
            return f"it was ended after {limit:.0f} s"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        log.seek(0)
        said = [line for line in log.read().decode(errors="replace").splitlines() if line.strip()]
    return "" if code == 0 else (said or [f"exit code {code}"])[-1].strip()


def _do_step(name: str, task: Task) -> None:
    from amp_export.errors import AmpExportError

    try:
        for row in run_step(name, task):
            write_row(task.rows, row)
    except AmpExportError as error:
        sys.exit(" ".join(str(error).split()))


def _read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--shape", default="1b,7b", help="shapes of the models: 1b, 7b (half of its layers), tiny")
    parser.add_argument("--batch", default="1,8,32", help="batch sizes")
    parser.add_argument("--prompt", default="256,2048", help="prompt lengths in tokens")
    parser.add_argument("--seconds", type=float, default=3, help="for the rounds of one workload")
    parser.add_argument("--time-limit", type=float, default=350, help="for everything, in seconds")
    parser.add_argument("--only", nargs="*", default=[], help="only steps whose name contains one of these")
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--rows", type=Path, default=ROWS)
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--from-rows", action="store_true", help="only write the page")
    parser.add_argument("--step", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Measure, and write the page; or do one step for the process that measures."""
    asked = _read_arguments()
    with tempfile.TemporaryDirectory() as scratch:
        work = (asked.work or Path(scratch)).resolve()
        batches, prompts = (tuple(map(int, text.split(","))) for text in (asked.batch, asked.prompt))
        task = Task(asked.device, work, asked.rows.resolve(), batches, prompts, asked.seconds)
        if asked.step is not None:
            _do_step(asked.step, task)
            return
        if not asked.from_rows:
            task.rows.unlink(missing_ok=True)
            if task.device == "cpu":
                write_row(task.rows, Fact("GPU", "none: this rehearses the script, and its times mean nothing"))
            steps = [
                step
                for step in list_steps(asked.shape.split(","))
                if step.startswith("models") or not asked.only or any(word in step for word in asked.only)
            ]
            sizes = ["--batch", asked.batch, "--prompt", asked.prompt, "--seconds", str(asked.seconds)]
            places = ["--device", asked.device, "--work", str(work), "--rows", str(task.rows)]
            supervise(steps, task, [*places, *sizes], time_limit=asked.time_limit)
        from bench.on_gpu.page import write_page

        asked.page.write_text(write_page(read_rows(task.rows)), encoding="utf-8")


if __name__ == "__main__":
    main()
