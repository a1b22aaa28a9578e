"""Runs that outlive the connection they were started over: `bash run.sh attach REQUEST`.

It starts a run in its own session, or finds one that was started earlier, and shows its log until it ends. A run that
ended without a connection is found as well, until the client has fetched its report and removed `work/state.json`.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Iterator

from .bundle import Bundle, open_bundle
from .errors import RunError
from .files import read_json, write_json
from .run import try_lock

CANNOT_GO_ON = 2
"""Exit code of a run that could not continue; the cause may be gone, so it is tried again."""

POLL_SECONDS = 0.2

WORD = "amp-export"
"""First word of a line for the machine that attached."""


def attach(bundle: Bundle, request: dict[str, Any]) -> int:
    """Follow the requested run until it ends; start it if it does not exist.

    Args:
        bundle: The bundle.
        request: `arguments`, the arguments of `run`.

    Returns:
        The run's exit code.

    Raises:
        RunError: The run cannot be started, or ended without a result.
    """
    bundle.work.mkdir(exist_ok=True)
    log = bundle.work / "run.log"
    while True:
        with try_lock(bundle) as lock:
            if lock is not None:
                state = read_json(_state_file(bundle)) or {}
                if state.get("request") == request and state.get("code") != CANNOT_GO_ON:
                    _show(log, iter([False]))
                    return int(state["code"])
                _start(bundle, request, lock, log)
        # closed here, but still held by the run, which inherited it
        _show(log, _is_running(bundle))
        state = read_json(_state_file(bundle)) or {}
        if state.get("request") == request:
            return int(state["code"])
        if not state:
            raise RunError(
                f"The run died without an error message: see {log}.\nIt may have run out of memory; attach again."
            )
        print("A run with other settings has ended; the requested run starts now.", flush=True)


def serve(bundle: Bundle, request: dict[str, Any]) -> int:
    """Execute a run under the lock that it inherited, record its exit code, and return it."""
    from .run import run_steps

    code = run_steps(bundle, request["arguments"])
    write_json(_state_file(bundle), {"request": request, "code": code})
    return code


def main() -> int:
    """Attach to a run, or execute it with --serve, and return its exit code."""
    *serving, request_file = sys.argv[1:]
    try:
        request: dict[str, Any] = json.loads(Path(request_file).read_text(encoding="utf-8"))
        bundle = open_bundle(Path.cwd())
        code = serve(bundle, request) if serving else attach(bundle, request)
    except RunError as error:
        print(f"Error: {error}", flush=True)
        code = CANNOT_GO_ON
    if not serving:
        print(f"{WORD} exit {code}", flush=True)
    return code


def _state_file(bundle: Bundle) -> Path:
    return bundle.work / "state.json"


def _start(bundle: Bundle, request: dict[str, Any], lock: Any, log: Path) -> None:
    """Start a run in its own session; it inherits the lock, so that no other run can start in between."""
    request_file = bundle.work / "request.json"
    write_json(request_file, request)
    with contextlib.suppress(FileNotFoundError):
        _state_file(bundle).unlink()
    assert __package__
    with log.open("wb") as stream:
        subprocess.Popen(
            [sys.executable, "-m", f"{__package__}.attach", "--serve", str(request_file)],
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=(lock.fileno(),),
            cwd=str(bundle.folder),
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )


def _is_running(bundle: Bundle) -> Iterator[bool]:
    while True:
        with try_lock(bundle) as lock:
            running = lock is None
        yield running
        time.sleep(POLL_SECONDS)


def _show(log: Path, running: Iterator[bool]) -> None:
    """Print a log from its beginning, and follow it until the run ends."""
    with log.open("r", encoding="utf-8", errors="replace") as stream:
        for goes_on in running:
            # checked before reading, so that the last lines of the run are printed too
            sys.stdout.write(stream.read())
            sys.stdout.flush()
            if not goes_on:
                return


if __name__ == "__main__":
    sys.exit(main())
