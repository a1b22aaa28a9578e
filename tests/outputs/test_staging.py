from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from amp_export.errors import OutputError
from amp_export.outputs import staging as outputs
from amp_export.outputs.names import MANIFEST
from amp_export.outputs.staging import check_output, staged_output


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
    with staged_output(ours, extend=True) as folder:
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
    finished = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
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


def test_two_runs_at_once_do_not_take_each_others_place(ours: Path) -> None:
    alive = ours.parent / f".{ours.name}.partial-{os.getppid()}"
    alive.mkdir()
    with staged_output(ours, overwrite=True):
        assert alive.is_dir(), "the parent process is running: its work is not a leftover"
