"""The files beside a checkpoint's config and weights: which travel with the pruned weights, and which stay behind."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from amp_export.documents import shorten_list

MODULES = "modules.json"


@dataclass(frozen=True)
class Companions:
    """Files of one purpose.

    Attributes:
        patterns: Patterns of their names in lower case, relative to the checkpoint.
        why: What they are, for a note on those that stay behind; empty if they travel.
        beside: A file without which they do not travel.
    """

    patterns: tuple[str, ...]
    why: str = ""
    beside: str | None = None

    def match(self, name: str) -> bool:
        """Return whether a name, relative to the checkpoint, is one of these files."""
        parts = name.lower().split("/")
        return any(
            len(parts) == len(pattern.split("/")) and all(map(fnmatch.fnmatchcase, parts, pattern.split("/")))
            for pattern in self.patterns
        )


TABLE = (
    Companions(("readme*", "model_card*"), why="on the dense model"),
    Companions(
        (
            # Mistral's and Meta's own formats
            *("params.json", "consolidated*", "original"),
            *(
                "*.safetensors",
                "*.index.json",
                "pytorch_model*",
                "*.gguf",
                "*.pth",
                "*.pt",
                "*.h5",
                "*.msgpack",
                "*.ot",
            ),
            *("*.onnx", "*.onnx?data", "onnx", "openvino", "coreml", "openvino_model*", "adapter_*"),
        ),
        why="the dense model or its sizes",
    ),
    Companions(
        ("training_args.bin", "trainer_state.json", "optimizer*", "scheduler*", "rng_state*"), why="of its training"
    ),
    # of the tokenizer: transformers, Whisper (normalizer), Mistral (tekken)
    Companions(
        (
            *("tokenizer*", "*.model", "vocab.*", "merges.txt", "special_tokens_map.json", "added_tokens.json"),
            *("normalizer.json", "tekken.json", "chat_template*", "additional_chat_templates/*.jinja"),
        )
    ),
    # `alignment_heads` in it are renumbered: see `pruning.head_indices`
    Companions(("generation_config.json",)),
    Companions(("preprocessor_config.json", "processor_config.json")),
    # sentence-transformers 5.1: modules after the model see its hidden states, whose width stays the same
    Companions((MODULES, "config_sentence_transformers.json", "sentence_*_config.json")),
    Companions(
        ("[0-9]*_*/config.json", "[0-9]*_*/*.safetensors", "[0-9]*_*/pytorch_model.bin"),
        beside=MODULES,
    ),
    Companions(("licen[cs]e*", "notice*", "copying*", "use_policy*")),
)
"""All known companions; the first entry that matches decides. None of those that travel holds an index of a head or a
neuron, except as noted; indices of layers stay right, because no layer is removed."""


def choose_companions(names: Iterable[str]) -> list[str]:
    """Return the names of the files that travel.

    Args:
        names: Names of all files of a checkpoint, relative to it, with `/` between the parts.
    """
    given = set(names)
    found = ((name, _entry(name)) for name in sorted(given))
    return [name for name, entry in found if entry is not None and not entry.why and (entry.beside or name) in given]


def find_companions(path: Path) -> list[Path]:
    """Return the files of a directory that travel."""
    files = (file for pattern in ("*", "*/*") for file in path.glob(pattern) if file.is_file())
    return [path / name for name in choose_companions(file.relative_to(path).as_posix() for file in files)]


def describe_left(path: Path, taken: Iterable[str]) -> Iterator[str]:
    """Yield a note that names what stays behind, if anything does.

    Args:
        path: A checkpoint directory.
        taken: Names of the files that are read: config and weights.
    """
    names = {entry.name for entry in path.iterdir() if not entry.name.startswith((".", "__"))}
    travel = {name.split("/")[0] for name in (file.relative_to(path).as_posix() for file in find_companions(path))}
    left: dict[str, list[str]] = {}
    for name in sorted(names - travel - {"config.json", *taken}):
        entry = _entry(name)
        left.setdefault(entry.why if entry is not None and entry.why else "purpose not known", []).append(name)
    if left:
        yield f"Not copied: {'; '.join(f'{shorten_list(each)} ({why})' for why, each in left.items())}."


def _entry(name: str) -> Companions | None:
    return next((entry for entry in TABLE if entry.match(name)), None)
