"""Models as GGUF files, which llama.cpp runs."""

from __future__ import annotations

from amp_export.exporters.gguf.exporting import GgufExport, export, require_writer
from amp_export.exporters.gguf.library import require_runtime
from amp_export.exporters.gguf.running import run

__all__ = ["GgufExport", "export", "require_runtime", "require_writer", "run"]
