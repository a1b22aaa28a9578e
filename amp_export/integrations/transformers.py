"""Registration of resized checkpoints and engines with transformers."""

from __future__ import annotations

import importlib.util

from amp_export.checkpoints.building import register_resized


def register() -> None:
    """Register resized checkpoints and engines with transformers.

    Resized checkpoints then load without `trust_remote_code`, and `ExportedModel` opens engines.
    """
    register_resized()
    if importlib.util.find_spec("transformers.exporters") is not None:
        from amp_export.integrations import transformers_backend

        transformers_backend.register()
