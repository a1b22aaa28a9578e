"""The worker processes, each with one graph, as the measuring process uses them; they run `worker`."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Iterator

from .bundle import Bundle
from .errors import RunError
from .runtimes import TENSORRT


class Setup:
    """How graphs are run.

    Attributes:
        bundle: The bundle.
        runtime: `tensorrt` or `onnxruntime`.
        provider: ONNX Runtime's execution provider; None selects the GPU's if there is one.
        threads: Number of intra-op threads of ONNX Runtime; 0 is the runtime's default.
    """

    def __init__(self, bundle: Bundle, runtime: str, *, provider: str | None = None, threads: int = 0) -> None:
        self.bundle = bundle
        self.runtime = runtime
        self.provider = provider
        self.threads = threads

    def task(self, subject: str) -> dict[str, Any]:
        """Return the task that loads a subject's graph into its process.

        Raises:
            RunError: Its engine has not been built.
        """
        engine = self.bundle.work / f"{subject}.engine"
        if self.runtime == TENSORRT and not engine.is_file():
            raise RunError(f"There is no {subject} engine.\nBuild it first: bash build.sh.")
        facts = self.bundle.manifest["graphs"][subject]
        return {
            "runtime": self.runtime,
            "engine": str(engine),
            "graph": str(self.bundle.graph(subject)),
            "precision": facts["precision"],
            "opset": facts["opset"],
            "provider": self.provider,
            "threads": self.threads,
        }


class Worker:
    """A process with one graph, started and ended by `start_worker`.

    Attributes:
        subject: Name of the graph.
        ready: Its answer after loading the graph.
    """

    def __init__(self, subject: str, process: subprocess.Popen[str], log: Path, task: dict[str, Any]) -> None:
        self.subject = subject
        self._process = process
        self._log = log
        self.ready = self.ask(task)

    def ask(self, task: dict[str, Any]) -> dict[str, Any]:
        """Send a task to the process, and return its answer.

        Raises:
            RunError: The task failed, or the process died.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            print(json.dumps(task), file=self._process.stdin, flush=True)
        except OSError as error:
            raise self._death() from error
        line = self._process.stdout.readline()
        if not line.endswith("\n"):
            raise self._death()
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise RunError(answer["error"])
        return answer

    def _death(self) -> RunError:
        code = self._process.wait()
        said = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["It printed nothing."]
        cause = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        advice = "\nIt may have run out of memory: close other programs." if code < 0 else ""
        return RunError(f"The process that ran the {self.subject} graph died ({cause}).\n{said[-1]}{advice}")


@contextlib.contextmanager
def start_worker(setup: Setup, subject: str) -> Iterator[Worker]:
    """Start a process that loads a graph, and end it on exit.

    Yields:
        The process, with the graph loaded.

    Raises:
        RunError: The graph cannot be loaded, or the process died.
    """
    task = setup.task(subject)
    assert __package__
    command = [sys.executable, "-m", f"{__package__}.worker"]
    # the process must find this package, wherever it was imported from
    root = Path(__file__).resolve().parents[__package__.count(".") + 1]
    search = [str(root), *filter(None, [os.environ.get("PYTHONPATH")])]
    log_file = setup.bundle.work / f"{subject}.log"
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            universal_newlines=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(search)},
        )
        try:
            yield Worker(subject, process, log_file, task)
        finally:
            process.kill()  # it has no state to save
            process.communicate()
