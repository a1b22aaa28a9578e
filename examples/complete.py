"""Complete a prompt with an exported graph, token by token: python examples/complete.py FOLDER [PROMPT].

It shows the Python API of graphs; `amp-export generate` does more.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tokenizers import Tokenizer

from amp_export.exporters.models.decoder import GraphDecoder
from amp_export.exporters.onnx import Sampling, generate, run


def main() -> None:
    """Print the prompt and 40 tokens after it, drawn at a temperature of 0.7."""
    folder, prompt = Path(sys.argv[1]), " ".join(sys.argv[2:]) or "Water boils when it is heated because"
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    decoder = run(folder)
    if not isinstance(decoder, GraphDecoder):
        raise SystemExit(f"{folder} holds no decoder.\nGive the folder of a decoder's graph, such as out/onnx.")
    text = tokenizer.encode(prompt).ids
    for step in generate(decoder, [text], new_tokens=40, sampling=Sampling(temperature=0.7, top_p=0.9)):
        text = [*text, step[0]]
    print(tokenizer.decode(text))


if __name__ == "__main__":
    main()
