"""An unpacked bundle on the device: its manifest, and the check of its files against it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import RunError

SCHEMA = 1
"""Newest schema of bundles that these scripts support."""

MANIFEST = "manifest.json"
SUBJECTS = ("dense", "pruned")
"""The two graphs, in the order of reports; each is the name of a folder."""

_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Bundle:
    """An unpacked bundle.

    Attributes:
        folder: Its folder.
        manifest: Content of `manifest.json`.
        identity: SHA-256 of that file, which contains the hashes of the files that it lists.
    """

    folder: Path
    manifest: dict[str, Any]
    identity: str

    @property
    def work(self) -> Path:
        """Folder for engines, logs and locks: files of the device, which are not in the manifest."""
        return self.folder / "work"

    def graph(self, subject: str) -> Path:
        """Return the ONNX file of a subject."""
        return self.folder / subject / "model.onnx"

    def weight_bytes(self, subject: str) -> int:
        """Return the size of a subject's graph and weights."""
        files = self.manifest["files"].items()
        return sum(int(facts["bytes"]) for name, facts in files if name.startswith(subject + "/model.onnx"))


def open_bundle(folder: Path) -> Bundle:
    """Read the manifest of an unpacked bundle.

    Raises:
        RunError: The manifest is missing or damaged, or newer than these scripts.
    """
    file = folder / MANIFEST
    try:
        content = file.read_bytes()
        manifest = json.loads(content.decode("utf-8"))
        schema = int(manifest["schema"])
    except FileNotFoundError:
        raise RunError(f"{MANIFEST} is missing.\nUnpack the bundle again.") from None
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{MANIFEST} is damaged: {error!r}\nUnpack the bundle again.") from error
    if schema > SCHEMA:
        raise RunError(
            f"This bundle has schema {schema}, but its scripts support up to {SCHEMA}.\n"
            "Their versions differ: make the bundle again and unpack it into an empty folder."
        )
    return Bundle(folder, manifest, hashlib.sha256(content).hexdigest())


def check_files(bundle: Bundle) -> None:
    """Check every file against the manifest.

    Raises:
        RunError: A file is missing, truncated or changed; the message names the first.
    """
    again = "Copy the bundle again and unpack it into an empty folder; you may keep work/ with its engines."
    for name, facts in sorted(bundle.manifest["files"].items()):
        file = bundle.folder / name
        if not file.is_file():
            raise RunError(f"{name} is missing.\n{again}")
        size = file.stat().st_size
        if size != facts["bytes"]:
            raise RunError(f"{name} is damaged: it has {size} bytes instead of {facts['bytes']}.\n{again}")
        found = hash_file(file)
        if found != facts["sha256"]:
            raise RunError(
                f"{name} is damaged: its SHA-256 begins with {found[:12]}, but the manifest has "
                f"{facts['sha256'][:12]}.\n{again}"
            )


def hash_file(file: Path) -> str:
    """Return the SHA-256 of a file."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while True:
            chunk = stream.read(_CHUNK_BYTES)
            if not chunk:
                return digest.hexdigest()
            digest.update(chunk)
