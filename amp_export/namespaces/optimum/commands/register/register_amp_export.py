"""Makes `optimum-cli export amp` known: optimum reads the list below from every file in this namespace.

Source: `load_optimum_namespace_cli_commands`, `optimum/commands/optimum_cli.py`, optimum 2.3.0. The folder must have no
`__init__.py`: packages of several distributions lie in it.
"""

from __future__ import annotations

from optimum.commands.export.base import ExportCommand

from amp_export.integrations.optimum import AmpExportCommand

REGISTER_COMMANDS = [(AmpExportCommand, ExportCommand)]
