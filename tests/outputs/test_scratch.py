"""Errors of the system while an output is written: the file that the system names is the one that is blamed."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amp_export.errors import OutputError
from amp_export.outputs.scratch import scratch_beside, translate_os_errors

FOLDER = Path(tempfile.gettempdir()) / "no such folder"
OUTPUT = FOLDER / "results/out"

OF_THE_OUTPUT = (OUTPUT, OUTPUT / "onnx/model.onnx", OUTPUT.parent, FOLDER, OUTPUT.parent / ".out.lock",
                 OUTPUT.parent / ".out.partial-1/content/scores.safetensors")  # fmt: skip
ELSEWHERE = (FOLDER / "checkpoint/model.safetensors", OUTPUT.parent / "out-2/a", OUTPUT.parent / ".other.lock",
             Path.home() / ".cache/a", OUTPUT.parent / "prompts.txt")  # fmt: skip
NUMBERS = st.sampled_from([errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT])


def said(error: OSError, output: Path = OUTPUT) -> str:
    with pytest.raises(OutputError) as caught, translate_os_errors(output):
        raise error
    return str(caught.value)


@given(NUMBERS, st.sampled_from(OF_THE_OUTPUT), st.sampled_from([str, os.fsencode, Path]))
def test_a_file_of_the_output_is_blamed_on_the_output(number: int, file: Path, kind: type) -> None:
    message = said(OSError(number, os.strerror(number), kind(file)))
    assert f"{OUTPUT} " in message.splitlines()[0]
    assert "--output" in message
    assert os.strerror(number) in message


@given(NUMBERS, st.sampled_from(ELSEWHERE), st.sampled_from([str, os.fsencode, Path]))
def test_another_file_is_blamed_itself(number: int, file: Path, kind: type) -> None:
    message = said(OSError(number, os.strerror(number), kind(file)))
    assert f"{file} " in message
    assert f"{OUTPUT} " not in message
    assert "--output" not in message


@given(NUMBERS, st.sampled_from(ELSEWHERE))
def test_moving_a_file_to_the_output_is_about_the_output(number: int, file: Path) -> None:
    assert f"{OUTPUT} " in said(OSError(number, os.strerror(number), str(file), None, str(OUTPUT)))


@given(NUMBERS, st.sampled_from([None, 3]))
def test_an_error_without_a_name_is_about_the_output(number: int, descriptor: int | None) -> None:
    message = said(OSError(number, os.strerror(number), descriptor))
    assert f"{OUTPUT} " in message
    assert "None" not in message


def test_a_link_to_the_output_is_the_output(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "shared/baseline.json")
    error = PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "shared/baseline.json"))
    assert f"{tmp_path / 'link'} cannot be written" in said(error, tmp_path / "link")


def test_a_checkpoint_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    with pytest.raises(OutputError, match="Change its permissions") as caught, scratch_beside(tmp_path / "out"):
        raise PermissionError(errno.EACCES, "Permission denied", str(file))
    assert str(caught.value).startswith(f"{file} cannot be opened")
