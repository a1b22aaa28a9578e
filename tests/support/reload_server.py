"""One process that checks every reload of a test process: `reload_probe.py`, kept running between jobs."""

from __future__ import annotations

import contextlib
import io
import json
import os
import runpy
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path

PROBE = Path(__file__).parents[2] / "amp_export/pruning/reload_probe.py"


class ReloadServer:
    """Context that starts the process when it is first needed, and ends it on exit."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> ReloadServer:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def run_probe(self, jobs: Path) -> str:
        """Run a file of jobs, in place of `reload_check.run_probe`."""
        process = self._process = self._process or self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        print(jobs, file=process.stdin, flush=True)
        failure: str = json.loads(process.stdout.readline())
        return failure

    def _start(self) -> subprocess.Popen[str]:
        modules = self._stack.enter_context(tempfile.TemporaryDirectory())
        process = subprocess.Popen(
            [sys.executable, "-P", __file__, modules],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self._stack.enter_context(process)  # on exit, closes its input, which ends the process
        return process


def serve(modules: str) -> None:
    """Run each file of jobs that is named on stdin, and answer with the error, or an empty string."""
    functions = runpy.run_path(str(PROBE))
    functions["forbid_amp_export"]()
    os.environ["HF_MODULES_CACHE"] = modules
    import transformers  # noqa: F401 - reads the folder of modeling files before a job sets its own

    answers = sys.stdout
    for line in sys.stdin:
        failure = ""
        with contextlib.redirect_stdout(io.StringIO()):
            try:
                functions["work_through"](Path(line.rstrip("\n")))
            except Exception:  # noqa: BLE001  the test that asked shows it
                failure = traceback.format_exc()[-2000:]
        print(json.dumps(failure), file=answers, flush=True)


if __name__ == "__main__":
    serve(sys.argv[1])
