from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from amp_export.integrations import pytest_plugin
from tests.support import PROJECT
from tests.support.shared import Converted

EXAMPLE = PROJECT / "examples/test_parity.py"

MORE_TESTS = """
import pytest

@pytest.mark.amp_parity("out", threads=1, cases="cases.json")
def test_by_marker(amp_parity):
    assert [case.name for case in amp_parity().cases] == ["one of 3 tokens"]

def test_of_another_checkpoint(amp_parity):
    amp_parity(checkpoint="checkpoint", graph="out/onnx", cases="cases.json")

def test_of_a_file(amp_parity):
    amp_parity(checkpoint="out/pruned", graph="out/onnx/model.onnx", cases="cases.json")

def test_of_nothing(amp_parity):
    amp_parity()

def test_of_what_is_not_there(amp_parity):
    amp_parity("nowhere")

@pytest.mark.amp_parity("out", thread=1)
def test_by_a_marker_with_a_typing_error(amp_parity):
    pass

def test_of_something_else():
    pass
"""


def run_pytest(folder: Path, *options: str) -> tuple[int, str]:
    """Runs the tests of a folder as their author would, with every warning an error."""
    command = [sys.executable, "-m", "pytest", "-W", "error", "-p", "no:cacheprovider", "--strict-markers", *options]
    # coverage that is measured of this process takes its directories from the environment, relative to this project
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SLIPCOVER")}
    environment |= {"PYTEST_ADDOPTS": "", "COLUMNS": "200"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def team(converted: Callable[[str], Converted], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository of a team with tests of its own; the example is one of them, as it is."""
    folder = tmp_path_factory.mktemp("team")
    (folder / "out").symlink_to(converted("llama").output)
    (folder / "checkpoint").symlink_to(converted("llama").checkpoint)
    (folder / "test_parity.py").write_text(EXAMPLE.read_text())
    (folder / "test_more.py").write_text(MORE_TESTS)
    (folder / "cases.json").write_text('[{"name": "one of 3 tokens", "prompt_lengths": [3]}]')
    return folder


@pytest.mark.slow
def test_teams_assert_parity(team: Path) -> None:
    before = (team / "out/report.json").read_bytes()
    code, text = run_pytest(team, "-rA")
    assert code == 1
    assert "3 failed, 4 passed, 1 error" in text
    for passed in (
        "test_parity.py::test_graph",
        "test_more.py::test_by_marker",
        "test_more.py::test_of_something_else",
    ):
        assert f"PASSED {passed}" in text
    assert "PASSED test_more.py::test_of_a_file" in text
    assert "The graph (float32) does not compute what its checkpoint computes" in text
    assert "one of 3 tokens  " in text
    assert "No such directory: nowhere" in text
    assert 'Call amp_parity("out")' in text
    assert "does not know thread" in text
    # no stack trace of this package
    assert "pytest_plugin.py" not in text
    assert "During handling" not in text
    assert (team / "out/report.json").read_bytes() == before


def test_the_slow_tests_can_be_left_out(team: Path) -> None:
    code, text = run_pytest(team, "-q", "-m", "not amp_parity")
    assert code == 0
    assert "1 passed, 7 deselected" in text


def test_loading_it_imports_nothing_heavy() -> None:
    code = (
        "import sys, pytest; before = set(sys.modules); import amp_export.integrations.pytest_plugin;"
        "new = [name for name in set(sys.modules) - before if not name.startswith('amp_export')];"
        "assert not new[5:], new"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_table_has_its_columns_one_below_another() -> None:
    assert pytest_plugin._table([("a", "bb"), ("ccc", "d")]) == ["a    bb", "ccc   d"]
