"""Run commands in forked processes, and notice what they must not do."""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import pkgutil
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TIMEOUT_SECONDS = 60
"""A command that computes longer on a tiny model hangs; it may wait longer, since attacks run side by side."""

WORKS, FAILS, REFUSES = 0, 1, 2
"""Exit codes: it worked, a check failed, the request is refused."""


@dataclass(frozen=True)
class Outcome:
    """How a command ended.

    Attributes:
        command: Its arguments.
        code: Its exit code, or minus the signal that ended it.
        text: What it wrote to stderr and stdout.
        seconds: How long it took.
        timed_out: Whether it was ended for taking too long.
    """

    command: tuple[str, ...]
    code: int
    text: str
    seconds: float
    timed_out: bool = False

    @property
    def shows_trace(self) -> bool:
        """Whether it showed a stack trace."""
        return "Traceback (most recent call last)" in self.text


@dataclass
class Started:
    """A command that runs in a process of its own, with a process group of its own."""

    command: tuple[str, ...]
    process: int
    log: Path
    began: float = field(default_factory=time.monotonic)

    def wait(self, *, timeout: float = 3 * TIMEOUT_SECONDS) -> Outcome:
        """Wait until it ends; kill it and what it started after the timeout. Its log is removed."""
        deadline = self.began + timeout
        while True:
            process, status = os.waitpid(self.process, os.WNOHANG)
            if process or time.monotonic() > deadline:
                break
            time.sleep(0.01)
        seconds = time.monotonic() - self.began
        self.kill()
        if not process:
            _, status = os.waitpid(self.process, 0)
        code = os.waitstatus_to_exitcode(status)
        timed_out = not process or -code in {signal.SIGXCPU, signal.SIGKILL}
        text = self.log.read_text(errors="replace")
        self.log.unlink()
        return Outcome(self.command, code, text, seconds, timed_out=timed_out)

    def kill(self) -> None:
        """Kill the command and everything that it started, as a power cut would."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process, signal.SIGKILL)


def import_libraries() -> None:
    """Import what commands import, which takes most of their time, so that forked processes need not.

    Computing would start threads, which forked processes lack.
    """
    import onnx  # noqa: F401
    import onnxruntime  # noqa: F401
    import scipy.stats  # noqa: F401
    import torch
    import transformers

    from amp_export import api, cli
    from amp_export.benchmarking import sampling

    for package in (api, cli):
        for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            importlib.import_module(module.name)
    # transformers imports a model's module, and what that needs, with its class
    for name in ("BertForMaskedLM", "LlamaForCausalLM", "PreTrainedTokenizerFast"):
        getattr(transformers, name)

    torch.set_num_threads(1)
    # the times of tiny models are noise that more launches do not resolve
    sampling.MOST_LAUNCHES = sampling.PILOT_LAUNCHES = 2


def start(
    command: Iterable[str | Path],
    workspace: Path,
    *,
    prepare: Callable[[], Any] | None = None,
    work: Callable[[], Any] | None = None,
) -> Started:
    """Start a command in a forked process.

    Args:
        command: Arguments of `amp-export`.
        workspace: Directory that it runs in; temporary files and caches are kept in `home_of` it.
        prepare: Called in the new process before the command, to set limits or to falsify a clock.
        work: Called instead of the command, for what no command does.
    """
    arguments = tuple(map(str, command))
    descriptor, log = tempfile.mkstemp(suffix=".log")
    sys.stdout.flush()
    process = os.fork()
    if not process:
        _become(workspace, descriptor, prepare, work or functools.partial(_run_command, arguments))
    os.close(descriptor)
    with contextlib.suppress(OSError):
        os.setpgid(process, process)
    return Started(arguments, process, Path(log))


def join_problems(checks: Iterable[tuple[bool, str]]) -> str:
    """Return the texts of the checks that are true, or nothing."""
    return "; ".join(problem for wrong, problem in checks if wrong)


def _run_command(arguments: Sequence[str]) -> None:
    from amp_export.cli import main

    sys.argv = ["amp-export", *arguments]
    main()


def _become(workspace: Path, log: int, prepare: Callable[[], Any] | None, work: Callable[[], Any]) -> None:
    """Do a work in this process, which ends with it."""
    code = 70
    try:
        os.setpgid(0, 0)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.chdir(workspace)
        home = home_of(workspace)
        (home / "tmp").mkdir(parents=True, exist_ok=True)
        os.environ |= {
            "HOME": str(home),
            "TMPDIR": str(home / "tmp"),
            "XDG_CACHE_HOME": str(home / ".cache"),
            "TORCHINDUCTOR_CACHE_DIR": str(home / ".cache/torch"),
            "HF_HUB_OFFLINE": "1",
            "NO_COLOR": "1",
            "OMP_NUM_THREADS": "1",
            # where files may not grow, Python would keep half a compiled module, which no process can import afterwards
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        sys.dont_write_bytecode = True
        tempfile.tempdir = None
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_CPU, (TIMEOUT_SECONDS, TIMEOUT_SECONDS))
        if prepare is not None:
            prepare()
        work()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0
    except BaseException:  # noqa: BLE001  as the interpreter shows it
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def home_of(workspace: Path) -> Path:
    """Return the home directory of commands, with their caches and, in `tmp`, their temporary files."""
    return workspace.with_name(f"{workspace.name}.home")


@contextlib.contextmanager
def fresh_workspace(template: Path) -> Iterator[Path]:
    """Yield a copy of a directory, which may be damaged; it is removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="attack-") as folder:
        workspace = Path(folder) / "work"
        shutil.copytree(template, workspace, symlinks=True)
        yield workspace
        # a command may have taken away the rights to its own files
        for entry in (workspace, *workspace.rglob("*")):
            if entry.is_dir() and not entry.is_symlink():
                entry.chmod(0o755)


@dataclass(frozen=True)
class Files:
    """Names, sizes and times of files."""

    entries: frozenset[tuple[str, int, int]]

    @classmethod
    def below(cls, folder: Path, *, without: Iterable[Path] = ()) -> Files:
        """Return the files below a folder, without those below some others."""
        left_out = tuple(without)
        found = set()
        for place, folders, names in os.walk(folder):
            here = Path(place)
            folders[:] = [name for name in folders if here / name not in left_out]
            for name in names:
                facts = (here / name).lstat()
                found.add((str((here / name).relative_to(folder)), facts.st_size, facts.st_mtime_ns))
        return cls(frozenset(found))

    def changes(self, later: Files) -> list[str]:
        """Return the names that appeared, disappeared or changed."""
        return sorted({name for name, _, _ in self.entries ^ later.entries})
