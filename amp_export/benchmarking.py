"""Dense against pruned on this machine: two processes, one graph each, that take turns.

The rounds alternate in order, dense first and then pruned first, so that neither profits from the machine's state or
drift. Prefill and decode are timed apart.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from amp_export.benchmark_worker import Ready, Round, RoundTimes
from amp_export.errors import AmpExportError, ModelError, RequestError, UnsupportedModelError
from amp_export.exporters.onnx import require_runtime
from amp_export.exporters.onnx.exporting import GRAPH
from amp_export.gains import PhaseResult
from amp_export.machine import Machine, read_bandwidth

WARM_UP_LIMIT = 6
"""Rounds after which measuring begins, settled or not."""

SETTLED = 0.05
"""Two rounds whose times differ by less than this share are settled."""

_READ_IN_PART = {("Gather", 0), ("RotaryEmbedding", 1), ("RotaryEmbedding", 2)}
"""Operators, and which of their inputs, that read a few rows of a weight for each token instead of all of it."""


@dataclass(frozen=True)
class Subject:
    """One of the two graphs.

    Attributes:
        folder: Where it lies.
        bytes_on_disk: Size of the graph and its weights.
        peak_memory_bytes: The most memory that its process held, Python and the runtime included.
        load_seconds: How long the runtime took to load it.
        weight_bytes_per_token: How many bytes of weights have to be read to decode one token.
        bandwidth_share: How much of the machine's memory read bandwidth that is, at the median decode time. Near 1,
            only fewer bytes can make decoding faster.
    """

    folder: str
    bytes_on_disk: int
    peak_memory_bytes: int
    load_seconds: float
    weight_bytes_per_token: int
    bandwidth_share: float


@dataclass(frozen=True)
class BenchmarkReport:
    """What was measured; all plain values, so that `dataclasses.asdict` gives JSON.

    Attributes:
        dense: The dense graph.
        pruned: The pruned graph.
        prefill: Times of the prompt in one piece: one sample a round.
        decode: Times of single tokens after it: one sample a token, grouped by round.
        rounds: How many rounds were measured.
        warm_up_rounds: How many went before and are not counted.
        prompt_tokens: Tokens of the prompt.
        decode_tokens: Tokens decoded in a round.
        threads: Threads that compute one operator.
        runtime: Name and version of the runtime.
        bandwidth_bytes_per_second: Memory read bandwidth, measured here with as many threads.
        machine: Where it was measured.
        seed: Of the prompt's tokens and of the bootstrap.
    """

    dense: Subject
    pruned: Subject
    prefill: PhaseResult
    decode: PhaseResult
    rounds: int
    warm_up_rounds: int
    prompt_tokens: int
    decode_tokens: int
    threads: int
    runtime: str
    bandwidth_bytes_per_second: float
    machine: Machine
    seed: int


def benchmark_graphs(
    dense: Path,
    pruned: Path,
    *,
    threads: int | None = None,
    rounds: int = 20,
    prompt_tokens: int = 128,
    decode_tokens: int = 16,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> BenchmarkReport:
    """Measures what a pruned graph gains over the dense one.

    Args:
        dense: The folder of the dense graph.
        pruned: The folder of the pruned graph.
        threads: Threads that compute one operator; by default one for each core.
        rounds: How many rounds to measure.
        prompt_tokens: Tokens of the prompt; fewer where the models' context is shorter.
        decode_tokens: Tokens to decode in each round.
        seed: Of the prompt's tokens and of the bootstrap.
        on_progress: Called with the number of rounds done and of all.

    Raises:
        RequestError: There would be nothing to measure.
        ModelError: A folder holds no graph, or a damaged one.
        MissingExtraError: onnxruntime is not installed.
        AmpExportError: A process died.
    """
    require_runtime()
    if rounds < 2 or prompt_tokens < 1 or decode_tokens < 1:
        raise RequestError(
            f"{rounds} rounds of {prompt_tokens} prompt and {decode_tokens} decoded tokens cannot be compared.\n"
            "At least 2 rounds of 1 token each are needed."
        )
    task = _choose_round([dense, pruned], prompt_tokens, decode_tokens, seed)
    with _worker(dense, threads) as dense_worker, _worker(pruned, threads) as pruned_worker:
        warm_up_rounds = _warm_up(dense_worker, pruned_worker, task)
        dense_times: list[RoundTimes] = []
        pruned_times: list[RoundTimes] = []
        for number in range(rounds):
            turns = [(dense_worker, dense_times), (pruned_worker, pruned_times)]
            for worker, times in turns if number % 2 == 0 else reversed(turns):
                times.append(worker.time(task))
            if on_progress is not None:
                on_progress(number + 1, rounds)
    ready = dense_worker.ready
    decode = PhaseResult.of([t.decode for t in dense_times], [t.decode for t in pruned_times], seed=seed)
    bandwidth = read_bandwidth(ready.threads)
    return BenchmarkReport(
        dense=_describe(dense_worker, dense_times, decode.dense.median, bandwidth),
        pruned=_describe(pruned_worker, pruned_times, decode.pruned.median, bandwidth),
        prefill=PhaseResult.of([[t.prefill] for t in dense_times], [[t.prefill] for t in pruned_times], seed=seed),
        decode=decode,
        rounds=rounds,
        warm_up_rounds=warm_up_rounds,
        prompt_tokens=task.prompt_tokens,
        decode_tokens=task.decode_tokens,
        threads=ready.threads,
        runtime=ready.runtime,
        bandwidth_bytes_per_second=bandwidth,
        machine=Machine.here(),
        seed=seed,
    )


def _choose_round(folders: Sequence[Path], prompt_tokens: int, decode_tokens: int, seed: int) -> Round:
    """A round that fits into the context and the vocabulary of all graphs."""
    configs = [_read_config(folder) for folder in folders]
    context = min(config["max_position_embeddings"] for config in configs)
    prompt_tokens = min(prompt_tokens, context - decode_tokens)
    if prompt_tokens < 1:
        raise RequestError(f"{decode_tokens} decoded tokens and a prompt do not fit into a context of {context}.")
    return Round(prompt_tokens, decode_tokens, min(config["vocab_size"] for config in configs), seed)


def _read_config(folder: Path) -> dict[str, Any]:
    if not (folder / GRAPH).is_file():
        raise ModelError(f"{folder} holds no {GRAPH}.\nExport a checkpoint first: amp-export export --to onnx.")
    try:
        config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder}/config.json cannot be read: {error}\nExport the checkpoint again.") from error
    return config


def _warm_up(dense: _Worker, pruned: _Worker, task: Round) -> int:
    """Runs rounds until both graphs take the same time twice in a row; returns how many."""
    before: list[float] = []
    for number in range(1, WARM_UP_LIMIT + 1):
        now = [times.prefill + sum(times.decode) for times in (dense.time(task), pruned.time(task))]
        if before and all(abs(new - old) < SETTLED * old for new, old in zip(now, before, strict=True)):
            return number
        before = now
    return WARM_UP_LIMIT


def _describe(worker: _Worker, times: Sequence[RoundTimes], decode_seconds: float, bandwidth: float) -> Subject:
    weight_bytes = weight_bytes_per_token(worker.folder / GRAPH)
    return Subject(
        folder=str(worker.folder),
        bytes_on_disk=sum(file.stat().st_size for file in worker.folder.glob(f"{GRAPH}*")),
        peak_memory_bytes=times[-1].peak_memory_bytes,
        load_seconds=worker.ready.load_seconds,
        weight_bytes_per_token=weight_bytes,
        bandwidth_share=weight_bytes / decode_seconds / bandwidth,
    )


def weight_bytes_per_token(graph: Path) -> int:
    """How many bytes of a graph's weights have to be read for one token.

    Each weight counts once and whole, also where embedding and head share it, but a weight of which only rows are
    looked up does not count.
    """
    import onnx

    model = onnx.load(graph, load_external_data=False).graph
    read_whole = {
        name
        for node in model.node
        for place, name in enumerate(node.input)
        if (node.op_type, place) not in _READ_IN_PART
    }
    return sum(_stored_bytes(tensor) for tensor in model.initializer if tensor.name in read_whole)


def _stored_bytes(tensor: Any) -> int:
    external = {entry.key: entry.value for entry in tensor.external_data}
    return int(external.get("length", len(tensor.raw_data)))


class _Worker:
    """One graph in a process of its own; `_worker` makes one and ends it.

    A process of multiprocessing would import the caller's main script again, which then must be written for it.
    """

    def __init__(self, folder: Path, process: subprocess.Popen[str], log: Any) -> None:
        self.folder = folder
        self._process = process
        self._log = log
        self.ready = Ready(**self._receive())

    def time(self, task: Round) -> RoundTimes:
        """Lets the process run one round.

        Raises:
            AmpExportError: It died.
        """
        assert self._process.stdin is not None
        try:
            print(json.dumps(asdict(task)), file=self._process.stdin, flush=True)
        except OSError as error:
            raise self._death() from error
        return RoundTimes(**self._receive())

    def _receive(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.endswith("\n"):
            raise self._death()
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            kinds = {kind.__name__: kind for kind in (ModelError, RequestError, UnsupportedModelError)}
            raise kinds.get(answer["error"], AmpExportError)(answer["message"])
        return answer

    def _death(self) -> AmpExportError:
        code = self._process.wait()
        self._log.seek(0)
        said = self._log.read().decode(errors="replace").strip().splitlines() or ["It said nothing."]
        cause = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return AmpExportError(
            f"The process that ran the graph in {self.folder} died ({cause}).\n{said[-1]}\n"
            "If the machine ran out of memory, close other programs or benchmark with shorter prompts."
        )


@contextlib.contextmanager
def _worker(folder: Path, threads: int | None) -> Iterator[_Worker]:
    command = [sys.executable, "-P", "-m", "amp_export.benchmark_worker", str(folder)]
    command += [] if threads is None else [str(threads)]
    # wherever this package was imported from, the process has to find it too
    search = [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(search)}
    pipe = subprocess.PIPE
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=log, text=True, env=environment)
        try:
            yield _Worker(folder, process, log)
        finally:
            process.kill()  # it holds nothing that is worth waiting for
            process.communicate()
