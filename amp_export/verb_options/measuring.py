"""Options of the commands that run a model: to check, time or judge it, or to write text."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from amp_export.options import (
    BenchmarkDevice,
    DeviceRuntime,
    Format,
    Provider,
    Runtime,
    TargetName,
)


@dataclass(frozen=True, kw_only=True)
class ValidateOptions:
    """The options of `validate`.

    Attributes:
        to: Which export to validate.
        reference: The checkpoint that was exported; by default the one that the manifest names.
        cases: A JSON file of cases to run; by default the standard cases for the kind of model.
        explain: Compare intermediate values, and name the first layer that differs.
        provider: The ONNX Runtime execution provider.
        threads: Threads of the runtime; by default one per core.
    """

    to: Format = Format.ONNX
    reference: Path | None = None
    cases: Path | None = None
    explain: bool = False
    provider: Provider = Provider.CPU
    threads: int | None = None


@dataclass(frozen=True, kw_only=True)
class BenchmarkOptions:
    """The options of `benchmark`.

    Attributes:
        against: The output directory to compare with; by default the dense model, which is exported for the benchmark.
        rounds: Interleaved rounds of the first launches of both processes; further launches have as many each.
        min_effect: Smallest relative speedup that matters: launches are added until the interval is that narrow.
        time_limit: Seconds after which no launches are added.
        runtime: The runtime for both models; by default the one that runs the export `to`.
        batch: Batch sizes to measure.
        context: Prompt lengths to measure, in tokens; by default 128, or what fits.
        generate: Numbers of tokens to decode after the prompt.
        to: Which export to measure; by default ONNX, unless `runtime` runs another.
        provider: The ONNX Runtime execution provider.
        threads: Threads of the runtime; by default one per core.
        device: Whether the models run on the CPU or on this machine's GPU.
        cuda_graph: Whether steps of decoding are captured as CUDA graphs, and replayed.
    """

    against: Path | None = None
    rounds: int = 20
    min_effect: float = 0.05
    time_limit: float = 120.0
    runtime: Runtime | None = None
    batch: tuple[int, ...] = (1,)
    context: tuple[int, ...] | None = None
    generate: tuple[int, ...] = (16,)
    to: Format | None = None
    provider: Provider = Provider.CPU
    threads: int | None = None
    device: BenchmarkDevice = BenchmarkDevice.CPU
    cuda_graph: bool = False


@dataclass(frozen=True, kw_only=True)
class DeviceOptions:
    """The options of `benchmark_on_device`.

    Attributes:
        target: The device that the bundle is made for, if no bundle exists yet.
        against: The output directory to compare with; by default the dense model.
        rounds: Interleaved rounds to measure.
        threads: Threads of ONNX Runtime; by default the runtime chooses.
        device_runtime: The device's runtime; by default TensorRT if it imports, otherwise ONNX Runtime.
        device_python: The device's Python interpreter that has the runtime.
        ssh_config: A configuration file to use instead of `~/.ssh/config`.
    """

    target: TargetName = TargetName.CPU
    against: Path | None = None
    rounds: int = 20
    threads: int | None = None
    device_runtime: DeviceRuntime | None = None
    device_python: str = "python3"
    ssh_config: Path | None = None


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """The options of `evaluate`. One of `tasks`, `perplexity` and `prompts` is required.

    Attributes:
        tasks: Files of questions (`.jsonl`); names of tasks of the LM Evaluation Harness, or their `.yaml` files.
        perplexity: Text to measure perplexity on (`.txt`).
        prompts: Prompts (`.txt`, `.jsonl`) to generate text from; `--generate` on the command line.
        to: The export of the output directory to evaluate, in its runtime; by default its checkpoint, in PyTorch.
        against: The model or output directory to compare with; for an output directory, by default its dense model.
        limit: Take only the first questions, windows and prompts of each file, this many.
        window: Tokens of a window of the text; by default 1024, or what the models take if that is less.
        stride: Tokens from the start of one window to the next; by default half of the window.
        new_tokens: Largest number of tokens to generate after a prompt.
        few_shot: Examples before each question of the harness' tasks; by default what each task says, or none.
        allow_pickle: Read torch pickles if there is no safetensors file; their code is never run.
    """

    tasks: tuple[str | Path, ...] = ()
    perplexity: Path | None = None
    prompts: Path | None = None
    to: Format | None = None
    against: str | None = None
    limit: int | None = None
    window: int | None = None
    stride: int | None = None
    new_tokens: int = 64
    few_shot: int | None = None
    allow_pickle: bool = False


@dataclass(frozen=True, kw_only=True)
class GenerateOptions:
    """The options of `generate`. One of `prompt` and `prompts` is required.

    Attributes:
        prompt: Texts to go on from; `-` reads one from stdin.
        prompts: A file of prompts (`.txt`, `.jsonl`).
        to: The export of the output directory to run, in its runtime; by default the first that it has, or else its
            checkpoint, in PyTorch.
        against: A model or an output directory that goes on from the same prompts; `dense` is the dense model of the
            output directory.
        chat: Whether a prompt is what a user says, in the tokenizer's chat template, rather than the beginning of a
            text.
        new_tokens: Largest number of tokens to generate after a prompt.
        stop: Strings at which a text ends; they are not part of it.
        temperature: Divisor of the logits; 0 takes the most likely token.
        top_k: Draw from this many of the most likely tokens.
        top_p: Draw from the most likely tokens whose probabilities add up to this.
        min_p: Draw from tokens at least this many times as likely as the most likely one.
        repetition_penalty: How much less likely tokens are that the text has already; 1 changes nothing.
        seed: Seed of what is drawn.
        batch_size: Largest number of prompts to run together.
        threads: Threads of the runtime; by default one per core.
        provider: The execution provider of ONNX Runtime.
        allow_pickle: Read torch pickles if there is no safetensors file; their code is never run.
    """

    prompt: tuple[str, ...] = ()
    prompts: Path | None = None
    to: Format | None = None
    against: str | None = None
    chat: bool = False
    new_tokens: int = 128
    stop: tuple[str, ...] = ()
    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float = 1.0
    seed: int = 0
    batch_size: int = 8
    threads: int | None = None
    provider: Provider = Provider.CPU
    allow_pickle: bool = False
