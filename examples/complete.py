"""Complete a prompt with exported graphs, side by side: python examples/complete.py FOLDER... [--prompt TEXT]."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from rich.columns import Columns
from rich.console import Console
from rich.panel import Panel
from tokenizers import Tokenizer

from amp_export.exporters.models.decoder import GraphDecoder
from amp_export.exporters.onnx import run


def complete(folder: Path, prompt: str, new_tokens: int) -> str:
    """Generate greedily: one prefill call, then one token per call with the KV cache.

    Raises:
        SystemExit: The folder holds another kind of model.
    """
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    decoder = run(folder)
    if not isinstance(decoder, GraphDecoder):
        raise SystemExit(
            f"{folder} holds no decoder, so it cannot complete a prompt.\nGive the folder of a decoder's graph."
        )
    tokens = tokenizer.encode(prompt).ids
    past, start = None, 0
    for _ in range(new_tokens):
        places = np.arange(start, len(tokens))
        logits_bsv, past = decoder.forward(
            np.array([tokens[start:]]),
            np.ones((1, len(tokens)), np.int64),
            places[np.newaxis],
            past,
            logits_to_keep=1,
        )
        start = len(tokens)
        tokens.append(int(logits_bsv[0, -1].argmax()))
    return str(tokenizer.decode(tokens))


def main() -> None:
    """Print one panel per graph."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path, help="exported folders, such as out/onnx")
    parser.add_argument("--prompt", default="Water boils when it is heated because", help="text to complete")
    parser.add_argument("--tokens", type=int, default=40, help="number of tokens to generate")
    arguments = parser.parse_args()
    texts = [
        Panel(complete(folder, arguments.prompt, arguments.tokens), title=str(folder), width=58)
        for folder in arguments.folders
    ]
    Console(width=120).print(Columns(texts))


if __name__ == "__main__":
    main()
