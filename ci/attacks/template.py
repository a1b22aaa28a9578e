"""The files that are attacked, made once: checkpoints, an output of a whole run, and everything that users write."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from unittest.mock import patch

PROJECT = Path(__file__).parents[2]


def make_template(folder: Path) -> Path:
    """Make the template in a process of its own, since what computes must not be forked afterwards."""
    subprocess.run([sys.executable, __file__, str(folder)], check=True, cwd=PROJECT)
    return folder


def _write(folder: Path) -> None:
    from amp_export.api.validate import validate
    from amp_export.cli import app
    from amp_export.pruning import pipeline
    from amp_export.pruning.reload_check import ReloadProof
    from amp_export.verb_options import ValidateOptions
    from tests.support.tiny_models import save_tiny_model, save_tiny_output, save_tiny_tokenizer

    save_tiny_output(folder)
    validate(folder / "out", ValidateOptions(threads=1))
    checkpoint = folder / "checkpoint"
    (checkpoint / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 0], "temperature": 0.7}))

    sharded = save_tiny_model(folder / "sharded", "llama", num_hidden_layers=2)
    save_tiny_tokenizer(sharded)
    _split(sharded)
    encoder = save_tiny_model(folder / "encoder", "bert", num_hidden_layers=2)
    save_tiny_tokenizer(encoder)

    prompts = [{"text": f"Say the number {number} and nothing else."} for number in range(10)]
    (folder / "prompts.jsonl").write_text("\n".join(map(json.dumps, prompts)))
    (folder / "prompts.txt").write_text("\n".join(prompt["text"] for prompt in prompts))
    (folder / "cases.json").write_text(json.dumps([{"name": "two", "prompt_lengths": [4, 9], "decode_steps": 2}]))
    (folder / "thresholds.toml").write_text(
        '[thresholds]\nmax_kl = 1e-3\nmax_size = "5 MB"\nmin_top1_agreement = 0.9\n'
    )
    # a quarter of the time goes to another process, which attacks of whole runs start for themselves
    with patch.object(pipeline, "prove_reload", lambda *_, **__: ReloadProof("left out", 0, 0)):
        prune = ["prune", "--model", str(checkpoint), "--ratio", "0.1", "--snap", "1", "--fitting-tokens", "128"]
        app([*prune, "--output", str(folder / "pruned-out")], standalone_mode=False)
    app(
        ["validate", str(folder / "out"), "--baseline", str(folder / "baseline.json"), "--update-baseline"],
        standalone_mode=False,
    )
    _measure_as_a_device(folder)


def _measure_as_a_device(folder: Path) -> None:
    """Run a bundle on this machine, and keep the report that a device would write."""
    from amp_export.devices.bundle import bundle
    from amp_export.verb_options import BundleOptions

    file = bundle(folder / "out", BundleOptions(file=folder / "bundle.tar.gz")).file
    with tempfile.TemporaryDirectory() as scratch, tarfile.open(file) as archive:
        archive.extraction_filter = getattr(tarfile, "data_filter", None)  # Python has it from 3.11.4 on
        archive.extractall(scratch)  # noqa: S202 - it is our own
        [unpacked] = Path(scratch).iterdir()
        command = ["bash", str(unpacked / "run.sh"), "--rounds", "8", "--threads", "1"]
        environment = {**os.environ, "AMP_EXPORT_PYTHON": sys.executable}
        subprocess.run(command, check=True, env=environment, capture_output=True)
        identity = hashlib.sha256((unpacked / "manifest.json").read_bytes()).hexdigest()
        (folder / "identity.txt").write_text(identity)
        (folder / "device-report.json").write_bytes((unpacked / "device-report.json").read_bytes())


def _split(checkpoint: Path) -> None:
    """Store weights in two shards with an index, as transformers does."""
    from safetensors.torch import load_file, save_file

    whole = checkpoint / "model.safetensors"
    weights = sorted(load_file(whole).items())
    whole.unlink()
    halves = {f"model-0000{n + 1}-of-00002.safetensors": dict(weights[n::2]) for n in range(2)}
    for name, half in halves.items():
        save_file(half, checkpoint / name, metadata={"format": "pt"})
    content = {
        "metadata": {"total_size": sum(weight.nbytes for _, weight in weights)},
        "weight_map": {name: file for file, half in halves.items() for name in half},
    }
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps(content))


if __name__ == "__main__":
    sys.path.insert(0, str(PROJECT))
    _write(Path(sys.argv[1]))
