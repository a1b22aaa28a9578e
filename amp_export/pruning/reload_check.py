"""Proof that transformers loads a pruned checkpoint: a process without amp_export computes the same, bit for bit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from amp_export.errors import VerificationError
from amp_export.inputs.random import compared_outputs, random_inputs

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from amp_export.architectures import ModelConfig

PROBE_TEXT = "Reload this: 3 heads, 12,345 neurons and one naïve tokenizer.\n\tDone?"
NOT_PASSED_ON = frozenset({"PYTHONINSPECT", "PYTHONSTARTUP", "PYTHONVERBOSE", "PYTHONWARNINGS"})
"""Variables under which a process does not end, or fails or prints where it otherwise would not."""

PROBE_SHAPE = (2, 24)
"""Batch and sequence of the random token ids whose outputs are compared."""

_OUTPUT = "output."
"""Prefix of outputs in the probe's file."""


@dataclass(frozen=True)
class ReloadProof:
    """Result of reloading a checkpoint in another process.

    Attributes:
        class_name: Class that the Auto class chose.
        logits_compared: Number of output values that are equal bit for bit.
        tokens_compared: Number of token ids of a text that are equal.
        holds: Always true: a checkpoint that differs raises an error instead.
    """

    class_name: str
    logits_compared: int
    tokens_compared: int
    holds: bool = True

    def __str__(self) -> str:
        return (
            f"{self.class_name} in a process without amp_export: {self.logits_compared} output values and "
            f"{self.tokens_compared} token ids equal bit for bit"
        )


@dataclass(frozen=True)
class Expectation:
    """Results of the pruned model in memory.

    Attributes:
        inputs: Random inputs by name.
        outputs: The outputs for them by name.
        token_ids: Token ids of a text; empty if there is no tokenizer.
        auto_class: Auto class that must load the checkpoint.
        own_class: Class that no Auto class chooses; unless its layers were resized, it loads the checkpoint itself.
        returns_others: Whether the reloaded model may return other outputs, too, which are not compared.
    """

    inputs: Mapping[str, torch.Tensor]
    outputs: Mapping[str, torch.Tensor]
    token_ids: list[int]
    auto_class: str
    own_class: str | None = None
    returns_others: bool = False


def expect(model: PreTrainedModel, config: ModelConfig, tokenizer: PreTrainedTokenizerBase | None) -> Expectation:
    """Return the results that a reloaded checkpoint must reproduce."""
    import torch

    samples, length = PROBE_SHAPE
    inputs = random_inputs(config, samples=samples, length=length, dtype=model.dtype)
    with torch.inference_mode():
        outputs = compared_outputs(model(**inputs))
    token_ids = [] if tokenizer is None else tokenizer(PROBE_TEXT).input_ids
    own_class = config.class_name if config.class_name in config.architecture.more_classes else None
    return Expectation(inputs, outputs, token_ids, f"AutoModel{config.task}", own_class)


@dataclass(frozen=True)
class Claim:
    """A pruned checkpoint and the results that it must reproduce.

    Attributes:
        checkpoint: Its directory.
        expected: Results that it must reproduce.
        stock: Whether it must load without `trust_remote_code`.
    """

    checkpoint: Path
    expected: Expectation
    stock: bool = True

    @property
    def loader(self) -> str:
        """Class of transformers that must load it."""
        return (self.expected.own_class if self.stock else None) or self.expected.auto_class


def prove_reload(checkpoint: Path, expected: Expectation, *, stock: bool = True) -> ReloadProof:
    """Load a checkpoint in a separate process that cannot import this package, and compare bit for bit.

    Args:
        checkpoint: The pruned checkpoint.
        expected: Results that it must reproduce.
        stock: Whether it must load without `trust_remote_code`.

    Raises:
        VerificationError: The checkpoint does not load, or computes different results.
    """
    [proof] = prove_reloads([Claim(checkpoint, expected, stock)])
    return proof


def prove_reloads(claims: Sequence[Claim]) -> list[ReloadProof]:
    """Load several checkpoints in one such process, and compare each bit for bit.

    Raises:
        VerificationError: A checkpoint does not load, or computes different results.
    """
    import torch
    from safetensors.torch import save_file

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        jobs = []
        for number, claim in enumerate(claims):
            inputs = folder / f"inputs-{number}"
            text = PROBE_TEXT if claim.expected.token_ids else ""
            save_file(dict(claim.expected.inputs), inputs, metadata={"text": text})
            jobs.append(
                {
                    "path": str(claim.checkpoint.absolute()),
                    "inputs": str(inputs),
                    "outputs": str(folder / f"outputs-{number}"),
                    "loader": claim.loader,
                    "remote_code": not claim.stock,
                }
            )
        content = {"threads": torch.get_num_threads(), "modules": str(folder / "modules"), "checkpoints": jobs}
        (folder / "jobs.json").write_text(json.dumps(content), encoding="utf-8")
        if failure := run_probe(folder / "jobs.json"):
            checkpoints = ", ".join(str(claim.checkpoint) for claim in claims)
            raise VerificationError(f"{checkpoints}: transformers cannot load the pruned checkpoint:\n{failure}")
        return [_compare(claim, folder / f"outputs-{number}") for number, claim in enumerate(claims)]


def _compare(claim: Claim, outputs: Path) -> ReloadProof:
    import torch
    from safetensors import safe_open

    checkpoint, expected = claim.checkpoint, claim.expected
    with safe_open(outputs, framework="pt") as file:
        names = [name for name in file.keys() if name.startswith(_OUTPUT)]  # noqa: SIM118
        if expected.returns_others:
            names = [name for name in names if name.removeprefix(_OUTPUT) in expected.outputs]
        found = {name.removeprefix(_OUTPUT): file.get_tensor(name) for name in names}
        token_ids = file.get_tensor("token_ids").tolist()
        class_name = file.metadata()["class"]
    if token_ids != expected.token_ids:
        raise VerificationError(
            f"{checkpoint}: the reloaded tokenizer returns different token ids:\n{token_ids}\n{expected.token_ids}"
        )
    if found.keys() != expected.outputs.keys():
        raise VerificationError(
            f"{checkpoint}: reloaded as {class_name}, the pruned model returns {', '.join(sorted(found))}, but in "
            f"memory {', '.join(sorted(expected.outputs))}."
        )
    for name, wanted in expected.outputs.items():
        if found[name].dtype != wanted.dtype or not torch.equal(found[name], wanted):
            worst = (found[name].double() - wanted.double()).abs().max().item()
            raise VerificationError(
                f"{checkpoint}: reloaded as {class_name}, the pruned model computes other {name} than in memory "
                f"({found[name].dtype} against {wanted.dtype}, apart by up to {worst:g})."
            )
    compared = sum(output.numel() for output in found.values())
    return ReloadProof(class_name, logits_compared=compared, tokens_compared=len(token_ids))


def run_probe(jobs: Path) -> str:
    """Run a file of jobs in another process; return the end of its error output, empty if it succeeds."""
    probe = Path(__file__).with_name("reload_probe.py")
    # torch may be in the user's site-packages or on PYTHONPATH, which -I would leave out with the variables
    kept = {name: value for name, value in os.environ.items() if name not in NOT_PASSED_ON}
    environment = {**kept, "TRANSFORMERS_VERBOSITY": "error", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    command = [sys.executable, "-P", str(probe), str(jobs)]
    finished = subprocess.run(
        command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if finished.returncode == 0:
        return ""
    return finished.stderr.strip()[-2000:] or f"exit code {finished.returncode}"
