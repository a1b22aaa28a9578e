"""Damaged inputs: whatever a file holds, a command works, or refuses it by name."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from attacks.mutations import Mutation, any_bytes, json_document, json_lines, onnx_graph, safetensors_file
from attacks.sandbox import FAILS, REFUSES, WORKS, Files, Outcome, fresh_workspace, home_of, join_problems, start

Command = Sequence[str]

PRUNE = (
    "prune", "--ratio", "0.1", "--snap", "1", "--calibration", "prompts.txt", "--fitting-tokens", "128",
    "--output", "new", "--model",
)  # fmt: skip
EXPORT = ("export", "--output", "new", "--model")
PRUNE_BY_PLAN = ("prune", "--model", "checkpoint", "--plan", "pruned-out/plan.json", "--output", "new")
DOCTOR = ("doctor", "--ratio", "0.1", "--model")
VALIDATE = ("validate", "--threads", "1")
THIRD_PARTY = (*VALIDATE, "--onnx", "out/onnx", "--reference", "out/pruned")
BENCHMARK = ("benchmark", "out", "--threads", "1", "--rounds", "6", "--time-limit", "1")


@dataclass(frozen=True)
class Target:
    """A file that is damaged, and the commands that read it.

    Attributes:
        kind: What it is, for the table.
        file: Its path in the workspace.
        mutation: How it is damaged.
        commands: Commands, of which each attack runs one.
        verdict: Whether the content may decide that a check fails, which is exit code 1.
        sealed: Output directory whose manifest has the file's hash; for every other attack, it is made to fit, since
            nothing beyond the hash would be reached otherwise.
        names: Words of which an error must have one, besides the name of the file: what the user named.
    """

    kind: str
    file: str
    mutation: Mutation
    commands: tuple[Command, ...]
    verdict: bool = False
    sealed: str | None = None
    names: tuple[str, ...] = ()


def _model_file(kind: str, file: str, mutation: Mutation) -> Target:
    model = file.partition("/")[0]
    commands = ((*PRUNE, model), (*EXPORT, model), (*DOCTOR, model))
    return Target(kind, file, mutation, commands, names=(model,))


def _output_file(
    kind: str, file: str, mutation: Mutation, *commands: Command, sealed: str | None = None, names: tuple[str, ...] = ()
) -> Target:
    return Target(kind, file, mutation, commands, verdict=True, sealed=sealed, names=names)


def _graph_file(kind: str, file: str, mutation: Mutation, *commands: Command) -> Target:
    return _output_file(kind, file, mutation, *commands, sealed="out", names=("out/onnx",))


TARGETS: tuple[Target, ...] = (
    _model_file("config", "checkpoint/config.json", json_document),
    _model_file("config of an encoder", "encoder/config.json", json_document),
    _model_file("generation config", "checkpoint/generation_config.json", json_document),
    _model_file("tokenizer", "checkpoint/tokenizer.json", json_document),
    _model_file("tokenizer config", "checkpoint/tokenizer_config.json", json_document),
    _model_file("weights", "checkpoint/model.safetensors", safetensors_file),
    _model_file("shard", "sharded/model-00001-of-00002.safetensors", safetensors_file),
    _model_file("index of shards", "sharded/model.safetensors.index.json", json_document),
    Target("plan", "pruned-out/plan.json", json_document, (PRUNE_BY_PLAN,)),
    Target(
        "scores",
        "pruned-out/scores.safetensors",
        safetensors_file,
        ((*PRUNE, "checkpoint", "--scores", "pruned-out/scores.safetensors"),),
    ),
    Target(
        "calibration rows", "prompts.jsonl", json_lines, ((*PRUNE, "checkpoint", "--calibration", "prompts.jsonl"),)
    ),
    Target("calibration text", "prompts.txt", any_bytes, ((*PRUNE, "checkpoint"),)),
    _output_file(
        "manifest",
        "out/amp_export.json",
        json_document,
        ("report", "out"),
        (*VALIDATE, "out"),
        BENCHMARK,
        ("bundle", "out"),
        ("export", "--model", "out/pruned", "--output", "out", "--overwrite"),
        names=("out",),
    ),
    _output_file(
        "report",
        "out/report.json",
        json_document,
        ("report", "out"),
        ("report", "out", "--format", "html", "--format", "xml", "--format", "md"),
        ("report", "out", "pruned-out"),
        (*VALIDATE, "out"),
        sealed="out",
    ),
    _output_file("thresholds", "thresholds.toml", any_bytes, ("report", "out", "--thresholds", "thresholds.toml")),
    _output_file("baseline", "baseline.json", json_document, (*VALIDATE, "out", "--baseline", "baseline.json")),
    _output_file(
        "cases", "cases.json", json_document, (*VALIDATE, "out", "--cases", "cases.json"), names=("The case",)
    ),
    _graph_file(
        "graph",
        "out/onnx/model.onnx",
        onnx_graph,
        (*VALIDATE, "out"),
        (*VALIDATE, "out", "--explain"),
        THIRD_PARTY,
        BENCHMARK,
    ),
    _graph_file("external data", "out/onnx/model.onnx_data", any_bytes, (*VALIDATE, "out"), THIRD_PARTY, BENCHMARK),
    _graph_file(
        "config of a graph", "out/onnx/config.json", json_document, (*VALIDATE, "out"), BENCHMARK, ("bundle", "out")
    ),
    Target("device report", "device-report.json", json_document, (("read-device-report", "device-report.json"),)),
)


@dataclass(frozen=True)
class Finding:
    """An end that is not allowed.

    Attributes:
        target: What was damaged.
        said: How.
        outcome: How the command ended.
        problem: What is wrong with that.
    """

    target: Target
    said: str
    outcome: Outcome
    problem: str


@dataclass
class Tally:
    """What came of the attacks on one target."""

    target: Target
    attacks: int = 0
    works: int = 0
    refuses: int = 0
    fails: int = 0
    slowest: float = 0.0


def attack_inputs(
    template: Path, *, examples: int, random_seed: int, targets: Sequence[Target] = TARGETS
) -> Iterator[tuple[Tally, list[Finding]]]:
    """Damage each target, run a command on it, and yield what came of it.

    Args:
        template: Files to start from.
        examples: Attacks on each target.
        random_seed: Seed of what is drawn.
        targets: What is attacked.

    Yields:
        For each target, the counts, and the ends that are not allowed.
    """
    for target in targets:
        tally, findings = Tally(target), []
        for said, outcome, problem in _attack(target, template, examples, random_seed):
            tally.attacks += 1
            tally.works += outcome.code == WORKS
            tally.fails += outcome.code == FAILS
            tally.refuses += outcome.code == REFUSES
            tally.slowest = max(tally.slowest, outcome.seconds)
            if problem:
                findings.append(Finding(target, said, outcome, problem))
        yield tally, findings


def _attack(target: Target, template: Path, examples: int, random_seed: int) -> list[tuple[str, Outcome, str]]:
    ends: list[tuple[str, Outcome, str]] = []

    @seed(random_seed)
    @settings(
        max_examples=examples,
        phases=(Phase.generate,),
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def once(data: st.DataObject) -> None:
        with fresh_workspace(template) as workspace:
            file = workspace / target.file
            said = target.mutation(data.draw, file)
            if target.sealed is not None and data.draw(st.booleans()):
                _seal(workspace / target.sealed, file)
            command = data.draw(st.sampled_from(target.commands))
            written = [workspace / name for name in ("new", "out", "pruned-out")]
            before = Files.below(workspace, without=written)
            outcome = _run(command, workspace)
            strays = before.changes(Files.below(workspace, without=written))
            strays += _temporary_files(home_of(workspace))
            ends.append((said, outcome, _problem(target, outcome, strays)))

    once()
    return ends


def _run(command: Command, workspace: Path) -> Outcome:
    if command[0] == "read-device-report":
        # a device sends it; no option takes such a file
        return start(command, workspace, work=lambda: _read_device_report(workspace / command[1])).wait()
    return start(command, workspace).wait()


def _read_device_report(file: Path) -> None:
    import typer

    from amp_export.cli.commands import run_command
    from amp_export.devices.reports import read_device_report

    identity = (file.parent / "identity.txt").read_text()
    try:
        run_command(lambda _: print(read_device_report(file, identity=identity)))
    except typer.Exit as end:
        sys.exit(end.exit_code)


def _problem(target: Target, outcome: Outcome, strays: Sequence[str]) -> str:
    """Return what is wrong with an end, or nothing."""
    checks: tuple[tuple[bool, str], ...] = (
        (outcome.timed_out, "it hangs"),
        (outcome.code < 0, f"signal {-outcome.code}"),
        (outcome.shows_trace, "a stack trace"),
        (outcome.code not in _allowed(target), f"exit code {outcome.code}"),
        (outcome.code == REFUSES and not _names(target, outcome.text), "the file is not named"),
        (bool(strays), f"files outside of the output: {', '.join(strays[:3])}"),
    )
    return join_problems(checks)


def _allowed(target: Target) -> set[int]:
    return {WORKS, REFUSES, FAILS} if target.verdict else {WORKS, REFUSES}


def _names(target: Target, text: str) -> bool:
    return any(name in text for name in (Path(target.file).name, target.file, *target.names))


def _temporary_files(home: Path) -> list[str]:
    """Return what a command left in the directory of temporary files, besides ONNX Runtime's own `.ses`."""
    return [f"temporary {entry.name}" for entry in (home / "tmp").iterdir() if entry.name != ".ses"]


def _seal(output: Path, file: Path) -> None:
    """Write the hash of a damaged file into the manifest, as if it had been written like that."""
    manifest = output / "amp_export.json"
    name = file.relative_to(output).as_posix()
    if file.is_file():
        content = json.loads(manifest.read_text())
        found = file.read_bytes()
        content["files"][name] = {"sha256": hashlib.sha256(found).hexdigest(), "bytes": len(found)}
        manifest.write_text(json.dumps(content))
