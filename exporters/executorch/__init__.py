"""Models as ExecuTorch programs, for the CPU."""

from __future__ import annotations

from amp_export.exporters.executorch.exporting import DEFAULT_CONTEXT, ExecutorchExport, export
from amp_export.exporters.executorch.programs import (
    ProgramFacts,
    is_executorch,
    read_facts,
    require_runtime,
)
from amp_export.exporters.executorch.running import import_runtime, run

__all__ = [
    "DEFAULT_CONTEXT",
    "ExecutorchExport",
    "ProgramFacts",
    "export",
    "import_runtime",
    "is_executorch",
    "read_facts",
    "require_runtime",
    "run",
]
