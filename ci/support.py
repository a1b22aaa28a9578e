"""Write docs/support.md from the results of the family tests: python ci/support.py [--check] [--rows DIR].

It runs `tests/test_families.py`, unless --rows names a directory with the results of an earlier run. With --check,
nothing is written, and the exit code is 1 if the page does not match the results.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from generated import PROJECT, write_or_check

PAGE = PROJECT / "docs" / "support.md"

HEADER = """# Supported models

Written by `python ci/support.py` from the tests of all families. They take a tiny random model of each family through
the whole pipeline: score, prune in three ways, rewrite, reload in a process that cannot import amp-export (logits must
be equal bit for bit), compare with the dense model with the same heads and neurons masked (float64, 1e-5), export in
every supported way, and check parity. CI runs the same tests and fails if this page differs from the result; to save
time, it traces one family of each kind, input, and form of MLP (plain or experts), ModernBERT, and two of those that
are built directly.

- *fewer neurons*: all heads are kept. *odd heads*: 5 of 6 heads are kept, with a hidden size of 48, which 5 does not
  divide. *layers differ*: counts are allocated across layers by importance. Neurons are the channels of
  `intermediate_size`.
- *heads stay*: heads of this family cannot be removed.
- *same*: the same class with new numbers in the config. A class name: a sibling class that computes the same, bit for
  bit. *resized*: the same class, resized at load time by a modeling file that is saved with the checkpoint; it loads
  with `trust_remote_code=True`, or without it if amp-export is installed and `amp_export.register()` was called.
- *direct*: the ONNX graph is built from config and weights. *trace*: the model is traced through transformers'
  exporter.
  None: a cache of this family also holds states of recurrences, for which graphs have no inputs. It is pruned,
  recovered, evaluated, and run in PyTorch. So is a Gemma 3n or 4 whose `num_kv_shared_layers` is not 0.
  Graphs of `siglip2_vision_model` take images of any size as transformers' processor makes them: `pixel_values`
  [images, patches, values of a patch], `pixel_attention_mask` and `spatial_shapes`. It is the encoder of SigLIP 2's
  NaFlex checkpoints; those of fixed sizes are a `siglip_vision_model`, as transformers' documentation of SigLIP 2 says.
- *genai*: `genai_config.json` is written, so that onnxruntime-genai opens the folder.
- *gguf*: llama.cpp's architecture that [a GGUF file](gguf.md) is written as, with one width for all layers; then, if
  there is one, that for layers that differ.

Within [vision-language models](vision-language.md) of many types, the language model is pruned, and most
of them are exported in parts.

| family | kind | fewer neurons | odd heads | layers differ | graphs | genai | gguf |
| --- | --- | --- | --- | --- | --- | --- | --- |
"""


def run_families(rows: Path) -> None:
    """Run the tests, which write one file per family to `rows`."""
    command = [sys.executable, "-m", "pytest", "--quiet", "--numprocesses", "2", "tests/test_families.py"]
    settings = {"AMP_EXPORT_SUPPORT_ROWS": str(rows), "AMP_EXPORT_ALL_WAYS": "yes"}
    subprocess.run(command, cwd=PROJECT, env={**os.environ, **settings}, check=True)


def page(rows: Path) -> str:
    """Return the text of the page.

    Raises:
        SystemExit: The results of a family are missing.
    """
    from amp_export.architectures import supported_model_types

    found = {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in rows.glob("*.json")}
    if missing := [family for family in supported_model_types() if family not in found]:
        raise SystemExit(f"{rows} has no results for {', '.join(missing)}. Run all of tests/test_families.py.")
    return HEADER + "".join(_line(found[family]) for family in supported_model_types())


def _line(row: dict[str, Any]) -> str:
    rewrites = (_rewrite(row["rewrites"].get(name)) for name in ("neurons", "odd heads", "layers differ"))
    cells = [row["model_type"], row["kind"], *rewrites, ", ".join(row["exporters"]), "yes" if row["genai"] else ""]
    cells.append(", ".join(f"`{name}`" for name in row["gguf"]))
    return f"| {' | '.join(cells)} |\n"


def _rewrite(rewrite: dict[str, str] | None) -> str:
    if rewrite is None:
        return "heads stay"
    words = {"same class": "same", "resized class": "resized"}
    return words.get(rewrite["kind"], f"`{rewrite['class']}`")


def main() -> int:
    """Write the page, or check it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the page is out of date")
    parser.add_argument("--rows", type=Path, help="results of an earlier run of the tests")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        if arguments.rows is None:
            run_families(Path(scratch))
        text = page(arguments.rows or Path(scratch))
    return write_or_check(
        PAGE, text, check=arguments.check, source="the results of the tests", command="python ci/support.py"
    )


if __name__ == "__main__":
    sys.exit(main())
