"""Revisions of a repository on the hub: what is asked of it, what its cache holds, and what is recorded."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import huggingface_hub
import pytest
from huggingface_hub import constants
from huggingface_hub.errors import RevisionNotFoundError
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from amp_export.api.export import export
from amp_export.api.prune import prune
from amp_export.checkpoints.hub import fetch_from_hub
from amp_export.checkpoints.hub_cache import CachedCommit, choose_commit, note_revision
from amp_export.checkpoints.sources import resolve_model
from amp_export.checkpoints.weight_files import SINGLE
from amp_export.cli import app
from amp_export.errors import ModelError
from amp_export.options import Format
from amp_export.outputs.lookup import require_export
from amp_export.outputs.manifest import Manifest
from amp_export.reporting.report import Report
from amp_export.reporting.reproduce import commands
from amp_export.verb_options import PruneOptions

REPO = "org/name"


def commit_of(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()[:40]


class Cache:
    """A hub cache as the hub's client lays it out, for one repository."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "models--org--name"
        self.age = 0

    def add(self, number: int, refs: Iterable[str] = (), *, files: Iterable[str | Path] = ("config.json",)) -> Path:
        """Adds a commit, newer than those before; files that are paths are copied."""
        snapshot = self.folder / "snapshots" / commit_of(number)
        snapshot.mkdir(parents=True)
        self.age += 10
        for file in files:
            target = snapshot / Path(file).name
            if isinstance(file, Path):
                shutil.copy(file, target)
            else:
                target.write_text("{}")
            os.utime(target, (self.age, self.age))
        for ref in refs:
            (self.folder / "refs" / ref).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / "refs" / ref).write_text(snapshot.name)
        return snapshot


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cache:
    folder = tmp_path / "hub"
    folder.mkdir()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    return Cache(folder)


def fetch(revision: str | None = None) -> Path:
    return fetch_from_hub(REPO, lambda _: None, revision=revision, allow_pickle=False)


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_without_a_network_each_name_of_a_cached_commit_finds_it(cache: Cache) -> None:
    old = cache.add(1, ["v1", "refs/pr/7"])
    cache.add(2, ["main"])
    for name in ("v1", "refs/pr/7", old.name, old.name[:7]):
        assert fetch(name) == old, name


def test_without_a_network_and_a_revision_the_main_branch_is_taken(cache: Cache) -> None:
    weights = ("config.json", SINGLE)
    only_config = cache.add(1, files=["config.json"])
    assert fetch() == only_config
    unnamed = cache.add(2, files=weights)
    cache.add(3, files=["config.json"])
    cache.add(4, files=[])
    assert fetch() == unnamed, "the newest that is complete"
    main = cache.add(5, ["main"], files=weights)
    cache.add(6, files=weights)
    cache.add(7, ["v1"], files=weights)
    assert fetch() == main
    assert fetch("v1").name == commit_of(7)


def test_a_commit_that_the_cache_lacks_is_exit_code_2(cache: Cache, tmp_path: Path) -> None:
    commit = cache.add(1, ["main", "v1"]).name
    for verb in (["doctor"], ["prune", "--ratio", "0.1"], ["export"], ["--to", "onnx"]):
        where = () if verb == ["doctor"] else ("--output", tmp_path / "out")
        shown = run(*verb, "--model", REPO, "--revision", "v2", *where)
        assert shown.exit_code == 2, shown.output
        told = " ".join(shown.stderr.split())
        assert f"No such revision of {REPO}: v2" in told
        assert f"its cache holds other revisions: main, v1 ({commit[:12]})" in told
        assert "give one of these with --revision" in told
    assert not (tmp_path / "out").exists()


NAMES = st.sampled_from(["main", "v1", "v2", "dev", "refs/pr/1", "abcdef0"])


@given(
    st.lists(st.tuples(st.frozensets(NAMES, max_size=3), st.floats(0, 9)), max_size=5),
    st.one_of(st.none(), NAMES, st.integers(0, 5).map(commit_of)),
)
def test_no_commit_is_taken_for_a_revision_that_it_is_not(
    described: list[tuple[frozenset[str], float]], revision: str | None
) -> None:
    absent = Path("/absent")
    commits = [CachedCommit(absent / commit_of(number), *each) for number, each in enumerate(described)]
    chosen = choose_commit(commits, revision)
    if chosen is None:
        assert not any(revision in {*commit.refs, commit.path.name} for commit in commits)
    elif revision is None:
        assert "main" in chosen.refs or not any("main" in commit.refs for commit in commits)
        assert "main" in chosen.refs or not chosen.refs
    else:
        assert revision in {*chosen.refs, chosen.path.name}


