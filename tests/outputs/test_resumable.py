"""A directory beside an output that a run which is stopped leaves to the next one."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest

from amp_export.errors import OutputError
from amp_export.outputs.manifest import Manifest, SourceRecord
from amp_export.outputs.resumable import has_unfinished, resumable_beside
from amp_export.outputs.scratch import scratch_beside
from amp_export.outputs.staging import check_output, extended_output


@pytest.fixture(params=["beside", "inside"])
def output(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An output whose temporary files are beside it, or in it, as in a volume of a container."""
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "plan.json").write_text("{}")
    Manifest(source=SourceRecord("tiny", "tiny", "0"), config_before={}).save(folder)
    if request.param == "inside":
        monkeypatch.setattr(Path, "is_mount", lambda path: path == folder)
    return folder


def stop(output: Path, *, resume: bool = False, content: str | None = "half") -> None:
    with contextlib.suppress(KeyboardInterrupt), resumable_beside(output, resume=resume) as folder:
        if content is not None:
            (folder / "state").write_text(content)
        raise KeyboardInterrupt


def test_what_a_stopped_run_wrote_is_there_again(output: Path) -> None:
    assert not has_unfinished(output)
    stop(output)
    assert has_unfinished(output)
    with resumable_beside(output, resume=True) as folder:
        assert (folder / "state").read_text() == "half"
    assert not has_unfinished(output)
    assert os.listdir(output.parent) == ["out"]  # noqa: PTH208
    assert sorted(entry.name for entry in output.iterdir()) == ["amp_export.json", "plan.json"]


def test_without_resume_it_begins_empty(output: Path) -> None:
    stop(output)
    with resumable_beside(output, resume=False) as folder:
        assert list(folder.iterdir()) == []


def test_a_run_that_wrote_nothing_leaves_nothing(output: Path) -> None:
    stop(output, content=None)
    assert not has_unfinished(output)


def test_other_commands_neither_remove_it_nor_count_it_as_part_of_the_output(output: Path) -> None:
    stop(output)
    with scratch_beside(output):
        pass
    with extended_output(output) as folder:
        assert sorted(entry.name for entry in folder.iterdir()) == ["amp_export.json", "plan.json"]
        Manifest.load(folder).with_hashes(folder).write(folder)
    check_output(output, overwrite=True)
    assert list(Manifest.load(output).with_hashes(output).files) == ["plan.json"]
    assert has_unfinished(output)


def test_two_runs_at_once_are_refused(output: Path) -> None:
    with resumable_beside(output, resume=False) as folder:
        (folder / "state").write_text("of the first")
        with pytest.raises(OutputError, match="Another command is working on"), resumable_beside(output, resume=False):
            raise AssertionError("it was let in")
        assert (folder / "state").read_text() == "of the first"
