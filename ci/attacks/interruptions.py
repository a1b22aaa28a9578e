"""Crashes, full disks, little memory, other writers: the old result stands, complete, or the new one does."""

from __future__ import annotations

import atexit
import ctypes
import functools
import json
import os
import random
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attacks.sandbox import REFUSES, WORKS, Files, Outcome, fresh_workspace, join_problems, start

CONVERT = (
    "--to", "onnx", "--ratio", "0.1", "--snap", "1", "--calibration", "prompts.txt", "--fitting-tokens", "128",
    "--threads", "1",
    "--model", "checkpoint", "--output", "out",
)  # fmt: skip
OVERWRITE = (*CONVERT, "--overwrite")
_DAC_OVERRIDE, _DAC_READ_SEARCH, _FOWNER = 1, 2, 3
_CAPBSET_DROP = 24
_CAPABILITY_VERSION_3 = 0x20080522
"""From linux/capability.h and linux/prctl.h."""

MEGABYTE = 1 << 20


@dataclass(frozen=True)
class Trial:
    """One attack.

    Attributes:
        kind: What was done to the command.
        said: Details.
        outcome: How the command ended.
        problem: What is wrong with the end, or nothing.
    """

    kind: str
    said: str
    outcome: Outcome
    problem: str


def kill_runs(template: Path, *, count: int, random_seed: int) -> Iterator[Trial]:
    """Kill an end-to-end run over an existing output at random moments, then run it again."""
    yield from _kill("SIGKILL, end-to-end run", OVERWRITE, template, count, random_seed)


def kill_bundles(template: Path, *, count: int, random_seed: int) -> Iterator[Trial]:
    """Kill `bundle` at random moments."""
    # a bundle may be complete before the kill, and is then there for the next run
    yield from _kill("SIGKILL, bundle", ("bundle", "out", "--overwrite"), template, count, random_seed)


def kill_device_runs(template: Path, *, count: int, random_seed: int, device: Sequence[str]) -> Iterator[Trial]:
    """Kill `benchmark --device` at random moments.

    Args:
        template: Files to start from.
        count: Number of kills.
        random_seed: Seed of the moments.
        device: Options that name the device.

    Yields:
        Each attack.
    """
    command = ("benchmark", "out", *device, "--rounds", "6", "--threads", "1")
    yield from _kill("SIGKILL, benchmark --device", command, template, count, random_seed)


def start_device() -> tuple[str, ...] | None:
    """Start an `sshd` on this machine, and return the options that name it; None if there is none.

    It is stopped when this process ends.
    """
    from tests.support.loopback import SFTP_SERVER, SSHD, Loopback

    if SSHD is None or SFTP_SERVER is None:
        return None
    device = Loopback.make(Path(tempfile.mkdtemp(prefix="attack-device-")) / "device")
    atexit.register(device.stop)
    return ("--device", device.address, "--ssh-config", str(device.config), "--device-python", sys.executable)


def _kill(
    kind: str, command: Sequence[str], template: Path, count: int, random_seed: int, patience: float = 900
) -> Iterator[Trial]:
    generator = random.Random(random_seed)  # noqa: S311
    with fresh_workspace(template) as workspace:
        began = time.monotonic()
        start(command, workspace).wait(timeout=patience)
        duration = time.monotonic() - began
    for _ in range(count):
        moment = generator.uniform(0, duration)
        with fresh_workspace(template) as workspace:
            old = _identity(workspace / "out")
            running = start(command, workspace)
            time.sleep(moment)
            running.kill()
            outcome = running.wait(timeout=patience)
            problem = _problem_of_result(workspace / "out", old)
            # what the next run finds there is of no hindrance, and is gone afterwards
            again = start(command, workspace).wait(timeout=patience)
            problem = problem or _problem_of_end(again, workspace)
            yield Trial(kind, f"after {moment:.1f} of {duration:.1f} s", outcome, problem)


def fill_disk(template: Path, *, count: int, random_seed: int) -> Iterator[Trial]:
    """Let no file grow beyond random sizes, as a disk that fills up."""
    generator = random.Random(random_seed)  # noqa: S311
    for _ in range(count):
        size = int(10 ** generator.uniform(2, 5.3))
        limit = _limit(resource.RLIMIT_FSIZE, size)
        yield _with_condition("disk full", f"files end at {size} bytes", template, limit)


def starve(template: Path) -> Iterator[Trial]:
    """Let the command have too little memory."""
    for megabytes in (1200, 1600, 2000, 2400):
        limit = _limit(resource.RLIMIT_AS, megabytes * MEGABYTE)
        yield _with_condition("memory short", f"{megabytes} MB of address space", template, limit)


def forbid_writing(template: Path) -> Iterator[Trial]:
    """Let the user be forbidden to write to the output, or beside it."""
    for said, places in (("output", ("out",)), ("its place", (".",)), ("both", (".", "out"))):

        def close(workspace: Path, places: Sequence[str] = places) -> None:
            for entry in workspace.rglob("*"):
                entry.chmod(0o755 if entry.is_dir() else 0o644)
            for place in places:
                (workspace / place).chmod(0o555)

        # scratch directories are made in the output if only that can be written
        allowed = {WORKS} if places == (".",) else {REFUSES}
        yield _with_condition(
            f"read-only {said}", "by permissions", template, _respect_permissions, arrange=close, codes=allowed
        )


def race(template: Path) -> Iterator[Trial]:
    """Run the same command twice at once, into an empty output and over an old one."""
    for command, said in ((CONVERT, "new output"), (OVERWRITE, "old output")):
        with fresh_workspace(template) as workspace:
            if command is CONVERT:
                shutil.rmtree(workspace / "out")
            both = [start(command, workspace) for _ in range(2)]
            ends = [each.wait(timeout=180) for each in both]
            problem = _problem_of_result(workspace / "out", None)
            codes = sorted(end.code for end in ends)
            if codes != [WORKS, REFUSES] and not problem:
                problem = f"exit codes {codes}"
            if not any(Files.below(workspace / "out-2").entries) and not problem:
                problem = "the second result is lost"
            yield Trial("two runs at once", said, ends[1], problem)


