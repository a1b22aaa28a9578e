"""Run the commands of a README in order: python ci/readme_commands.py README.md.

Every line of a fenced block marked `bash` is a command, and every block marked `python` is a script. Scripts of this
repository (`bash ...`), which CI runs separately, `pip` commands, and blocks with other marks are skipped.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

BLOCK = re.compile(r"^```(bash|python)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def commands(text: str) -> list[list[str]]:
    """Return the commands as argument lists."""
    found: list[list[str]] = []
    for language, body in BLOCK.findall(text):
        if language == "python":
            found.append([sys.executable, "-c", body])
        else:
            lines = (line.split("  #")[0].strip() for line in body.splitlines())
            found += [["bash", "-c", line] for line in lines if line and not line.startswith(("#", "bash ", "pip "))]
    return found


def main() -> int:
    """Run all commands; stop at the first that fails."""
    for command in commands(Path(sys.argv[1]).read_text(encoding="utf-8")):
        print(f"$ {command[-1].strip()}", flush=True)
        if code := subprocess.run(command, check=False).returncode:
            print(f"exit code {code}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
