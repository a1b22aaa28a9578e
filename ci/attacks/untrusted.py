"""Hostile files: what leaves its folder, runs code or hides in printed commands is refused."""

from __future__ import annotations

import json
import os
import pickle
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attacks.sandbox import FAILS, REFUSES, Files, Outcome, fresh_workspace, home_of, join_problems, start

SECRET = "the secret of another folder"  # noqa: S105
Prepare = Callable[[Path], tuple[str, ...]]


@dataclass(frozen=True)
class Attempt:
    """One hostile file.

    Attributes:
        said: What it tries.
        outcome: How the command ended.
        problem: What is wrong with the end, or nothing.
    """

    said: str
    outcome: Outcome
    problem: str


def attempt_all(template: Path) -> Iterator[Attempt]:
    """Run a command on each hostile file.

    Args:
        template: Files to start from.

    Yields:
        What came of each.
    """
    for said, prepare in ATTEMPTS.items():
        with fresh_workspace(template) as workspace:
            secret = workspace.parent / "secret"
            secret.write_text(SECRET)
            command = prepare(workspace)
            planted = _holding_secret(workspace)
            written = [workspace / "new", workspace / "out", home_of(workspace)]
            before = Files.below(workspace.parent, without=written)
            outcome = start(command, workspace).wait()
            after = Files.below(workspace.parent, without=written)
            copies = _holding_secret(workspace) - planted
            yield Attempt(said, outcome, _problem(outcome, before.changes(after), copies, workspace))


def _problem(outcome: Outcome, strays: list[str], copies: set[Path], workspace: Path) -> str:
    checks = (
        (outcome.shows_trace, "a stack trace"),
        (outcome.code not in {REFUSES, FAILS}, f"exit code {outcome.code}"),
        (SECRET in outcome.text, "the secret is shown"),
        (bool(strays), f"files changed outside of the output: {', '.join(strays)}"),
        ((workspace / "ran").exists(), "code was run"),
        (bool(copies), "the secret was copied"),
    )
    return join_problems(checks)


def _holding_secret(workspace: Path) -> set[Path]:
    files = (file for name in ("new", "out") for file in (workspace / name).rglob("*") if file.is_file())
    return {file for file in files if SECRET.encode() in file.read_bytes()}


def _point_data_at(location: str, *, link: str | None = None) -> Prepare:
    """Return an attack whose graph takes its weights from elsewhere."""

    def prepare(workspace: Path) -> tuple[str, ...]:
        import onnx

        graph = workspace / "out/onnx/model.onnx"
        model = onnx.load(graph, load_external_data=False)
        weight = next(each for each in model.graph.initializer if each.external_data)
        place = location.format(secret=workspace.parent / "secret")
        next(entry for entry in weight.external_data if entry.key == "location").value = place
        graph.write_bytes(model.SerializeToString())
        if link is not None:
            (graph.parent / location).unlink(missing_ok=True)
            (Path.symlink_to if link == "symbolic" else Path.hardlink_to)(
                graph.parent / location, workspace.parent / "secret"
            )
        return ("validate", "--onnx", "out/onnx", "--reference", "out/pruned", "--explain", "--threads", "1")

    return prepare


def _point_index_at(location: str) -> Prepare:
    def prepare(workspace: Path) -> tuple[str, ...]:
        file = workspace / "sharded/model.safetensors.index.json"
        content = json.loads(file.read_text())
        first = next(iter(content["weight_map"]))
        content["weight_map"][first] = location.format(secret=workspace.parent / "secret")
        file.write_text(json.dumps(content))
        return ("export", "--model", "sharded", "--output", "new")

    return prepare


def _change_config(change: dict[str, Any], *command: str, file: str = "checkpoint/config.json") -> Prepare:
    def prepare(workspace: Path) -> tuple[str, ...]:
        path = workspace / file
        content = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps(content | change))
        return command or ("prune", "--model", "checkpoint", "--ratio", "0.1", "--output", "new")

    return prepare


def _resize(change: dict[str, Any]) -> Prepare:
    """Return an attack through the config of a checkpoint whose layers were resized."""

    def prepare(workspace: Path) -> tuple[str, ...]:
        path = workspace / "checkpoint/config.json"
        dense = json.loads(path.read_text())
        widths = {"query_heads": 4, "key_value_heads": 2, "neurons": 48}
        resized = {
            "model_type": "amp_resized",
            "architectures": ["AmpResizedForCausalLM"],
            "dense": dense,
            "dense_class": "LlamaForCausalLM",
            "resized_modules": {},
            "layer_widths": [widths] * dense["num_hidden_layers"],
        }
        path.write_text(json.dumps(resized | change))
        return ("validate", "--onnx", "out/onnx", "--reference", "checkpoint", "--threads", "1")

    return prepare


