"""Build source package and wheel, and check them: python ci/package.py DIR.

The wheel is built from the source package, so it shows whether both are complete: it must contain the plug-in of
optimum-cli and every file of `amp_export`, which has a link to `exporters`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

PROJECT = Path(__file__).parents[1]
NAMESPACES = "amp_export/namespaces/"


def expected_files() -> set[str]:
    """Return the names of the files that the wheel must contain, besides its metadata."""
    found = set()
    for folder, _, names in os.walk(PROJECT / "amp_export", followlinks=True):
        found |= {(Path(folder) / name).relative_to(PROJECT).as_posix() for name in names if not name.endswith(".pyc")}
    return {name.removeprefix(NAMESPACES) for name in found}


def main() -> int:
    """Build and check both packages."""
    folder = Path(sys.argv[1])
    command = [sys.executable, "-m", "build", "--outdir", str(folder), str(PROJECT)]
    built = subprocess.run(command, check=False, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if built.returncode:
        print(built.stdout, file=sys.stderr)
        return 1
    packages = sorted(folder.iterdir())
    subprocess.run([sys.executable, "-m", "twine", "check", "--strict", *packages], check=True)
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        found = {name for name in wheel.namelist() if ".dist-info/" not in name}
    expected = expected_files()
    for problem, names in (("lacks", expected - found), ("should not hold", found - expected)):
        for name in sorted(names):
            print(f"The wheel {problem} {name}.", file=sys.stderr)
    return int(expected != found)


if __name__ == "__main__":
    sys.exit(main())