def jump_clock(template: Path) -> Iterator[Trial]:
    """Let the clock jump back and forth by days while the command runs."""
    for days in (-3, 40):
        jump = functools.partial(_falsify_clock, days)
        yield _with_condition("clock that jumps", f"by {days} days", template, jump, codes={WORKS})


def change_sources(template: Path, *, count: int, random_seed: int) -> Iterator[Trial]:
    """Replace weights or config of the source while the command reads it."""
    generator = random.Random(random_seed)  # noqa: S311
    for number in range(count):
        name = ("model.safetensors", "config.json", "tokenizer.json")[number % 3]
        moment = generator.uniform(0.05, 4)
        with fresh_workspace(template) as workspace:
            old = _identity(workspace / "out")
            running = start(OVERWRITE, workspace)
            time.sleep(moment)
            _replace_source(workspace / "checkpoint" / name)
            outcome = running.wait(timeout=600)
            problem = _problem_of_result(workspace / "out", old)
            if outcome.code == WORKS and not problem:
                problem = _problem_of_source(workspace, changed=name)
            elif outcome.code != REFUSES and not problem:
                problem = f"exit code {outcome.code}"
            yield Trial("source changes", f"{name} after {moment:.1f} s", outcome, problem)


def _with_condition(
    kind: str,
    said: str,
    template: Path,
    prepare: Callable[[], Any],
    *,
    arrange: Callable[[Path], Any] = lambda _: None,
    codes: frozenset[int] | set[int] = frozenset({WORKS, REFUSES}),
) -> Trial:
    with fresh_workspace(template) as workspace:
        old = _identity(workspace / "out")
        arrange(workspace)
        outcome = start(OVERWRITE, workspace, prepare=prepare).wait(timeout=600)
        problem = _problem_of_result(workspace / "out", old)
        if outcome.code not in codes and not problem:
            problem = f"exit code {outcome.code}"
        return Trial(kind, said, outcome, problem or _problem_of_text(outcome))


def _identity(output: Path) -> str:
    """Return what tells one result from another: its manifest."""
    return (output / "amp_export.json").read_text()


def _problem_of_result(output: Path, old: str | None) -> str:
    """Return what is wrong with an output: it must be complete, by the hashes of its manifest."""
    from amp_export.errors import AmpExportError
    from amp_export.outputs.manifest import Manifest

    try:
        Manifest.load(output).verify(output)
    except AmpExportError as error:
        return f"the output is not whole: {error}".splitlines()[0]
    if _identity(output) != old:
        shown = start(["report", "out"], output.parent).wait()
        if shown.code != WORKS:
            return f"the new result cannot be shown: {shown.text[-200:]}"
    return ""


def _problem_of_end(outcome: Outcome, workspace: Path) -> str:
    if outcome.code != WORKS:
        return f"the next run ends with {outcome.code}: {outcome.text[-300:]}"
    entries = (*workspace.iterdir(), *(workspace / "out").iterdir())
    leftovers = [entry.name for entry in entries if entry.name.startswith(".")]
    return f"leftovers: {', '.join(leftovers)}" if leftovers else ""


def _problem_of_text(outcome: Outcome) -> str:
    return join_problems(((outcome.shows_trace, "a stack trace"), (outcome.timed_out, "it hangs")))


def _problem_of_source(workspace: Path, *, changed: str) -> str:
    """Return what is wrong with a result: it is of one source, the old one or the new one."""
    from amp_export.checkpoints.hashing import hash_weights
    from amp_export.checkpoints.reading import open_checkpoint
    from amp_export.outputs.manifest import Manifest

    recorded = Manifest.load(workspace / "out").source.sha256
    if recorded == hash_weights(open_checkpoint(workspace / "checkpoint")) or changed == "tokenizer.json":
        return ""
    return f"{changed} is not what was hashed, and nothing said so"


def _replace_source(file: Path) -> None:
    """Put another file in its place, as a download or a training run would."""
    other = file.with_suffix(".new")
    if file.suffix == ".json":
        content = json.loads(file.read_text())
        if file.name == "config.json":
            content["rms_norm_eps"] = 0.25
        else:
            content["truncation"] = None
        other.write_text(json.dumps(content))
    else:
        from safetensors.torch import load_file, save_file

        weights = load_file(file)
        save_file({name: weight * 1.5 for name, weight in weights.items()}, other, metadata={"format": "pt"})
    other.replace(file)


def _limit(what: int, size: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(what, (size, size))


def _respect_permissions() -> None:
    """Give up root's right to ignore permissions, in this process and in those that it starts."""
    if os.getuid() != 0:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header, sets = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0), (ctypes.c_uint32 * 6)()
    libc.capget(header, sets)
    for capability in (_DAC_OVERRIDE, _DAC_READ_SEARCH, _FOWNER):
        libc.prctl(_CAPBSET_DROP, capability, 0, 0, 0)
        for number in range(3):  # effective, permitted and inheritable capabilities
            sets[number] &= ~(1 << capability)
    if libc.capset(header, sets):
        raise OSError(ctypes.get_errno(), "permissions cannot be given up")


def _falsify_clock(days: int) -> None:
    """Let the clock of this process go wrong at every other question."""
    right, asked = time.time, iter(range(10**9))
    time.time = lambda: right() + (86400 * days if next(asked) % 2 else 0)
    time.time_ns = lambda: int(time.time() * 1e9)
