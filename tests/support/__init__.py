"""Support code of the tests: tiny models, sample reports, and stand-ins for devices."""

from __future__ import annotations

from pathlib import Path

PROJECT = Path(__file__).parents[2]
"""Root of the repository."""
