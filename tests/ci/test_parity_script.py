"""What other teams run in their CI: `ci/parity.sh` and `ci/parity.yml`."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support import PROJECT
from tests.support.shared import Converted

pytestmark = pytest.mark.slow

SCRIPT = PROJECT / "ci/parity.sh"


def run_parity(folder: Path, *, path: str | None = None, **settings: str) -> subprocess.CompletedProcess[str]:
    """Runs the script in a folder, as CI would; settings are named without their beginning."""
    given = {f"AMP_EXPORT_{name.upper()}": value for name, value in {"threads": "1", **settings}.items()}
    path = path or f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "NO_COLOR": "1", **given}
    command = ["bash", str(SCRIPT)]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_the_script_exports_validates_and_fails_on_thresholds(
    converted: Callable[[str], Converted], tmp_path: Path
) -> None:
    (tmp_path / "amp-export.toml").write_text("[thresholds]\nmax_kl = 1e-3\n")
    checkpoint = str(converted("llama").checkpoint)
    done = run_parity(tmp_path, model=checkpoint, baseline="baseline.json", update_baseline="yes")
    assert done.returncode == 0, done.stderr
    assert "max_kl: holds" in done.stderr
    assert {"report.json", "report.md"} <= {file.name for file in (tmp_path / "out").iterdir()}
    (tmp_path / "strict.toml").write_text('[thresholds]\nmax_size = "1 kB"\n')
    done = run_parity(tmp_path, thresholds="strict.toml", baseline="baseline.json")
    assert done.returncode == 1
    assert "max_size: FAILS" in done.stderr
    assert "size: holds" in done.stderr


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ratio": "0.1"}, "AMP_EXPORT_RATIO needs the AMP_EXPORT_MODEL"),
        ({"revision": "v1"}, "AMP_EXPORT_REVISION needs the AMP_EXPORT_MODEL"),
        ({"model": ".", "revision": "v1"}, "--revision v1 does not apply to ., which is a local directory"),
        ({"model": ".", "revision": "v1", "ratio": "0.1"}, "--revision v1 does not apply to"),
        ({"benchmark": "maybe"}, 'AMP_EXPORT_BENCHMARK is "maybe"; it is yes or no'),
        ({"output": "absent"}, "No such directory: absent"),
        ({"path": "/usr/bin:/bin"}, "amp-export is not installed here"),
    ],
)
def test_what_the_script_cannot_do_it_says(tmp_path: Path, settings: dict[str, str], message: str) -> None:
    done = run_parity(tmp_path, **settings)
    assert done.returncode == 2
    assert message in done.stderr


def workflow() -> dict[str, Any]:
    # YAML 1.1 reads the key `on` as true
    content: dict[Any, Any] = yaml.safe_load((PROJECT / "ci/parity.yml").read_text())
    return {"on" if key is True else key: value for key, value in content.items()}


def test_the_workflow_passes_each_input_on() -> None:
    content = workflow()
    inputs = content["on"]["workflow_call"]["inputs"]
    assert all({"type", "default"} <= facts.keys() for facts in inputs.values())
    used = re.findall(r"\binputs\.([\w-]+)", yaml.safe_dump(content["jobs"]))
    assert set(used) == inputs.keys()


def test_the_workflow_tells_the_script_what_it_knows_and_no_input_is_read_as_shell() -> None:
    (job,) = workflow()["jobs"].values()
    steps = {step["name"]: step for step in job["steps"] if "name" in step}
    told = steps["Export, validate, measure"]["env"].keys() - {"SCRIPT"}
    assert told <= set(re.findall(r"AMP_EXPORT_\w+", SCRIPT.read_text()))
    assert all("${{" not in step.get("run", "") for step in job["steps"])


def test_reports_are_kept_when_parity_fails() -> None:
    (job,) = workflow()["jobs"].values()
    (upload,) = (step for step in job["steps"] if step.get("uses", "").startswith("actions/upload-artifact@"))
    assert upload["if"] == "${{ !cancelled() }}"
    assert upload["with"]["path"].endswith("/report.*")


def test_the_guide_tells_every_setting() -> None:
    guide = (PROJECT / "docs/ci.md").read_text()
    head = SCRIPT.read_text().partition("set -euo")[0]
    settings = set(re.findall(r"AMP_EXPORT_\w+", SCRIPT.read_text()))
    assert settings == set(re.findall(r"^#   (AMP_EXPORT_\w+) ", head, re.MULTILINE))
    assert "ci/parity.sh" in guide
    assert all(name in guide for name in settings)


@pytest.mark.parametrize("file", [PROJECT / "ci/parity.yml", *(PROJECT / ".github/workflows").glob("*.yml")], ids=str)
def test_actions_are_pinned_by_commit(file: Path) -> None:
    used = re.findall(r"^\s*-?\s*uses: (\S+)@(\S+)", file.read_text(), flags=re.MULTILINE)
    assert used
    assert all(re.fullmatch("[0-9a-f]{40}", commit) for _, commit in used), used