class _Runs:
    """Runs a command when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch ran",)


def _pickle(workspace: Path) -> tuple[str, ...]:
    (workspace / "checkpoint/model.safetensors").unlink()
    (workspace / "checkpoint/pytorch_model.bin").write_bytes(pickle.dumps(_Runs()))
    return ("export", "--model", "checkpoint", "--output", "new", "--allow-pickle")


def _remote_code(workspace: Path) -> tuple[str, ...]:
    (workspace / "checkpoint/modeling_evil.py").write_text("open('ran', 'w')\n")
    change = {
        "model_type": "evil",
        "auto_map": {"AutoConfig": "modeling_evil.C", "AutoModelForCausalLM": "modeling_evil.M"},
    }
    return _change_config(change)(workspace)


def _tokenizer_code(workspace: Path) -> tuple[str, ...]:
    (workspace / "checkpoint/tokenization_evil.py").write_text("open('ran', 'w')\nclass T: pass\n")
    change = {"tokenizer_class": "T", "auto_map": {"AutoTokenizer": ["tokenization_evil.T", None]}}
    return _change_config(change, file="checkpoint/tokenizer_config.json")(workspace)


def _adapter(workspace: Path) -> tuple[str, ...]:
    (workspace / "checkpoint/config.json").unlink()
    name = 'x"); import os; os.system("touch ran") #'
    (workspace / "checkpoint/adapter_config.json").write_text(json.dumps({"base_model_name_or_path": name}))
    return ("export", "--model", "checkpoint", "--output", "new")


def _secret_companion(workspace: Path) -> tuple[str, ...]:
    (workspace / "checkpoint/generation_config.json").unlink()
    (workspace / "checkpoint/generation_config.json").symlink_to(workspace.parent / "secret")
    return ("export", "--model", "checkpoint", "--output", "new")


def _output_link(workspace: Path) -> tuple[str, ...]:
    (workspace / "new").symlink_to(workspace.parent / "elsewhere")
    return ("export", "--model", "checkpoint", "--output", "new")


def _bundle_that_leaves(workspace: Path) -> tuple[str, ...]:
    with tarfile.open(workspace / "out/bundle-cpu.tar.gz", "w:gz") as archive:
        archive.add(workspace / "prompts.txt", arcname="../evil.txt")
    return ("benchmark", "out", "--device", "ssh://127.0.0.1:1")


def _manifest_that_leaves(workspace: Path) -> tuple[str, ...]:
    file = workspace / "out/amp_export.json"
    content = json.loads(file.read_text())
    content["files"]["../../secret"] = {"sha256": "0" * 64, "bytes": 1}
    file.write_text(json.dumps(content))
    return ("report", "out")


_RESIZED = {"model.layers.0.mlp": {"parameters": {}, "attributes": {"__class__": 1}}}

ATTEMPTS: dict[str, Prepare] = {
    "external data in ../secret": _point_data_at("../../../secret"),
    "external data at an absolute path": _point_data_at("{secret}"),
    "external data at a Windows path": _point_data_at("..\\secret"),
    "external data through a symbolic link": _point_data_at("linked", link="symbolic"),
    "external data through a hard link": _point_data_at("linked", link="hard"),
    "index of shards that names ../secret": _point_index_at("../../secret"),
    "index of shards that names an absolute path": _point_index_at("{secret}"),
    "architectures that name a function": _change_config({"architectures": ["set_seed"]}),
    "architectures that name a module": _change_config({"architectures": ["utils.logging"]}),
    "architectures that name a private attribute": _change_config({"architectures": ["__dict__"]}),
    "resized model of another class": _resize({"dense_class": "Trainer"}),
    "resized model that sets any attribute": _resize({"resized_modules": _RESIZED}),
    "pickle that runs a command": _pickle,
    "model code beside the checkpoint": _remote_code,
    "tokenizer code beside the checkpoint": _tokenizer_code,
    "adapter with code in its base model's name": _adapter,
    "companion that links to another file": _secret_companion,
    "output that links to another place": _output_link,
    "bundle whose names leave its folder": _bundle_that_leaves,
    "manifest whose names leave its folder": _manifest_that_leaves,
}
