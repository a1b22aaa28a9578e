"""A sample of the attacks of `ci/attack.py`: none succeeds."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support import PROJECT

pytestmark = pytest.mark.slow


def test_no_attack_of_a_sample_succeeds() -> None:
    command = [sys.executable, "ci/attack.py", "--sample", "--jobs", "1"]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
