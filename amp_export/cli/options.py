"""Command-line options: flag and help for each field of an options dataclass."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from amp_export.cli.draft_options import DRAFT
from amp_export.cli.export_options import EXPORT, MAX_BATCH, MAX_CONTEXT
from amp_export.cli.inspect_options import INSPECT
from amp_export.cli.quality_options import EVALUATE, GENERATE
from amp_export.cli.shared_options import ALLOW_PICKLE, PROVIDER, TARGET_NAMES, THREADS
from amp_export.errors import RequestError
from amp_export.options import (
    Allocation,
    CriterionName,
    DeviceRuntime,
    Format,
    HeadPolicy,
    Opset,
    PerLayer,
    RecoveryMethod,
    Runtime,
    TargetName,
    Uniform,
)
from amp_export.verb_options import (
    BenchmarkOptions,
    BundleOptions,
    DeviceOptions,
    DoctorOptions,
    DraftOptions,
    EvaluateOptions,
    ExportOptions,
    GenerateOptions,
    InspectOptions,
    PlanChoices,
    PruneOptions,
    RecoverOptions,
    ValidateOptions,
)

DEFAULT_MODEL = "demo"
DEFAULT_RATIO = 0.1
DEFAULT_OUTPUT = Path("out")

_MODEL = typer.Option(
    "--model", "-m", metavar="MODEL", help="Hub id, checkpoint directory, .gguf file, or demo (SmolLM2-135M-Instruct)."
)
Model = Annotated[str, _MODEL]
MaybeModel = Annotated[str | None, _MODEL]
Revision = Annotated[
    str | None,
    typer.Option("--revision", metavar="REV", help="Branch, tag or commit of a hub id.  [default: its main branch]"),
]
Output = Annotated[Path, typer.Option("--output", "-o", metavar="OUT", help="Output directory.")]
OutArgument = Annotated[Path, typer.Argument(metavar="OUT", help="Output directory of an earlier command.")]
MaybeOutArgument = Annotated[Path | None, typer.Argument(metavar="OUT", help="Output directory of an earlier command.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an earlier result.")]
Json = Annotated[bool, typer.Option("--json", help="Print the report as JSON on stdout, and nothing else there.")]

_AGAINST = Annotated[
    Path | None, typer.Option(metavar="OTHER", help="Output directory to compare with.  [default: the dense model]")
]
_UNIFORM = Annotated[
    Uniform,
    typer.Option(
        "--uniform",
        help="How to store layers of different widths: resize ships a modeling file that resizes them at load time, "
        "pad zero-pads them to a common width, nemotron-nas also writes a checkpoint for vLLM and TensorRT-LLM.",
    ),
]
ROUNDS = Annotated[int, typer.Option(min=2, metavar="N", help="Interleaved rounds to measure.")]
TIME_LIMIT = Annotated[
    float,
    typer.Option(
        "--time-limit", min=0, metavar="SECONDS", help="Time after which no launches are added to resolve a speedup."
    ),
]
_PLAN_CHOICES = {
    "criterion": Annotated[
        CriterionName | None,
        typer.Option(
            help="What makes a head or neuron important: the paper's measure (amp), activations times weights (wanda), "
            "their fluctuation (flap), what others cannot make up for (obs), gradients (taylor), weights "
            "alone (magnitude); random and reversed are for comparison.  [default: obs for decoders without experts, "
            "otherwise amp]"
        ),
    ],
    "allocation": Annotated[
        Allocation | None,
        typer.Option(
            help="Meet the parameter budget by what each layer is measured to cost (kl), by importance alone "
            "(balanced), by FLAP's rule across layers (flap, which needs --criterion flap), or apply the paper's rule "
            "as published (paper).  [default: kl for decoders without experts, "
            "otherwise balanced]"
        ),
    ],
    "heads": Annotated[
        HeadPolicy,
        typer.Option(
            help="Which attention heads to prune: whole KV groups (groups), query heads within each group (within), "
            "whichever scores better (auto), or none."
        ),
    ],
    "snap": Annotated[
        int | None, typer.Option(metavar="N", help="Keep a multiple of N neurons.  [default: 16, for a GPU 64]")
    ],
    "target": Annotated[
        TargetName,
        typer.Option("--target", metavar="DEVICE", help=f"Device that the widths should suit: {TARGET_NAMES}."),
    ],
    "one_width": Annotated[
        bool,
        typer.Option(
            "--one-width",
            help="Keep the same numbers of heads and neurons in every layer, so that stock classes and runtimes load "
            "them.",
        ),
    ],
    "heads_per_layer": Annotated[
        PerLayer | None,
        typer.Option(
            "--heads-per-layer",
            help="Keep the same number of heads in every layer, or allocate globally.  [default: global with "
            "--allocation kl and flap]",
        ),
    ],
    "neurons_per_layer": Annotated[
        PerLayer | None,
        typer.Option(
            "--neurons-per-layer",
            help="Keep the same number of neurons in every layer, or allocate globally.  [default: global with "
            "--allocation kl and flap]",
        ),
    ],
}

FLAGS: Mapping[type[Any], Mapping[str, Any]] = {
    PlanChoices: _PLAN_CHOICES,
    PruneOptions: {
        "ratio": Annotated[
            float | None,
            typer.Option("--ratio", "-r", metavar="R", help="Share of all parameters to remove, between 0 and 1."),
        ],
        **_PLAN_CHOICES,
        "uniform": _UNIFORM,
        "calibration": Annotated[
            Path | None,
            typer.Option(
                metavar="FILE|alpaca",
                help="Samples to score on: prompts (.txt, .jsonl), images or audio (.npz, .safetensors), or alpaca to "
                "download the paper's dataset; by default, for text models, built-in prompts.",
            ),
        ],
        "scores": Annotated[Path | None, typer.Option("--scores", metavar="FILE", help="Scores of an earlier run.")],
        "plan": Annotated[
            Path | None, typer.Option("--plan", metavar="FILE", help="Plan to follow, instead of a ratio.")
        ],
        "compensate": Annotated[
            bool,
            typer.Option(
                "--compensate/--no-compensate",
                help="Update the weights that are kept, so that they make up for those that are removed.",
            ),
        ],
        "fitting_tokens": Annotated[
            int,
            typer.Option(
                "--fitting-tokens",
                min=1,
                metavar="N",
                help="Calibration tokens to score and to compensate on, at most.",
            ),
        ],
        "allow_pickle": ALLOW_PICKLE,
    },
    DoctorOptions: {"uniform": _UNIFORM, "max_batch": MAX_BATCH, "max_context": MAX_CONTEXT},
    ExportOptions: EXPORT,
    DraftOptions: DRAFT,
    InspectOptions: INSPECT,
    RecoverOptions: {
        "method": Annotated[
            RecoveryMethod,
            typer.Option(
                "--method",
                help="Train all weights towards the dense model's predictions (distill), or low-rank adapters on "
                "instructions, as in the paper (lora).",
            ),
        ],
        "text": Annotated[
            Path | None,
            typer.Option(
                "--text",
                metavar="FILE",
                help="Text to train on (.txt, .jsonl); for lora instructions with outputs (.jsonl).  [default: about "
                "100,000 tokens shipped with amp-export; for lora alpaca, the paper's dataset, which is downloaded]",
            ),
        ],
        "minutes": Annotated[
            float | None,
            typer.Option(
                "--minutes",
                metavar="M",
                help="Time to train.  [default: 10; no limit beside --steps, or with lora]",
            ),
        ],
        "steps": Annotated[
            int | None, typer.Option("--steps", min=1, metavar="N", help="Steps to train.  [default: no limit]")
        ],
        "epochs": Annotated[
            int | None,
            typer.Option(
                "--epochs",
                min=1,
                metavar="N",
                help="Epochs to train, for lora.  [default: 2; no limit beside --minutes or --steps]",
            ),
        ],
        "learning_rate": Annotated[
            float | None,
            typer.Option("--learning-rate", metavar="R", help="Largest learning rate.  [default: 2e-4; for lora 3e-4]"),
        ],
        "windows_per_step": Annotated[
            int | None,
            typer.Option(
                "--windows-per-step",
                min=1,
                metavar="N",
                help="Windows of 512 tokens that a step trains on, for distill.  [default: 1]",
            ),
        ],
        "seed": Annotated[
            int, typer.Option("--seed", min=0, metavar="N", help="Seed of the order of the text, and of lora's draws.")
        ],
    },
    ValidateOptions: {
        "to": Annotated[Format, typer.Option("--to", help="Export format to validate.")],
        "reference": Annotated[
            Path | None, typer.Option(metavar="CHECKPOINT", help="Checkpoint that was exported.  [default: OUT's own]")
        ],
        "cases": Annotated[
            Path | None,
            typer.Option("--cases", metavar="FILE", help="JSON file of cases to run.  [default: the standard cases]"),
        ],
        "explain": Annotated[
            bool,
            typer.Option("--explain", help="Compare intermediate values, and name the first layer that differs."),
        ],
        "provider": PROVIDER,
        "threads": THREADS,
    },
    BenchmarkOptions: {
        "against": _AGAINST,
        "rounds": ROUNDS,
        "min_effect": Annotated[
            float,
            typer.Option("--min-effect", metavar="E", help="Smallest relative speedup that matters, to be resolved."),
        ],
        "time_limit": TIME_LIMIT,
        "runtime": Annotated[
            Runtime | None,
            typer.Option(help="Runtime for both models.  [default: that of --to, ONNX Runtime or TensorRT]"),
        ],
        "batch": Annotated[str, typer.Option(metavar="N,...", help="Batch sizes.")],
        "context": Annotated[
            str | None,
            typer.Option(metavar="N,...", help="Prompt lengths in tokens.  [default: 128, or what fits]"),
        ],
        "generate": Annotated[str, typer.Option(metavar="N,...", help="Tokens to decode after the prompt.")],
        "to": Annotated[Format | None, typer.Option("--to", help="Export format to measure.  [default: onnx]")],
        "provider": PROVIDER,
        "threads": THREADS,
        "cuda_graph": Annotated[
            bool,
            typer.Option("--cuda-graph", help="On a GPU, replay each decode step as a CUDA graph, without launches."),
        ],
    },
    DeviceOptions: {
        "target": Annotated[
            TargetName,
            typer.Option("--target", metavar="DEVICE", help=f"Device that the bundle is made for: {TARGET_NAMES}."),
        ],
        "against": _AGAINST,
        "rounds": ROUNDS,
        "threads": THREADS,
        "device_runtime": Annotated[
            DeviceRuntime | None,
            typer.Option(help="Runtime on the device.  [default: TensorRT if it imports there, else ONNX Runtime]"),
        ],
        "device_python": Annotated[
            str, typer.Option(metavar="PATH", help="Python on the device that has the runtime, e.g. ~/venv/bin/python.")
        ],
        "ssh_config": Annotated[
            Path | None,
            typer.Option(
                metavar="FILE", exists=True, dir_okay=False, help="ssh configuration file, instead of ~/.ssh/config."
            ),
        ],
    },
    EvaluateOptions: EVALUATE,
    GenerateOptions: GENERATE,
    BundleOptions: {
        "target": Annotated[
            TargetName,
            typer.Option("--target", metavar="DEVICE", help=f"Device that the bundle is for: {TARGET_NAMES}."),
        ],
        "max_batch": Annotated[int, typer.Option(min=1, metavar="N", help="Largest batch of the device's engines.")],
        "max_context": Annotated[
            int | None,
            typer.Option(
                metavar="N", help="Their longest sequence.  [default: 2048, or the model's context if shorter]"
            ),
        ],
        "opset": Annotated[
            Opset | None,
            typer.Option("--opset", help="ONNX opset.  [default: what every TensorRT of the device supports]"),
        ],
        "against": _AGAINST,
        "file": Annotated[
            Path | None,
            typer.Option(
                "--output", "-o", metavar="FILE", help="Archive to write.  [default: OUT/bundle-TARGET.tar.gz]"
            ),
        ],
    },
}
"""Flag of each field by options dataclass, in the order of the help page."""


def read_numbers(option: str, text: str) -> tuple[int, ...]:
    """Return the comma-separated numbers of an option.

    Raises:
        RequestError: One of them is not a whole number above 0.
    """
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() and int(word) > 0 for word in words):
        raise RequestError(
            f"{option} is {text!r}; expected one whole number above 0, or several separated by commas.\n"
            f"For example: {option} 1,4,16"
        )
    return tuple(dict.fromkeys(map(int, words)))


READERS: Mapping[str, Callable[[str], tuple[int, ...]]] = {
    name: lambda text, name=name: read_numbers(f"--{name}", text)  # type: ignore[misc]
    for name in ("batch", "context", "generate")
}
"""Parsers of fields that the command line takes as text."""
