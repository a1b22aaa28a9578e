"""The command `optimum-cli export amp`: what `amp-export --to onnx` does, with the same options."""

from __future__ import annotations

import argparse

from optimum.commands.base import BaseOptimumCLICommand, CommandInfo

NAME = "optimum-cli export amp"


class AmpExportCommand(BaseOptimumCLICommand):  # type: ignore[misc] # optimum has no types
    """Hands its words on as they are, so that there is one list of options and one help page."""

    COMMAND = CommandInfo(name="amp", help="Prune a transformer with AMP, export it, and validate the export.")

    @staticmethod
    def parse_args(parser: argparse.ArgumentParser) -> None:
        """Take every word.

        Args:
            parser: Of this command.
        """
        # no word begins with this one: argparse takes none for an option of its own, --help included
        parser.prefix_chars = "\0"
        parser.add_argument("words", nargs="*")

    def run(self) -> None:
        """Run all steps, to ONNX by default; exit with the codes of `amp-export`."""
        from amp_export.cli import app

        words = list(self.args.words)
        if not any(word.partition("=")[0] == "--to" for word in words):
            words = ["--to", "onnx", *words]
        app(words, prog_name=NAME)