def serve(monkeypatch: pytest.MonkeyPatch, snapshot: Path, known: Iterable[str | None]) -> list[str | None]:
    """Lets the hub answer for some revisions, all of one commit; returns those that it is asked for."""
    asked: list[str | None] = []

    def model_info(_: object, __: str, *, revision: str | None, timeout: float) -> Any:
        assert timeout > 0
        asked.append(revision)
        if revision not in known:
            raise RevisionNotFoundError("404", response=MagicMock(headers={}))
        return SimpleNamespace(sha=snapshot.name, siblings=[SimpleNamespace(rfilename=SINGLE)])

    def snapshot_download(_: str, *, revision: str, allow_patterns: list[str]) -> str:
        assert revision == snapshot.name, "files of one commit, though the branch may move meanwhile"
        assert allow_patterns == [SINGLE]
        return str(snapshot)

    def list_repo_refs(*_: object) -> Any:
        return SimpleNamespace(branches=[SimpleNamespace(name="main")], tags=[SimpleNamespace(name="v1")])

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)
    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_refs", list_repo_refs)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return asked


@pytest.mark.parametrize("revision", [None, "v1", "refs/pr/1", commit_of(1), commit_of(1)[:8]])
def test_what_was_downloaded_is_found_again_without_a_network(
    revision: str | None, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = cache.add(1)
    cache.add(2, ["other"])
    with monkeypatch.context() as online:
        asked = serve(online, snapshot, [revision])
        assert fetch(revision) == snapshot
    assert asked == [revision]
    assert fetch(revision) == snapshot


def test_a_revision_that_the_hub_does_not_know_is_exit_code_2(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    serve(monkeypatch, cache.add(1), [None])
    shown = run("doctor", "--model", REPO, "--revision", "v2")
    assert shown.exit_code == 2
    told = " ".join(shown.stderr.split())
    assert f"{REPO} has no revision v2. Branches: main. Tags: v1. Give a branch, a tag or a commit" in told
    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_refs", lambda *_: 1 / 0)
    with pytest.raises(ModelError, match=r"has no revision v2\.\nGive"):
        fetch("v2")


def test_no_name_of_a_branch_is_written_outside_of_the_cache(cache: Cache, tmp_path: Path) -> None:
    snapshot = cache.add(1)
    before = sorted(tmp_path.rglob("*"))
    for name in ("../../../x", str(tmp_path / "y"), "..", "."):
        note_revision(snapshot, name)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("kind", ["a local directory", "a local file", "the demo model"])
def test_only_repositories_on_the_hub_have_revisions(kind: str, tmp_path: Path) -> None:
    (tmp_path / "m.gguf").touch()
    model = {"a local directory": tmp_path, "a local file": tmp_path / "m.gguf", "the demo model": "demo"}[kind]
    shown = run("doctor", "--model", model, "--revision", "v1")
    assert shown.exit_code == 2
    told = " ".join(shown.stderr.split())
    assert "--revision v1 does not apply to" in told
    assert f"which is {kind}: only repositories on the hub have revisions. Leave --revision out" in told


def test_an_empty_revision_is_refused() -> None:
    with pytest.raises(ModelError, match="--revision is empty"):
        resolve_model(REPO, revision="")


@pytest.mark.parametrize("revision", ["v1", None])
def test_the_manifest_and_the_commands_of_the_report_name_the_commit(
    revision: str | None, cache: Cache, tiny_llama: Path, tmp_path: Path
) -> None:
    commit = cache.add(1, ["main", "v1"], files=tiny_llama.iterdir()).name
    pruned = tmp_path / "pruned"
    prune(REPO, pruned, PruneOptions(ratio=0.1), revision=revision)
    exported = tmp_path / "exported"
    export(REPO, exported, revision=revision)
    for output in (pruned, exported):
        manifest = Manifest.load(output)
        assert (manifest.source.revision, manifest.source.commit) == (revision, commit)
        assert manifest.source.name == ("org/name at v1" if revision else REPO)
        first, *_ = commands(Report.of(manifest), manifest)
        assert f"--model {REPO} --revision {commit}" in first
    assert Report.load(pruned).model == manifest.source.name
    with pytest.raises(OSError, match=f"--model {REPO} --revision {commit} --output"):
        require_export(exported, Manifest.load(exported), Format.OPENVINO)


def test_a_directory_has_no_commit(tiny_llama: Path) -> None:
    source = resolve_model(tiny_llama)
    assert (source.revision, source.commit) == (None, None)
