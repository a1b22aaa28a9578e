"""The whole run on the device: check, build, verify, measure, report. `bash run.sh` calls it."""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import importlib
import sys
import time
from pathlib import Path
from typing import Any, Iterator, TextIO

from .bundle import SUBJECTS, Bundle, check_files, open_bundle
from .errors import RunError
from .facts import device_facts, device_model, device_state
from .files import write_json
from .measure import PHASES, measure
from .power import Power
from .processes import Setup
from .runtimes import ONNXRUNTIME, TENSORRT, choose_runtime
from .verify import verify

REPORT = "device-report.json"
REPORT_SCHEMA = 1

STEPS = ("build", "verify", "measure")


def main() -> int:
    """Run the steps, and return the exit code: 1 if parity fails, 2 if the run cannot continue."""
    try:
        bundle = open_bundle(Path.cwd())
        bundle.work.mkdir(exist_ok=True)
        with try_lock(bundle) as lock:
            if lock is None:
                raise RunError(f"Another run of {bundle.folder} is in progress.\nWait until it has finished.")
            return run_steps(bundle, sys.argv[1:])
    except RunError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2


def run_steps(bundle: Bundle, arguments: list[str]) -> int:
    """Run the steps that the arguments name; the caller holds the lock.

    Returns:
        The exit code.
    """
    chosen = _parse(arguments)
    try:
        check_files(bundle)
        return _run(bundle, chosen)
    except RunError as error:
        print(f"Error: {error}", file=sys.stderr)
    except OSError as error:
        print(
            f"Error: {error.strerror}: {error.filename}\nFree some disk space, or make the folder writable.",
            file=sys.stderr,
        )
    return 2


@contextlib.contextmanager
def try_lock(bundle: Bundle) -> Iterator[TextIO | None]:
    """Yield the lock of a run; None if another run holds it, because two runs would disturb each other's timing."""
    with (bundle.work / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield None
        else:
            yield lock


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bash run.sh", description=f"Build, verify and measure; a run of all steps writes {REPORT}."
    )
    parser.add_argument("steps", nargs="*", metavar="STEP", help=f"steps to run: {', '.join(STEPS)} (default: all)")
    parser.add_argument(
        "--runtime", choices=(TENSORRT, ONNXRUNTIME), help="runtime to use (default: TensorRT if installed)"
    )
    parser.add_argument("--provider", help="ONNX Runtime's execution provider (default: CUDA if available)")
    parser.add_argument("--threads", type=int, default=0, help="threads of ONNX Runtime (default: its own choice)")
    parser.add_argument("--rounds", type=int, default=20, help="interleaved rounds to measure")
    chosen = parser.parse_args(arguments)
    unknown = [step for step in chosen.steps if step not in STEPS]
    if unknown:
        parser.error(f"no step is called {unknown[0]}; choose from {', '.join(STEPS)}")
    return chosen


def _run(bundle: Bundle, arguments: argparse.Namespace) -> int:
    steps = arguments.steps or STEPS
    started = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    runtime = choose_runtime(arguments.runtime)
    setup = Setup(bundle, runtime, provider=arguments.provider, threads=arguments.threads)
    report: dict[str, Any] = {
        "schema": REPORT_SCHEMA,
        "bundle": bundle.identity,
        "target": bundle.manifest["target"]["name"],
        "started": started,
        "build": _build(bundle) if runtime == TENSORRT and "build" in steps else None,
    }
    if "verify" not in steps and "measure" not in steps:
        return 0
    # measuring needs the memory of each graph too
    verified = _verify(setup)
    report["runtime"] = verified["pruned"]["ready"]["runtime"]
    report["parity"] = {subject: verified[subject]["parity"] for subject in SUBJECTS}
    holds = all(parity["holds"] for parity in report["parity"].values())
    report.update(facts=device_facts(), before=device_state(), benchmark=None, power=None)
    if holds and "measure" in steps:
        _measure(setup, verified, report, arguments.rounds)
    report["after"] = device_state()
    if not arguments.steps:
        write_json(bundle.folder / REPORT, report)
        print(f"Written: {bundle.folder / REPORT}", flush=True)
    return 0 if holds else 1


def _build(bundle: Bundle) -> dict[str, Any]:
    from .building import build_engines
    from .cuda import Cuda

    version = importlib.import_module(TENSORRT).__version__
    device = f"{device_model() or 'a GPU'}, compute capability {Cuda().compute_capability()}"
    engines = build_engines(bundle, runtime_version=version, device=device)
    return {
        subject: {"seconds": engine.seconds, "bytes": engine.bytes, "kept": engine.kept}
        for subject, engine in engines.items()
    }


def _verify(setup: Setup) -> dict[str, Any]:
    baseline = _gpu_used(setup)
    verified = verify(setup)
    for result in verified.values():
        used = result.pop("gpu_used_bytes")
        result["gpu_memory_bytes"] = None if used is None or baseline is None else used - baseline
    return verified


def _gpu_used(setup: Setup) -> int | None:
    """Return the GPU memory that is in use before any graph is loaded; None if no GPU is used."""
    if setup.runtime != TENSORRT and setup.provider == "CPUExecutionProvider":
        return None
    from .cuda import Cuda

    try:
        return Cuda().used_bytes()
    except RunError:
        # no GPU, or no CUDA runtime
        return None


def _measure(setup: Setup, verified: dict[str, Any], report: dict[str, Any], rounds: int) -> None:
    power = Power.open()
    try:
        report["benchmark"] = measure(setup, verified, power, rounds=rounds)
    finally:
        if power is not None:
            power.close()
    report["power"] = None if power is None else {"source": power.source, "rails": power.rails}
    for phase in PHASES:
        dense, pruned = (report["benchmark"]["phases"][phase][subject] for subject in SUBJECTS)
        print(
            f"{phase.capitalize()}: dense {dense['median'] * 1e3:.2f} ms ({dense['tokens_per_second']:.1f} tokens/s), "
            f"pruned {pruned['median'] * 1e3:.2f} ms ({pruned['tokens_per_second']:.1f} tokens/s), "
            f"x {dense['median'] / pruned['median']:.2f}.",
            flush=True,
        )


if __name__ == "__main__":
    sys.exit(main())
