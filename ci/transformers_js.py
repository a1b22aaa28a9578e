"""Compare what exports generate in transformers.js, in Node, with what they generate here: the same greedy tokens.

Without folders, a tiny model of each type of decoder that `--layout transformers.js` takes is exported, with layers of
different widths where the graph is built directly, and of each type of vision-language model, which is given images in
Node. With folders, those exports are compared on texts; with --browser in
Chromium, in WebAssembly. The exit code is 1 if a token differs.

    npm install --ignore-scripts --prefix /tmp/js @huggingface/transformers@4
    AMP_EXPORT_NODE_MODULES=/tmp/js/node_modules python ci/transformers_js.py [--browser] [FOLDER ...]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
sys.path.insert(0, str(REPOSITORY))

from tests.support.transformers_js import (  # noqa: E402
    MODULES,
    as_json,
    ask,
    ask_browser,
    find_modules,
    generated_after_images,
    generated_here,
    text_with_images,
)

TEXTS = (
    "Water boils when it is heated because",
    "The capital of France is",
    "def fibonacci(n):",
    "Dear Sir or Madam, I am writing to you about the",
)
NEW_TOKENS = 32
TINY_PROMPTS = ((17, 4, 99, 31, 8, 54, 23), (60, 61, 5))


@dataclass(frozen=True)
class Case:
    """An export, and what it is given.

    Attributes:
        name: Its name.
        folder: Its folder.
        prompts: Token ids of each prompt.
        inputs: The prompts as transformers.js is given them: texts or token ids.
    """

    name: str
    folder: Path
    prompts: Sequence[Sequence[int]]
    inputs: Sequence[str | Sequence[int]]


def tiny_cases(scratch: Path) -> list[Case]:
    """Export a tiny model of each type."""
    from amp_export.api.export import export
    from amp_export.exporters.onnx import export as build
    from amp_export.exporters.onnx.layouts import DECODERS, arrange
    from amp_export.options import Dtype, Layout
    from amp_export.verb_options import ExportOptions
    from tests.support.tiny_models import save_tiny_model
    from tests.support.uneven_models import UNEVEN, uneven

    cases = []
    for model_type in sorted(DECODERS):
        folder = scratch / model_type / "onnx"
        if model_type in UNEVEN:
            build(uneven(scratch / model_type, *UNEVEN[model_type])[0], folder)
            arrange(folder, Layout.TRANSFORMERS_JS, Dtype.FLOAT32, None)
        else:
            checkpoint = save_tiny_model(scratch / model_type / "checkpoint", model_type)
            folder = scratch / model_type / "out" / "onnx"
            export(checkpoint, folder.parent, ExportOptions(layout=Layout.TRANSFORMERS_JS))
        cases.append(Case(model_type, folder, TINY_PROMPTS, TINY_PROMPTS))
    return cases


def image_cases(scratch: Path) -> list[Path]:
    """Export a tiny vision-language model of each type."""
    from amp_export.api.export import export
    from amp_export.exporters.onnx.layouts import VISION_LANGUAGE
    from amp_export.options import Layout
    from amp_export.verb_options import ExportOptions
    from tests.support.vision_language_models import save_tiny_whole

    return [
        export(
            save_tiny_whole(scratch / "whole" / each, each),
            scratch / "parts" / each,
            ExportOptions(layout=Layout.TRANSFORMERS_JS),
        ).folder
        for each in sorted(VISION_LANGUAGE)
    ]


def compare_images(modules: Path, folders: Sequence[Path]) -> bool:
    """Print for each export whether the text after two images is the same; return whether all are."""
    from amp_export.api.subjects import read_ending_tokens
    from amp_export.exporters.dispatch import run
    from tests.support.vision_language_models import IMAGE_TOKEN

    all_same = True
    for folder in folders:
        model = run(folder)
        ids, vision = text_with_images(model, IMAGE_TOKEN)
        ends = set(read_ending_tokens(folder))
        here = generated_after_images(
            model, folder, ids, vision, image_token=IMAGE_TOKEN, new_tokens=NEW_TOKENS, ends=ends
        )
        request = {"folder": str(folder), "inputs": [ids], "newTokens": NEW_TOKENS, "images": as_json(vision)}
        (answers,) = ask(modules, [request])
        same = answers == [{"prompt": ids, "tokens": here}]
        print(f"{folder.parent.name}, after images: {'the same' if same else answers}, {len(here)} tokens")
        all_same &= same
    return all_same


def case_of(folder: Path) -> Case:
    """Return an export of the user's with texts."""
    from amp_export.checkpoints.loading import load_tokenizer
    from amp_export.inputs.batches import encode

    tokenizer = load_tokenizer(folder)
    return Case(str(folder), folder, [encode(tokenizer, text) for text in TEXTS], TEXTS)


def compare(modules: Path, cases: Sequence[Case], *, in_browser: bool) -> bool:
    """Print for each case how many texts are the same; return whether all are."""
    from amp_export.api.subjects import read_ending_tokens

    requests = [{"folder": str(case.folder), "inputs": case.inputs, "newTokens": NEW_TOKENS} for case in cases]
    found = [ask_browser(modules, each) for each in requests] if in_browser else ask(modules, requests)
    all_same = True
    for case, answers in zip(cases, found, strict=True):
        if "error" in answers:
            print(f"{case.name}: {answers['error']}")
            all_same = False
            continue
        ends = set(read_ending_tokens(case.folder))
        here = generated_here(case.folder, case.prompts, new_tokens=NEW_TOKENS, ends=ends)
        pairs = zip(case.prompts, here, answers, strict=True)
        same = [answer == {"prompt": list(prompt), "tokens": tokens} for prompt, tokens, answer in pairs]
        print(f"{case.name}: {sum(same)} of {len(same)} texts are the same, {sum(map(len, here))} tokens")
        all_same &= all(same)
    return all_same


def main() -> int:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="*", metavar="FOLDER", help="exports, such as out/onnx")
    parser.add_argument("--browser", action="store_true", help="run them in Chromium instead of Node")
    given = parser.parse_args()
    if (modules := find_modules()) is None:
        print(f"Node or @huggingface/transformers is missing: install it, and name its folder in {MODULES}.")
        return 2
    with tempfile.TemporaryDirectory() as scratch:
        cases = [case_of(folder) for folder in given.folders] or tiny_cases(Path(scratch))
        all_same = compare(modules, cases, in_browser=given.browser)
        if not given.folders and not given.browser:
            all_same &= compare_images(modules, image_cases(Path(scratch)))
        return 0 if all_same else 1


if __name__ == "__main__":
    raise SystemExit(main())
