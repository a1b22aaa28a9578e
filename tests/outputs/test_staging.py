from __future__ import annotations

import contextlib
import errno
import os
import resource
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amp_export.errors import OutputError
from amp_export.outputs import staging as outputs
from amp_export.outputs.names import MANIFEST, PARTIAL
from amp_export.outputs.scratch import REPLACED, scratch_beside
from amp_export.outputs.staging import check_output, extended_output, replace_text, staged_output


@pytest.fixture
def ours(tmp_path: Path) -> Path:
    output = tmp_path / "out"
    with staged_output(output) as folder:
        (folder / MANIFEST).write_text('{"schema": 1}')
        (folder / "kept").write_text("old")
    return output


def contents(folder: Path) -> dict[str, str]:
    return {file.name: file.read_text() for file in folder.iterdir()}


def interrupt(folder: Path) -> None:
    (folder / "half").write_text("half")
    raise KeyboardInterrupt


def test_a_result_appears_whole_and_leaves_nothing_beside_it(ours: Path) -> None:
    assert contents(ours) == {MANIFEST: '{"schema": 1}', "kept": "old"}
    assert [entry.name for entry in ours.parent.iterdir()] == ["out"]


@pytest.mark.parametrize("exchange", [True, False])
def test_an_earlier_result_is_replaced_whole(ours: Path, exchange: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not exchange:
        monkeypatch.setattr(outputs, "_exchange", lambda *_: False)
    with staged_output(ours, overwrite=True) as folder:
        (folder / "new").write_text("new")
        assert contents(ours)["kept"] == "old", "the old result stands until the new one is whole"
    assert contents(ours) == {"new": "new"}
    assert [entry.name for entry in ours.parent.iterdir()] == ["out"]


def test_an_extended_result_keeps_its_files(ours: Path) -> None:
    with extended_output(ours) as folder:
        (folder / "more").write_text("more")
    assert contents(ours) == {MANIFEST: '{"schema": 1}', "kept": "old", "more": "more"}


def test_a_failure_leaves_the_old_result(ours: Path) -> None:
    before = contents(ours)
    with pytest.raises(KeyboardInterrupt), staged_output(ours, overwrite=True) as folder:
        interrupt(folder)
    assert contents(ours) == before
    assert [entry.name for entry in ours.parent.iterdir()] == ["out"]


def test_what_is_not_ours_is_never_touched(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(OutputError, match=r"not written by amp-export \(it holds thesis\.tex\)"):
        check_output(tmp_path, overwrite=True)
    (tmp_path / MANIFEST).write_text("not JSON")
    with pytest.raises(OutputError, match="not written by amp-export"):
        check_output(tmp_path, overwrite=True)
    with pytest.raises(OutputError, match="not a directory"):
        check_output(tmp_path / "thesis.tex", overwrite=True)


def test_ours_needs_overwrite_and_an_empty_directory_does_not(ours: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="--overwrite"):
        check_output(ours, overwrite=False)
    check_output(ours, overwrite=True)
    (tmp_path / "empty").mkdir()
    with staged_output(tmp_path / "empty") as folder:
        (folder / "new").write_text("new")
    assert contents(tmp_path / "empty") == {"new": "new"}


def test_a_full_disk_is_reported_and_leaves_the_old_result(ours: Path) -> None:
    with pytest.raises(OutputError, match="disk filled up") as caught, staged_output(ours, overwrite=True):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert isinstance(caught.value.__cause__, OSError)
    assert contents(ours)["kept"] == "old"


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="the system limits no file sizes")
def test_a_checkpoint_that_does_not_fit_is_reported(ours: Path) -> None:
    """A limit on file size stands for a full disk: both fail in the middle of a write, inside a library."""
    script = textwrap.dedent(f"""
        import resource, sys
        from pathlib import Path
        import numpy as np
        from amp_export.checkpoints.writing import write_checkpoint
        from amp_export.errors import OutputError
        from amp_export.outputs.staging import staged_output
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            with staged_output(Path({str(ours)!r}), overwrite=True) as folder:
                write_checkpoint(folder / "pruned", {{}}, [("a", np.zeros(100_000))])
        except OutputError as error:
            print(error)
            sys.exit(error.exit_code)
    """)
    # -B: of a module that is compiled where files may not grow, Python would keep half
    command = [sys.executable, "-B", "-c", script]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 2, finished.stderr
    assert "disk filled up" in finished.stdout
    assert contents(ours)["kept"] == "old"
    assert [entry.name for entry in ours.parent.iterdir()] == ["out"]


def test_a_killed_run_leaves_the_old_result_and_the_next_one_cleans_up(ours: Path) -> None:
    script = textwrap.dedent(f"""
        import time
        from pathlib import Path
        from amp_export.outputs.staging import staged_output
        with staged_output(Path({str(ours)!r}), overwrite=True) as folder:
            (folder / "half").write_text("half")
            print("ready", flush=True)
            time.sleep(60)
    """)
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGKILL)
    assert contents(ours)["kept"] == "old"
    leftovers = [entry.name for entry in ours.parent.iterdir() if entry.name != "out"]
    assert len(leftovers) == 1, "a process that is killed cannot clean up"
    time.sleep(0.01)
    with staged_output(ours, overwrite=True) as folder:
        (folder / "new").write_text("new")
    assert contents(ours) == {"new": "new"}
    assert [entry.name for entry in ours.parent.iterdir()] == ["out"]


