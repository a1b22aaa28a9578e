"""Run jobs on a Ray cluster, whose nodes share a disk with this machine.

Jobs are tasks of one CPU each. Ray's own retries are off: they would neither be shown nor end.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from amp_export.errors import AmpExportError, ClusterError, RequestError, VerificationError, first_line
from amp_export.extras import require_extra
from amp_export.outputs.staging import is_ours
from amp_export.progress import Progress, Silent
from amp_export.sweeping.executors import Job, Work

RETRIES = 2
"""How often a job whose worker died is started again."""

CONNECT_SECONDS = 10.0
"""Time for a cluster to answer. Ray itself was seen to try for more than five minutes."""

NO_CLUSTER = ("auto", "local")
"""Addresses without host and port: a cluster that runs on this machine, and one that is started for this run."""


@dataclass(frozen=True)
class OnRay:
    """Runs jobs on a cluster that this process is connected to.

    Attributes:
        address: Its address, for messages.
    """

    address: str

    def run(self, work: Work, jobs: Sequence[Job], progress: Progress) -> Iterator[Job]:
        """Yield jobs as they finish.

        Yields:
            Jobs, in the order in which they are finished.

        Raises:
            ClusterError: The cluster cannot run a job, or its worker died several times.
            AmpExportError: A job failed, as it would have in this process.
        """
        import ray

        crashes = (
            ray.exceptions.WorkerCrashedError,
            ray.exceptions.OutOfMemoryError,
            ray.exceptions.NodeDiedError,
        )
        submit = ray.remote(num_cpus=1, max_retries=0)(run_job).remote
        tries = dict.fromkeys(jobs, 1)
        pending = {submit(work, _absolute(job)): job for job in jobs}
        while pending:
            (done, *_), _ = ray.wait([*pending], num_returns=1)
            job = pending.pop(done)
            try:
                failure = ray.get(done)
            except crashes as error:
                if tries[job] > RETRIES:
                    raise self._given_up(job, tries[job]) from error
                tries[job] += 1
                again = f"it is started again: {tries[job]} of {RETRIES + 1}"
                progress.note(f"The worker for {job.output.name} died, so that {again}.")
                pending[submit(work, _absolute(job))] = job
                continue
            except ray.exceptions.RayError as error:
                raise ClusterError(
                    f"The Ray cluster at {self.address} cannot run {job.output.name}: {_last_line(error)}\n"
                    "Install the same version of amp-export on all of its nodes."
                ) from error
            if failure is not None:
                raise failure.to_error()
            self._check_written(job)
            progress.note(f"{job.output.name} is made, on the Ray cluster.")
            yield job

    def _given_up(self, job: Job, tries: int) -> ClusterError:
        return ClusterError(
            f"The worker for {job.output.name} on the Ray cluster at {self.address} died {tries} times.\nIts log says "
            "why. If memory ran out, start the nodes with fewer --num-cpus, so that fewer jobs run at once. Then go on "
            "with --resume."
        )

    def _check_written(self, job: Job) -> None:
        if not is_ours(job.output):
            raise ClusterError(
                f"The Ray cluster at {self.address} made {job.output.name}, but it is not in {job.output.parent} here."
                "\nGive an --output on a disk that all nodes mount at the same place."
            )


@dataclass(frozen=True)
class JobFailure:
    """An error that a user can resolve, as it comes from a worker.

    Exceptions with arguments of their own do not travel between processes.

    Attributes:
        message: Its text.
        exit_code: Exit code of the command line.
    """

    message: str
    exit_code: int

    def to_error(self) -> AmpExportError:
        """Return an error with the same text and exit code."""
        kind = VerificationError if self.exit_code == VerificationError.exit_code else RequestError
        return kind(self.message)


def run_job(work: Work, job: Job) -> JobFailure | None:
    """Run a job in a worker of the cluster."""
    try:
        work(job, Silent())
    except AmpExportError as error:
        return JobFailure(str(error), error.exit_code)
    return None


@contextmanager
def connected_to(address: str) -> Iterator[OnRay]:
    """Connect this process to a cluster, and disconnect it afterwards.

    Args:
        address: `HOST:PORT` of a cluster, `auto` for the cluster that runs on this machine, or `local` for one that is
            started for this run.

    Yields:
        What runs jobs there.

    Raises:
        MissingExtraError: Ray is not installed.
        ClusterError: The cluster cannot be reached.
    """
    require_extra("ray", "sweep", needed_for="Running points on a Ray cluster")
    import ray

    if address not in NO_CLUSTER:
        _check_reachable(address)
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address == "local":
        options["include_dashboard"] = False
    try:
        # what Ray prints belongs on stderr: stdout is for --json
        ray.init(address=address, configure_logging=False, **options)
    except (OSError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
        raise ClusterError(_unreachable(address, first_line(error))) from error
    try:
        yield OnRay(address)
    finally:
        ray.shutdown()


def _check_reachable(address: str) -> None:
    host, colon, port = address.rpartition(":")
    if not (host and colon and port.isascii() and port.isdigit() and int(port) < 1 << 16):
        raise ClusterError(_unreachable(address, "it is no address"))
    try:
        with contextlib.closing(socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS)):
            return
    except OSError as error:
        raise ClusterError(_unreachable(address, error.strerror or str(error))) from error


def _unreachable(address: str, why: str) -> str:
    return (
        f"The Ray cluster at {address} cannot be reached: {why}.\nGive --ray HOST:PORT as `ray start --head` prints "
        "it, auto for the cluster on this machine, or local to start one; or leave --ray out."
    )


def _last_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[-1]


def _absolute(job: Job) -> Job:
    """Return a job for a process with another working directory."""
    calibration = job.prune.calibration
    prune = replace(
        job.prune,
        scores=None if job.prune.scores is None else job.prune.scores.absolute(),
        calibration=calibration.absolute() if calibration is not None and calibration.exists() else calibration,
    )
    model = str(Path(job.model).absolute()) if Path(job.model).exists() else job.model
    return replace(job, model=model, output=job.output.absolute(), prune=prune)
