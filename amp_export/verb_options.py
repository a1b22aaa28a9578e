"""Options of each command, one frozen dataclass per command; the command line uses the same names."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path

from amp_export.options import (
    Allocation,
    BenchmarkDevice,
    CriterionName,
    DeviceRuntime,
    Dtype,
    EngineRuntime,
    Format,
    HeadPolicy,
    Layout,
    Logits,
    Operators,
    Opset,
    PerLayer,
    Provider,
    RecoveryMethod,
    RoundingMethod,
    Runtime,
    TargetName,
    Uniform,
    Via,
    WeightFormat,
)


@dataclass(frozen=True, kw_only=True)
class PlanChoices:
    """Rules by which a plan chooses the heads and neurons that each layer keeps.

    Attributes:
        criterion: What importance is; by default `obs` for decoders without experts, and the paper's for other models
            and with the paper's allocation.
        allocation: How the budget is divided between attention heads and neurons, and between layers; by default by
            divergence, where that can be measured.
        heads: Which attention heads may be pruned.
        snap: Keep a multiple of this many neurons; by default the target's multiple; for the paper's rule 1, or 8 with
            experts.
        target: The device whose kernels the widths should suit; it decides the default of `snap`.
        one_width: Whether all layers keep the same numbers of heads and neurons, so that a stock class has them.
        heads_per_layer: Whether all layers keep the same number of heads; by default if the budget is allocated
            neither by divergence nor by FLAP's rule, or `one_width` asks for it.
        neurons_per_layer: Whether all layers keep the same number of neurons; the same default.
    """

    criterion: CriterionName | None = None
    allocation: Allocation | None = None
    heads: HeadPolicy = HeadPolicy.AUTO
    snap: int | None = None
    target: TargetName = TargetName.CPU
    one_width: bool = False
    heads_per_layer: PerLayer | None = None
    neurons_per_layer: PerLayer | None = None


@dataclass(frozen=True, kw_only=True)
class PruneOptions(PlanChoices):
    """The options of `prune`, in addition to those of `PlanChoices`.

    Attributes:
        ratio: Share of all parameters to remove; give it or `plan`.
        uniform: How to store layers of different widths.
        calibration: Prompts (`.txt`, `.jsonl`), images or audio (`.npz`, `.safetensors`) to score on, or `alpaca` for
            the paper's dataset, which is downloaded; by default, for text models, prompts shipped with this package.
        scores: Scores of an earlier run, used instead of a calibration pass.
        plan: A plan file to follow instead of a ratio.
        compensate: Whether to update what is kept, so that it makes up for what is removed.
        fitting_tokens: Largest number of calibration tokens to compensate on. Scoring takes half of them, unless
            it is by the paper's measure, and measuring divergences takes few.
        allow_pickle: Read torch pickles if there is no safetensors file; their code is never run.
    """

    ratio: float | None = None
    uniform: Uniform = Uniform.RESIZE
    calibration: Path | None = None
    scores: Path | None = None
    plan: Path | None = None
    compensate: bool = True
    fitting_tokens: int = 12_288
    allow_pickle: bool = False

    @property
    def without_effect(self) -> tuple[str, ...]:
        """Names of the options that differ from their defaults, but that a plan leaves without effect."""
        if self.plan is None:
            return ()
        replaced = {*(each.name for each in fields(PlanChoices)), "scores"}
        return tuple(
            each.name for each in fields(self) if each.name in replaced and getattr(self, each.name) != each.default
        )


@dataclass(frozen=True, kw_only=True)
class DoctorOptions:
    """The options of `diagnose`.

    Attributes:
        uniform: How to store layers of different widths.
        max_batch: The largest batch that the target has to run.
        max_context: The longest sequence in tokens; by default 2048, or the model's context if that is shorter.
    """

    uniform: Uniform = Uniform.RESIZE
    max_batch: int = 1
    max_context: int | None = None


@dataclass(frozen=True, kw_only=True)
class InspectOptions:
    """The options of `inspect`.

    Attributes:
        facts: File to write the facts to; by default, those of a type that nothing describes are kept in the cache.
        architecture: A file of facts to prove, instead of finding them out.
        overwrite: Replace the file of facts.
    """

    facts: Path | None = None
    architecture: Path | None = None
    overwrite: bool = False


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """The options of `export`.

    Attributes:
        to: The format to export to.
        dtype: The dtype of weights and activations; by default float32, for an engine float16.
        opset: The version of the ONNX operators; by default the newest that the runtime supports.
        operators: The operators of an ONNX graph that is built directly.
        logits: The tokens whose logits the graph of a decoder that is built directly computes.
        static_cache: Tokens that the KV cache of an ONNX graph has room for, if it is to have a fixed length and be
            written into; by default it grows.
        weights: Numbers that the weights of linear layers are stored as, times scales; by default they have the dtype
            of the graph.
        block_size: Number of weights that share a scale; by default 32, for an engine 128.
        average_bits: The largest average of the bits of a weight with `weights` int4: those that matter most have 8,
            which is measured on text; by default all have 4.
        rounding: How weights are rounded with `weights` int4.
        layout: Names and places of the files of an ONNX export.
        via: Whether the graph is built directly or traced.
        target: The device that a TensorRT engine is built for; by default the GPU in this machine.
        runtime: The TensorRT variant that builds the engine; by default the one that is installed.
        max_batch: The largest batch of a TensorRT engine or an ExecuTorch program.
        max_context: Their longest sequence, KV cache and new tokens together; by default 2048 for an engine, 512 for
            ExecuTorch, or the model's context if that is shorter.
        allow_pickle: Read torch pickles if there is no safetensors file; their code is never run.
    """

    to: Format = Format.ONNX
    dtype: Dtype | None = None
    opset: Opset | None = None
    operators: Operators = Operators.STANDARD
    logits: Logits = Logits.ALL
    static_cache: int | None = None
    weights: WeightFormat | None = None
    block_size: int | None = None
    average_bits: float | None = None
    rounding: RoundingMethod = RoundingMethod.NEAREST
    layout: Layout = Layout.FLAT
    via: Via = Via.AUTO
    target: TargetName | None = None
    runtime: EngineRuntime | None = None
    max_batch: int = 1
    max_context: int | None = None
    allow_pickle: bool = False


@dataclass(frozen=True, kw_only=True)
class DraftOptions:
    """The options of `draft`.

    Attributes:
        to: The format of both models: ONNX for onnxruntime-genai, GGUF for llama.cpp.
        dtype: The dtype of weights and activations of both; by default float32.
        weights: Numbers that the weights of the pruned model are stored as; by default they have the dtype.
        block_size: Number of its weights that share a scale; by default 32.
        draft_tokens: Tokens that the pruned model drafts before the dense one checks them.
        measure: Whether to compare texts and speed with the dense model's alone, in the runtime of the format.
        texts: Number of texts to measure with.
        new_tokens: Tokens to generate of each.
        threads: Threads of each model when it is measured; by default one per core.
    """

    to: Format = Format.ONNX
    dtype: Dtype | None = None
    weights: WeightFormat | None = None
    block_size: int | None = None
    draft_tokens: int = 4
    measure: bool = True
    texts: int = 8
    new_tokens: int = 64
    threads: int | None = None


@dataclass(frozen=True, kw_only=True)
class RecoverOptions:
    """The options of `recover`.

    Attributes:
        method: How the pruned model is trained.
        text: Text to train on: for distillation `.txt` or `.jsonl`, by default the text shipped with this package; for
            LoRA a `.jsonl` of instructions with their outputs, by default the paper's dataset, which is downloaded.
        minutes: Minutes after which training ends; by default without a limit if `steps` or `epochs` is given or with
            LoRA, otherwise 10.
        steps: Number of steps after which it ends; by default without a limit.
        epochs: Epochs after which it ends, of LoRA alone; by default 2, or without a limit if another limit is given.
        learning_rate: The largest learning rate; by default 2e-4 for distillation and 3e-4 for LoRA.
        windows_per_step: Windows of text, of 512 tokens each, that a step of distillation trains on; by default 1.
        seed: Seed of the order of the text, and of all that LoRA draws.
    """

    method: RecoveryMethod = RecoveryMethod.DISTILL
    text: Path | None = None
    minutes: float | None = None
    steps: int | None = None
    epochs: int | None = None
    learning_rate: float | None = None
    windows_per_step: int | None = None
    seed: int = 0

    @property
    def without_effect(self) -> tuple[str, ...]:
        """Names of the options that are given, but that belong to another method."""
        others = {RecoveryMethod.DISTILL: ("epochs",), RecoveryMethod.LORA: ("windows_per_step",)}
        return tuple(name for name in others[self.method] if getattr(self, name) is not None)


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
class ConvertOptions:
    """The options of `convert`, which runs all steps.

    Attributes:
        prune: Options of `prune`.
        export: Options of `export`.
        threads: Threads of the runtime that validates and benchmarks; by default one per core.
        rounds: Interleaved rounds of the benchmark: see `BenchmarkOptions`.
        time_limit: Seconds after which the benchmark adds no launches.
    """

    prune: PruneOptions = field(default_factory=PruneOptions)
    export: ExportOptions = field(default_factory=ExportOptions)
    threads: int | None = None
    rounds: int = BenchmarkOptions.rounds
    time_limit: float = BenchmarkOptions.time_limit


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


@dataclass(frozen=True, kw_only=True)
class BundleOptions:
    """The options of `bundle`.

    Attributes:
        target: The device that the bundle is for.
        max_batch: The largest batch of the device's engines.
        max_context: Their longest sequence; by default 2048, or the model's context if that is shorter.
        opset: The version of the ONNX operators; by default one that every TensorRT of the device supports.
        against: The output directory to compare with; by default the dense model.
        file: The archive to write; by default `bundle-TARGET.tar.gz` in the output directory.
    """

    target: TargetName = TargetName.CPU
    max_batch: int = 1
    max_context: int | None = None
    opset: Opset | None = None
    against: Path | None = None
    file: Path | None = None


@dataclass(frozen=True, kw_only=True)
class CompareOptions:
    """The options of `compare`.

    Attributes:
        criteria: Criteria of importance to prune by.
        ratios: Shares of all parameters to remove.
        prune: Options of `prune` for every point, without `ratio`, `plan` and `scores`; its criterion is not used.
        ray: Address of a Ray cluster that makes the points; by default, this process makes them.
    """

    criteria: tuple[CriterionName, ...]
    ratios: tuple[float, ...]
    prune: PruneOptions = field(default_factory=PruneOptions)
    ray: str | None = None


@dataclass(frozen=True, kw_only=True)
class SweepOptions:
    """The options of `sweep`. One of `ratios`, `until` and `draft` is required.

    Attributes:
        ratios: Shares of all parameters to remove; by default, whole percents that are legal for the model.
        until: Conditions to search the ratio for, such as `decode_ms<=35 and perplexity<=1.2x`; `docs/sweep.md` has the
            grammar. Without them, all ratios are measured.
        draft: Whether to measure every point as a draft for the dense model, too; without `ratios` and `until`, the
            ratio of the fastest is searched.
        prune: Options of `prune` for every point, without `ratio`, `plan` and `scores`.
        export: Options of `export` for every point and the dense model.
        benchmark: Options of `benchmark` for every point, without `against` and `to`.
        ray: Address of a Ray cluster that makes the points, which are timed here; by default, this process makes them.
    """

    ratios: tuple[float, ...] = ()
    until: str | None = None
    draft: bool = False
    prune: PruneOptions = field(default_factory=PruneOptions)
    export: ExportOptions = field(default_factory=ExportOptions)
    benchmark: BenchmarkOptions = field(default_factory=BenchmarkOptions)
    ray: str | None = None
