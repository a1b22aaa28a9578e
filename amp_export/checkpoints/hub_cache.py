"""Find what the Hugging Face hub's client has cached of a repository, and note which branch or tag it was.

The layout is described at https://huggingface.co/docs/huggingface_hub/guides/manage-cache: a snapshot's folder is named
by its commit, and a file in `refs`, named by a branch or a tag, holds the commit that it was when last asked for.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from amp_export.checkpoints.weight_files import weight_files
from amp_export.errors import ModelError

MAIN = "main"
"""The revision that the hub takes where none is named."""

SHOWN_LETTERS = 12
"""Letters of a commit in a message; git itself shows 7 or more."""

_SHORT_COMMIT = re.compile(r"[0-9a-f]{7,40}")


@dataclass(frozen=True)
class CachedCommit:
    """A commit of a repository in the hub's cache.

    Attributes:
        path: Its snapshot's folder, which is named by the commit.
        refs: Branches and tags that it was when they were last asked for.
        last_modified: Time of the last change, in seconds since 1970.
    """

    path: Path
    refs: frozenset[str]
    last_modified: float

    def is_of(self, revision: str | None) -> bool:
        """Return whether it is what a branch, a tag or a commit names; without one, what may be the main branch."""
        if revision is None:
            # earlier versions, and downloads of a commit, note no branch
            return MAIN in self.refs or not self.refs
        short = bool(_SHORT_COMMIT.fullmatch(revision)) and self.path.name.startswith(revision)
        return revision in self.refs or short

    def __str__(self) -> str:
        """Return its branches and tags, and the start of the commit."""
        commit = self.path.name[:SHOWN_LETTERS]
        return f"{', '.join(sorted(self.refs))} ({commit})" if self.refs else commit


def cached_commits(repo_id: str) -> list[CachedCommit]:
    """Return the commits of a model in the hub's cache that have a config, the newest first."""
    from huggingface_hub import constants, scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        found = scan_cache_dir(constants.HF_HUB_CACHE).repos
    except CacheNotFound:
        return []
    revisions = (
        revision
        for repository in found
        if repository.repo_type == "model" and repository.repo_id == repo_id
        for revision in repository.revisions
    )
    commits = (CachedCommit(each.snapshot_path, each.refs, each.last_modified) for each in revisions)
    with_config = (commit for commit in commits if (commit.path / "config.json").is_file())
    return sorted(with_config, key=lambda commit: commit.last_modified, reverse=True)


def choose_commit(commits: Iterable[CachedCommit], revision: str | None) -> CachedCommit | None:
    """Return the commit that a revision names; without one, the main branch, or else the newest that may be it.

    Commits whose weights are complete come first.
    """
    fit = [commit for commit in commits if commit.is_of(revision)]
    fit.sort(key=lambda commit: MAIN in commit.refs if revision is None else True, reverse=True)
    return next(filter(_has_weights, fit), next(iter(fit), None))


def note_revision(snapshot: Path, revision: str | None) -> None:
    """Note in the cache that a branch or a tag is a snapshot's commit, so that it is found again without a network.

    The hub's client notes only what it is asked for by that name, while snapshots are asked for by their commit.

    Args:
        snapshot: The snapshot's folder.
        revision: The branch, tag or commit; by default, the main branch.
    """
    name, refs = revision or MAIN, snapshot.parents[1] / "refs"
    file = refs / name
    if snapshot.name.startswith(name) or refs.resolve() not in file.resolve().parents:
        return
    # a shared cache may be read-only, and is then of use as it is
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(snapshot.name, encoding="ascii")


def _has_weights(commit: CachedCommit) -> bool:
    try:
        weight_files(commit.path)
    except ModelError:
        return False
    return True
