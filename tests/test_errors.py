"""Helpers of messages: commands to copy, of which a shell reads the same words, and errors of the system."""

from __future__ import annotations

import ast
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amp_export.errors import OutputError, command_line, system_error
from amp_export.options import Format
from amp_export.outputs.lookup import require_export
from amp_export.outputs.manifest import Manifest, SourceRecord
from amp_export.outputs.staging import require_directory
from tests.support import PROJECT

NAMES = st.text(st.sampled_from("ab '\"$;&*~()#\\\\é-"), min_size=1, max_size=12)
INTERPOLATED = re.compile(r"(amp-export\b[^\n]* --[a-z-]+ |pip install |hf download )\{|\} -m \w")
"""A value that stands in a command by itself, without `command_line`; values are written as braces."""


@given(st.lists(NAMES, min_size=1))
def test_a_shell_reads_the_words(words: list[str]) -> None:
    assert shlex.split(command_line(*words)) == words


@given(NAMES, NAMES)
def test_the_command_of_a_missing_export_names_the_paths(model: str, output: str) -> None:
    manifest = Manifest(source=SourceRecord(model, "/nowhere", "0" * 64), config_before={})
    with pytest.raises(OutputError) as caught:
        require_export(Path("/nowhere") / output, manifest, Format.OPENVINO)
    command = str(caught.value).split("\nExport it: ")[-1]
    assert shlex.split(command) == [
        "amp-export", "export", "--to", "openvino", "--model", model, "--output", f"/nowhere/{output}"
    ]  # fmt: skip


@given(NAMES)
def test_the_command_of_a_missing_directory_names_it(output: str) -> None:
    with pytest.raises(OutputError) as caught:
        require_directory(Path("/nowhere") / output)
    assert shlex.split(str(caught.value).split("Create it first: ")[-1])[-1] == f"/nowhere/{output}"


@given(st.integers(1, 133), st.text())
def test_the_number_of_a_system_error_is_found_however_it_is_told(number: int, text: str) -> None:
    assert system_error(OSError(number, text)) == number
    assert system_error(RuntimeError(f"IO Error: {os.strerror(number)} (os error {number})")) == number
    assert system_error(OSError(text.replace("(", ""))) is None


def texts(folder: Path) -> Iterator[tuple[str, str]]:
    """The f-strings of all modules, with braces in place of values."""
    for file in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = (part.value if isinstance(part, ast.Constant) else _shown(part) for part in node.values)
                yield f"{file.relative_to(PROJECT)}:{node.lineno}", "".join(map(str, parts))


def _shown(part: ast.expr) -> str:
    assert isinstance(part, ast.FormattedValue)
    # what is quoted already, and module constants, are no values
    quoted = isinstance(part.value, ast.Call) and ast.unparse(part.value.func) in {"command_line", "_quote"}
    constant = isinstance(part.value, ast.Name) and part.value.id.isupper()
    return "word" if quoted or constant else "{}"


def test_no_command_is_put_together_by_hand() -> None:
    found = [place for folder in ("amp_export", "exporters") for place, text in texts(PROJECT / folder)
             if INTERPOLATED.search(text)]  # fmt: skip
    assert found == []


def test_the_search_finds_commands_that_are_put_together_by_hand() -> None:
    assert INTERPOLATED.search("Create it first: amp-export --to onnx --output {}")
    assert INTERPOLATED.search("Install it there: {} -m pip install onnxruntime")
    assert not INTERPOLATED.search("amp-export {} measures it")
