"""A checkpoint that changes while it is read is noticed."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from amp_export.api.export import export
from amp_export.api.prune import prune
from amp_export.api.validate import validate
from amp_export.checkpoints.reading import take_snapshot
from amp_export.errors import ModelError, VerificationError
from amp_export.progress import Advance, Silent
from amp_export.verb_options import PruneOptions, ValidateOptions


def _touch(file: Path) -> None:
    file.write_bytes(file.read_bytes())


def _replace(file: Path) -> None:
    other = file.with_suffix(".new")
    shutil.copy2(file, other)
    other.replace(file)


@pytest.fixture
def checkpoint(tiny_llama: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_llama, tmp_path / "checkpoint"))


@pytest.mark.parametrize("change", [_touch, _replace, Path.unlink])
@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_file_that_changes_is_named(change: Callable[[Path], None], name: str, checkpoint: Path) -> None:
    snapshot = take_snapshot(checkpoint)
    with pytest.raises(ModelError, match=f"{name} changed while it was read"), snapshot.held():
        change(checkpoint / name)


def test_files_of_others_may_change(checkpoint: Path) -> None:
    with take_snapshot(checkpoint).held():
        (checkpoint / "trainer_state.json").write_text("{}")


def test_a_file_that_appears_is_named(checkpoint: Path) -> None:
    snapshot = take_snapshot(checkpoint)
    with pytest.raises(ModelError, match="generation_config"), snapshot.held():
        (checkpoint / "generation_config.json").write_text("{}")


def test_a_change_explains_the_error_that_it_caused(checkpoint: Path) -> None:
    snapshot = take_snapshot(checkpoint)
    _touch(checkpoint / "config.json")
    with pytest.raises(ModelError, match="changed while it was read") as caught, snapshot.held():
        raise VerificationError("other logits")
    assert isinstance(caught.value.__cause__, VerificationError)


def test_an_error_without_a_change_stays_itself(checkpoint: Path) -> None:
    with pytest.raises(VerificationError, match="other logits"), take_snapshot(checkpoint).held():
        raise VerificationError("other logits")


class Disturber(Silent):
    """Changes a file when a step begins, once: a second copy could get the inode of the first."""

    def __init__(self, file: Path, step: str) -> None:
        self.file, self.name = file, step

    @contextmanager
    def step(self, description: str) -> Iterator[Advance]:
        if self.name and description.startswith(self.name):
            self.name = ""
            _replace(self.file)
        with super().step(description) as advance:
            yield advance


@pytest.mark.slow
@pytest.mark.parametrize("step", ["Loading", "Writing", "Reloading"])
def test_pruning_notices_it(step: str, checkpoint: Path, tmp_path: Path) -> None:
    options = PruneOptions(ratio=0.1, snap=1)
    disturber = Disturber(checkpoint / "model.safetensors", step)
    with pytest.raises(ModelError, match="changed while it was read"):
        prune(checkpoint, tmp_path / "out", options, progress=disturber)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_exporting_and_validating_notice_it(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="changed while it was read"):
        export(checkpoint, tmp_path / "out", progress=Disturber(checkpoint / "config.json", "Exporting"))
    export(checkpoint, tmp_path / "out")
    disturber = Disturber(checkpoint / "tokenizer.json", "Running PyTorch")
    with pytest.raises(ModelError, match="changed while it was read"):
        validate(tmp_path / "out", ValidateOptions(threads=1), progress=disturber)
