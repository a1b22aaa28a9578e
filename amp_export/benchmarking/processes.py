"""Worker processes of a benchmark, as seen by the main process; they run `amp_export.benchmarking.worker`."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from amp_export.benchmarking.setup import Setup
from amp_export.benchmarking.timing import Round, RoundTimes
from amp_export.benchmarking.worker import Ready
from amp_export.documents import convert, decode_json
from amp_export.errors import AmpExportError, ModelError, RequestError, UnsupportedModelError

Answer = TypeVar("Answer")


class Worker:
    """A process that holds one model; `start_worker` starts and ends it.

    multiprocessing would import the caller's main script again, which would have to guard against this.
    """

    def __init__(self, folder: Path, process: subprocess.Popen[str], log: Any) -> None:
        self.folder = folder
        self._process = process
        self._log = log
        self.ready = self._receive(Ready)

    def time(self, task: Round) -> RoundTimes:
        """Run one round in the process and return its times.

        Raises:
            AmpExportError: The process died.
        """
        assert self._process.stdin is not None
        try:
            print(json.dumps(asdict(task)), file=self._process.stdin, flush=True)
        except OSError as error:
            raise self._death() from error
        return self._receive(RoundTimes)

    def _receive(self, kind: type[Answer]) -> Answer:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.endswith("\n"):
            raise self._death()
        answer: dict[str, Any] = decode_json(line)
        if "error" in answer:
            kinds = {kind.__name__: kind for kind in (ModelError, RequestError, UnsupportedModelError)}
            raise kinds.get(answer["error"], AmpExportError)(answer["message"])
        return convert(answer, kind, source="A benchmark process")

    def _death(self) -> AmpExportError:
        code = self._process.wait()
        self._log.seek(0)
        said = self._log.read().decode(errors="replace").strip().splitlines() or ["It printed nothing."]
        cause = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        advice = "It may have run out of memory: close other programs, or use shorter prompts." if code < 0 else ""
        return AmpExportError(
            f"The process that ran the model in {self.folder} died ({cause}).\n{said[-1]}\n{advice}".rstrip()
        )


@contextlib.contextmanager
def start_worker(folder: Path, setup: Setup) -> Iterator[Worker]:
    """Start a process that loads a model, and end it.

    Yields:
        The process, with the model loaded.

    Raises:
        AmpExportError: The model cannot be loaded, or the process died.
    """
    command = [sys.executable, "-P", "-m", "amp_export.benchmarking.worker", str(folder), json.dumps(asdict(setup))]
    # the process must find this package wherever it was imported from
    search = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(search)}
    pipe = subprocess.PIPE
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=log, text=True, env=environment)
        try:
            yield Worker(folder, process, log)
        finally:
            process.kill()  # it has nothing to clean up
            process.communicate()