HOLD = """
import time
from pathlib import Path
from amp_export.outputs.scratch import scratch_beside
with scratch_beside(Path({output!r})) as folder:
    (folder / "half").write_text("half")
    print(folder.parent, flush=True)
    time.sleep(60)
"""


@contextlib.contextmanager
def running(output: Path) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """Start a process that holds a scratch directory until it is killed."""
    command = [sys.executable, "-c", HOLD.format(output=str(output))]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        yield process, Path(process.stdout.readline().decode().strip())
        process.kill()


# characters that patterns, shells and markup read in their own way
NAMES = st.text(st.sampled_from("ab1[]*?!{}$ '\"\\-.~%"), min_size=1, max_size=12).filter(
    lambda name: name not in (".", "..") and not name.startswith("-")
)


def test_scratch_of_a_run_stays_while_it_runs_and_goes_after_it_was_killed(tmp_path: Path) -> None:
    output = tmp_path / "out[1]"
    with running(output) as (process, scratch):
        with scratch_beside(output), scratch_beside(tmp_path / "out1"):
            assert scratch.is_dir(), "the process runs: its work is no leftover"
        process.kill()
        process.wait()
        assert scratch.is_dir(), "a process that is killed cannot clean up"
        with scratch_beside(tmp_path / "out1"):
            assert scratch.is_dir(), "it is another output's"
        with scratch_beside(output):
            assert not scratch.exists()
    assert list(tmp_path.iterdir()) == []


@given(name=NAMES)
def test_leftovers_are_found_whatever_the_name_of_the_output(
    name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("names")
    output, others = folder / name, [folder / "out1", folder / "o"]
    leftovers = [folder / f".{path.name}{PARTIAL}left" for path in (output, *others)]
    for leftover in leftovers:
        (leftover / "content").mkdir(parents=True)
    with staged_output(output) as staging:
        (staging / "new").write_text("new")
    left = {path.name for path in folder.iterdir()} - {name}
    assert left == {path.name for path in leftovers[1:] if path.name != leftovers[0].name}
    assert contents(output) == {"new": "new"}


def test_a_result_that_came_meanwhile_stays(tmp_path: Path) -> None:
    """A second run, or a file of the user's, appears where nothing was when the first began."""
    output = tmp_path / "out"

    def write(folder: Path) -> None:
        (folder / MANIFEST).write_text('{"schema": 1}')
        (output.with_name("out-2")).mkdir()
        output.mkdir()
        (output / "thesis.txt").write_text("years of work")

    message = r"was written to .*\nThe finished result is in .*out-3\."
    with pytest.raises(OutputError, match=message), staged_output(output) as folder:
        write(folder)
    assert contents(output) == {"thesis.txt": "years of work"}
    assert contents(output.with_name("out-3")) == {MANIFEST: '{"schema": 1}'}


def test_an_earlier_result_that_changed_meanwhile_stays(ours: Path) -> None:
    with pytest.raises(OutputError, match="was written to"), staged_output(ours, overwrite=True):
        replace_text(ours / "kept", "validated meanwhile")
    assert contents(ours)["kept"] == "validated meanwhile"


def test_a_run_that_was_killed_while_it_replaced_gives_the_old_result_back(ours: Path) -> None:
    """Where the system cannot swap two directories, the old one is moved away first."""
    before = contents(ours)
    leftover = ours.parent / f".{ours.name}{PARTIAL}left"
    leftover.mkdir()
    ours.rename(leftover / REPLACED)
    with scratch_beside(ours):
        assert contents(ours) == before
    assert [entry.name for entry in ours.parent.iterdir()] == ["out"]


@pytest.mark.parametrize("is_volume", [True, False])
def test_a_directory_that_cannot_be_renamed_is_filled_in_place(
    is_volume: bool, ours: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as a volume of a container, or what is in a directory that cannot be written."""
    if is_volume:
        monkeypatch.setattr(Path, "is_mount", lambda path: path == ours)
    else:
        # root may write anywhere
        monkeypatch.setattr(os, "access", lambda path, _: path == ours)
    node = ours.stat().st_ino
    with staged_output(ours, overwrite=True) as folder:
        assert ours in folder.parents, "on its own disk"
        (folder / MANIFEST).write_text('{"schema": 1, "new": 1}')
        (folder / "onnx").mkdir()
    assert ours.stat().st_ino == node
    assert {entry.name for entry in ours.iterdir()} == {MANIFEST, "onnx"}


def test_locks_keep_all_writers_changes(tmp_path: Path) -> None:
    """Processes that read, change and write one file lose nothing, and the lock leaves no file."""
    script = textwrap.dedent(f"""
        from pathlib import Path
        from amp_export.outputs.scratch import lock_output
        output = Path({str(tmp_path / "out")!r})
        for _ in range(20):
            with lock_output(output):
                count = int((output / "count").read_text())
                (output / "count").write_text(str(count + 1))
    """)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "count").write_text("0")
    processes = [subprocess.Popen([sys.executable, "-c", script]) for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert contents(tmp_path / "out") == {"count": "60"}
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]
