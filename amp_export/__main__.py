"""`python -m amp_export`."""

from __future__ import annotations

from amp_export.cli import main

if __name__ == "__main__":
    main()
