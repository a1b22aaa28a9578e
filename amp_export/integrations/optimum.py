"""The command `optimum-cli export amp`: the same as `amp-export --to onnx`, with the same options."""

from __future__ import annotations

import argparse

from optimum.commands.base import BaseOptimumCLICommand, CommandInfo

NAME = "optimum-cli export amp"


class AmpExportCommand(BaseOptimumCLICommand):  # type: ignore[misc] # optimum has no types
    """Passes its arguments on unchanged, so that options and help are defined only once."""

    COMMAND = CommandInfo(name="amp", help="Prune a transformer with AMP, export it, and validate the export.")

    @staticmethod
    def parse_args(parser: argparse.ArgumentParser) -> None:
        """Accept all arguments unparsed.

        Args:
            parser: Parser of this command.
        """
        # no argument begins with this prefix, so argparse treats none as its own option, not even --help
        parser.prefix_chars = "\0"
        parser.add_argument("words", nargs="*")

    def run(self) -> None:
        """Run all steps, to ONNX by default; exit with the codes of `amp-export`."""
        from amp_export.cli import app

        words = list(self.args.words)
        if not any(word.partition("=")[0] == "--to" for word in words):
            words = ["--to", "onnx", *words]
        app(words, prog_name=NAME)
