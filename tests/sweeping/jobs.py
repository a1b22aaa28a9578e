"""Jobs for the tests of executors; workers of a cluster import them by name."""

from __future__ import annotations

import os
import signal

from amp_export.errors import MissingExtraError, VerificationError
from amp_export.outputs.names import MANIFEST
from amp_export.progress import Progress
from amp_export.sweeping.executors import Job


def write_manifest(job: Job, progress: Progress) -> None:
    """Writes what an output directory has at least."""
    job.output.mkdir()
    (job.output / MANIFEST).write_text('{"schema": 1}')


def die_first(job: Job, progress: Progress) -> None:
    """Kills its process as often as the model's name says, then writes."""
    deaths = job.output.with_name(f"{job.output.name}.deaths")
    count = len(deaths.read_text()) if deaths.exists() else 0
    if count < int(job.model):
        deaths.write_text("x" * (count + 1))
        os.kill(os.getpid(), signal.SIGKILL)
    write_manifest(job, progress)


def write_nothing(job: Job, progress: Progress) -> None:
    """Writes nothing, as if to another machine's disk."""


def fail(job: Job, progress: Progress) -> None:
    """Fails as users know it."""
    if job.model == "verify":
        raise VerificationError("It computes something else.")
    if job.model == "extra":
        raise MissingExtraError("demo", needed_for="Reading .gguf files")
    raise ZeroDivisionError("division by zero")
