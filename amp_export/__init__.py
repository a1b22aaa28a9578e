"""Prune a transformer with AMP, rewrite its config, export it, check the export, and measure the speedup.

    from amp_export import PruneOptions, export, prune, validate

    prune("demo", Path("out"), PruneOptions(ratio=0.1))

The names are those of the stub `__init__.pyi`; nothing heavy is imported until one is used.
"""

from __future__ import annotations

import os

import lazy_loader

if os.path.isfile(os.path.join(os.path.dirname(__file__), "exporters")):  # noqa: PTH113, PTH118, PTH120  cheaper to import
    raise ImportError(
        "amp_export/exporters is a file, and should be a link to the folder exporters: git checked it out without "
        "symbolic links, as it does on Windows by default.\nRun `git config core.symlinks true`, then `git checkout -- "
        "amp_export/exporters` (with developer mode on), or install a wheel: pip install amp-export."
    )

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
