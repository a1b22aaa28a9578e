from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from amp_export.errors import AmpExportError, ClusterError, MissingExtraError, RequestError, VerificationError
from amp_export.progress import Silent
from amp_export.sweeping.executors import Executor, InProcess, Job
from amp_export.sweeping.ray_cluster import RETRIES, connected_to
from amp_export.verb_options import PruneOptions
from tests.support import PROJECT
from tests.sweeping import jobs as work


class Notes(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)


def job(output: Path, model: str = "0") -> Job:
    return Job(model, None, output, PruneOptions(ratio=0.2), None)


def test_without_ray_the_command_to_install_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r'pip install "amp-export\[sweep\]"'), connected_to("local"):
        pass


def test_in_this_process_jobs_run_in_turn(tmp_path: Path) -> None:
    given = [job(tmp_path / name) for name in "ab"]
    for number, done in enumerate(InProcess().run(work.write_manifest, given, Silent())):
        assert done == given[number]
        assert len(list(tmp_path.iterdir())) == number + 1


@pytest.fixture(scope="module")
def cluster() -> Iterator[Executor]:
    pytest.importorskip("ray", reason="ray is not installed")
    with connected_to("local") as executor:
        yield executor


@pytest.mark.slow
def test_jobs_run_on_the_cluster(cluster: Executor, tmp_path: Path) -> None:
    given = [job(tmp_path / name) for name in "abc"]
    assert sorted(cluster.run(work.write_manifest, given, Silent()), key=str) == given
    assert list(cluster.run(work.write_manifest, [], Silent())) == []


@pytest.mark.slow
def test_a_worker_that_was_killed_is_replaced(cluster: Executor, tmp_path: Path) -> None:
    progress = Notes()
    given = [job(tmp_path / "never"), job(tmp_path / "twice", str(RETRIES))]
    assert set(cluster.run(work.die_first, given, progress)) == set(given)
    assert [note for note in progress.notes if "died" in note] == [
        f"The worker for twice died, so that it is started again: {number} of {RETRIES + 1}." for number in (2, 3)
    ]
    with pytest.raises(ClusterError, match=f"worker for always on the Ray cluster at local died {RETRIES + 1} times"):
        list(cluster.run(work.die_first, [job(tmp_path / "always", "99")], Silent()))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "kind", "said"),
    [
        ("verify", VerificationError, "It computes something else."),
        (
            "extra",
            RequestError,
            'Reading .gguf files needs an optional dependency.\nInstall it: pip install "amp-export',
        ),
        ("bug", ClusterError, "cannot run a: ZeroDivisionError: division by zero\nInstall the same version"),
    ],
)
def test_errors_of_jobs_arrive(
    model: str, kind: type[AmpExportError], said: str, cluster: Executor, tmp_path: Path
) -> None:
    with pytest.raises(kind) as raised:
        list(cluster.run(work.fail, [job(tmp_path / "a", model)], Silent()))
    assert type(raised.value) is kind
    assert said in str(raised.value)


@pytest.mark.slow
def test_a_disk_that_is_not_shared_is_noticed(cluster: Executor, tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match=r"made a, but it is not in .*\nGive an --output on a disk that all nodes"):
        list(cluster.run(work.write_nothing, [job(tmp_path / "a")], Silent()))


@pytest.mark.slow
def test_a_cluster_that_is_not_there_is_named() -> None:
    pytest.importorskip("ray", reason="ray is not installed")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{closed.getsockname()[1]}"
        for name in (address, "nonsense", "host:", ":6379", "host:port", "host:99999"):
            with pytest.raises(ClusterError) as raised, connected_to(name):
                pass
            assert str(raised.value).startswith(f"The Ray cluster at {name} cannot be reached: ")
            assert raised.value.exit_code == 2


@pytest.mark.slow
def test_points_are_made_on_a_cluster_of_this_machine(tiny_llama: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="ray is not installed")
    (tmp_path / "prompts.txt").write_text("\n".join(f"Say the number {number}." for number in range(10)))
    options = ("--model", tiny_llama, "--criteria", "amp,random", "--ratios", "0.2", "--calibration", "prompts.txt")
    options = (*options, "--snap", "1", "--fitting-tokens", "128", "--json", "--output")
    found = []
    for output, more in (("here", ()), ("there", ("--ray", "local"))):
        command = [sys.executable, "-m", "amp_export", "compare", *map(str, (*options, output, *more))]
        environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
        result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment)
        assert result.returncode == 0, result.stderr
        found.append(json.loads(result.stdout)["points"])
    assert [each["point"] for each in found[0]] == [each["point"] for each in found[1]]
    for here, there in zip(*found, strict=True):
        assert here["numbers"] == pytest.approx(there["numbers"], rel=1e-3)
        name = f"{here['point']['criterion']}-0.2"
        assert (tmp_path / "here" / name / "plan.json").read_text() == (
            tmp_path / "there" / name / "plan.json"
        ).read_text()
