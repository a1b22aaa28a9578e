"""Requirements of runtimes: model class, kind of rewrite, head counts, layer widths, head dimension and dtype.

`RUNTIMES` holds them as data: rules with their sources. The first rule that does not hold decides; `verdicts` applies
them.

This project runs transformers, ONNX Runtime, onnxruntime-genai, TensorRT, OpenVINO, ExecuTorch, and llama.cpp with the
files that it writes; the rules of vLLM, TensorRT Edge-LLM and of llama.cpp's own converter are read from their sources.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from amp_export.architectures import Kind
from amp_export.doctor.rules import Loader, Outcome, Rule, Support
from amp_export.exporters.gguf.routes import refuse_route
from amp_export.exporters.onnx.support import can_build
from amp_export.exporters.support import can_export
from amp_export.exporters.tensorrt.flavors import builds_with_new_operators
from amp_export.options import Format
from amp_export.pruning.nemotron_nas import refuse

ANY, ALL_HEADS, ALL = Support(), Support(any_heads=False), Support(any_heads=False, any_neurons=False)
_EMBEDDINGS = Support(any_heads=False, note="for embeddings only: it drops the model's head")

VLLM: Mapping[str, Support] = {
    # Where `head_dim` is read: the attention class in vllm/model_executor/models/{llama,mixtral,qwen3,...}.py, 0.33.0.
    **dict.fromkeys(("LlamaForCausalLM", "MistralForCausalLM", "MixtralForCausalLM", "Phi3ForCausalLM"), ANY),
    **dict.fromkeys(("Qwen3ForCausalLM", "Qwen3MoeForCausalLM", "GraniteForCausalLM", "CohereForCausalLM"), ANY),
    **dict.fromkeys(("GemmaForCausalLM", "Gemma2ForCausalLM", "Gemma3ForCausalLM"), ANY),
    # Run by its Transformers backend: `_TRANSFORMERS_SUPPORTED_MODELS`, registry.py; it reads `head_dim` of the config:
    # `get_head_size`, vllm/transformers_utils/model_arch_config_convertor.py.
    **dict.fromkeys(("PhiForCausalLM", "SmolLM3ForCausalLM", "Olmo2ForCausalLM", "Starcoder2ForCausalLM"), ANY),
    "GPTNeoXForCausalLM": ANY,
    # hidden_size // num_heads in qwen2.py, gpt2.py, opt.py, stablelm.py, falcon.py; 4 * hidden_size in falcon.py.
    **dict.fromkeys(("Qwen2ForCausalLM", "GPT2LMHeadModel", "OPTForCausalLM", "StableLmForCausalLM"), ALL_HEADS),
    "FalconForCausalLM": ALL,
    # `_EMBEDDING_MODELS`, `_CROSS_ENCODER_MODELS` and `_MULTIMODAL_MODELS`, registry.py.
    **dict.fromkeys(("BertModel", "BertForMaskedLM", "BertForSequenceClassification", "RobertaModel"), ALL_HEADS),
    **dict.fromkeys(("BertForTokenClassification", "RobertaForSequenceClassification"), ALL_HEADS),
    **dict.fromkeys(("ModernBertModel", "ModernBertForSequenceClassification"), ALL_HEADS),
    "RobertaForMaskedLM": _EMBEDDINGS,
    "WhisperForConditionalGeneration": ALL_HEADS,
}

# The converter was run on a tiny pruned model of each decoder listed here; the files it wrote were not loaded.
LLAMA_CPP: Mapping[str, Support] = {
    # Known classes: `TEXT_MODEL_MAP`, conversion/__init__.py. Any heads: tensors of n_embd_head_k * n_head in
    # src/models/{llama,qwen3,qwen3moe,smollm3,gemma,gemma2,gemma3,t5}.cpp, and conversion/base.py writes `head_dim`.
    **dict.fromkeys(("LlamaForCausalLM", "MistralForCausalLM", "MixtralForCausalLM", "SmolLM3ForCausalLM"), ANY),
    **dict.fromkeys(("Qwen3ForCausalLM", "Qwen3MoeForCausalLM", "T5ForConditionalGeneration"), ANY),
    **dict.fromkeys(("GemmaForCausalLM", "Gemma2ForCausalLM", "Gemma3ForCausalLM"), ANY),
    # Tensors of n_embd in src/models/*.cpp; for Granite, conversion/granite.py drops `head_dim`.
    **dict.fromkeys(("Qwen2ForCausalLM", "Phi3ForCausalLM", "Olmo2ForCausalLM", "Starcoder2ForCausalLM"), ALL_HEADS),
    **dict.fromkeys(("CohereForCausalLM", "StableLmForCausalLM", "GraniteForCausalLM"), ALL_HEADS),
    # conversion/gptneox.py reads rotary_pct from AutoConfig, and transformers 5 no longer has it.
    "GPTNeoXForCausalLM": Support(any_heads=False, note="needs transformers 4: the converter reads rotary_pct"),
    # Also 4 * hidden_size neurons in conversion/{phi,gpt2,falcon}.py.
    **dict.fromkeys(("PhiForCausalLM", "GPT2LMHeadModel", "FalconForCausalLM"), ALL),
    # conversion/bert.py
    **dict.fromkeys(("BertModel", "RobertaModel", "DistilBertModel", "ModernBertModel"), ALL_HEADS),
    **dict.fromkeys(("BertForMaskedLM", "DistilBertForMaskedLM", "ModernBertForMaskedLM"), _EMBEDDINGS),
}

EDGE_LLM = frozenset({"LlamaForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"})
"""Its support matrix lists these families; it honors `head_dim`: `ModelConfig.from_pretrained`, config.py."""


def _supports(table: Mapping[str, Support], outcome: Outcome) -> Support:
    return table.get(outcome.class_name, ANY)


def _is_known_to_vllm(outcome: Outcome) -> bool | None:
    if outcome.class_name in VLLM:
        return True
    return False if outcome.config.architecture.kind is Kind.ENCODER_DECODER else None


def _why_unknown_to_vllm(outcome: Outcome) -> str:
    if outcome.config.architecture.kind is Kind.ENCODER_DECODER:
        return f"the only encoder-decoder it runs is Whisper, not {outcome.class_name}"
    return f"it has no {outcome.class_name} of its own; its Transformers backend was not tried"


def _why_heads(outcome: Outcome) -> str:
    if outcome.query_heads is None:
        return "it needs all query heads, but the scores decide how many the widest layer keeps"
    sizes = f"{outcome.config.hidden_size} / {outcome.query_heads}"
    return f"it computes the head dimension as hidden_size / heads: {sizes}"


def _heads_hold(table: Mapping[str, Support]) -> Callable[[Outcome], bool | None]:
    return lambda outcome: True if _supports(table, outcome).any_heads else outcome.heads_fill_hidden_size


def _neurons_hold(table: Mapping[str, Support]) -> Callable[[Outcome], bool]:
    return lambda outcome: _supports(table, outcome).any_neurons or outcome.keeps_neurons


def _why_neurons(outcome: Outcome) -> str:
    return f"it assumes 4 x hidden_size neurons in {outcome.class_name}"


def _is_built(outcome: Outcome) -> bool:
    is_decoder = outcome.config.architecture.kind is Kind.DECODER
    return is_decoder and can_build(outcome.config) is None


def _why_traced(outcome: Outcome) -> str:
    return f"{outcome.class_name} with this config is exported by tracing"


def _exports(to: Format) -> Rule:
    """Return the rule that the exporter does not refuse the model, in whose words it is refused here."""
    return Rule(
        lambda outcome: can_export(outcome.config, to) is None,
        lambda outcome: (can_export(outcome.config, to) or "").partition("\n")[0],
        "can_export, exporters/support.py",
    )


def _shares_few(outcome: Outcome) -> bool | None:
    if outcome.config.widths.query_group <= 8:
        return True
    return False if outcome.query_heads is not None else None


TRANSFORMERS = Loader(
    "transformers",
    "5.24",
    (
        Rule(
            lambda outcome: outcome.is_stock,
            lambda _: "a modeling file in the checkpoint resizes the layers",
            "modeling_amp.py; checked in every run by reload_probe.py",
            needs="trust_remote_code=True",
        ),
    ),
)

ONNX_RUNTIME = Loader(
    "ONNX Runtime",
    "1.32",
    (
        _exports(Format.ONNX),
        Rule(
            _is_built,
            _why_traced,
            "can_build, exporters/onnx/support.py",
            needs="--via trace",
        ),
    ),
)

FUSED = Loader(
    "ONNX Runtime, fused operators",
    "1.32",
    (
        _exports(Format.ONNX),
        Rule(
            _is_built,
            _why_traced,
            "can_build, exporters/onnx/support.py",
        ),
        Rule(
            lambda _: False,
            lambda _: "GroupQueryAttention counts the tokens of a text, so that none may be padded",
            "exporters/onnx/builder/onnxruntime.py",
            needs="--operators onnxruntime",
        ),
    ),
)

GENAI = Loader(
    "onnxruntime-genai",
    "0.18",
    (
        Rule(
            lambda outcome: outcome.config.architecture.kind is Kind.DECODER,
            lambda _: "amp-export writes genai_config.json for decoders only",
            "exporters/onnx/genai.py",
        ),
        Rule(
            _is_built, lambda _: "amp-export writes no genai_config.json for traced graphs", "exporters/onnx/genai.py"
        ),
        Rule(
            lambda outcome: outcome.has_end_token,
            lambda _: "neither config.json nor generation_config.json has an eos_token_id",
            "exporters/onnx/genai.py",
        ),
    ),
)

TENSORRT_RUNTIME = Loader(
    "TensorRT",
    "RTX 1.7",
    (
        # tried with tensorrt-rtx 1.7.1: engines of all decoders with directly built graphs
        _exports(Format.TENSORRT),
        Rule(
            lambda outcome: builds_with_new_operators(outcome.config),
            lambda _: "its build fails on rotary embeddings of interleaved dimensions",
            "builds_with_new_operators, exporters/tensorrt/flavors.py",
            needs="--opset 20",
        ),
    ),
)

OPENVINO = Loader("OpenVINO", "2026.4", (_exports(Format.OPENVINO),))

EXECUTORCH = Loader("ExecuTorch", "1.4", (_exports(Format.EXECUTORCH),))

GGUF = Loader(
    "llama.cpp, by --to gguf",
    "xllamacpp 2026.10",
    (
        _exports(Format.GGUF),
        Rule(
            lambda outcome: refuse_route(outcome.config, differ=outcome.layers_differ) is None,
            lambda outcome: (refuse_route(outcome.config, differ=outcome.layers_differ) or "").partition("\n")[0],
            "refuse_route, exporters/gguf/routes.py",
        ),
    ),
)

EDGE_LLM_RUNTIME = Loader(
    "TensorRT Edge-LLM",
    "0.11",
    (
        Rule(
            lambda outcome: outcome.is_stock,
            lambda _: "it has one width for all layers, and does not run modeling files",
            "ModelConfig, tensorrt_edgellm/config.py",
        ),
        Rule(
            lambda outcome: outcome.class_name in EDGE_LLM,
            lambda outcome: f"it supports Llama, Qwen2, Qwen2.5 and Qwen3, but no {outcome.class_name}",
            "user_guide/getting_started/supported-models, 0.11.0",
        ),
        Rule(
            lambda outcome: outcome.config.head_dim in (64, 128),
            lambda outcome: f"its attention needs a head dimension of 64 or 128, not {outcome.config.head_dim}",
            "ContextFMHARunner::canImplement, cpp/kernels/contextAttentionKernels/contextFMHARunner.cpp",
        ),
        Rule(
            _shares_few,
            lambda _: "it decodes with at most 8 query heads per KV head",
            "DecoderXQARunner::canImplement, cpp/kernels/decodeAttentionKernels/decoderXQARunner.cpp",
        ),
        Rule(
            lambda outcome: outcome.config.dtype in ("float16", "bfloat16"),
            lambda outcome: f"it supports 16-bit checkpoints, not {outcome.config.dtype or 'unknown dtypes'}",
            "user_guide/getting_started/supported-models, Precision Notes, 0.11.0",
            needs="16-bit weights",
        ),
    ),
    tried=False,
)

VLLM_RUNTIME = Loader(
    "vLLM",
    "0.33",
    (
        Rule(
            lambda outcome: outcome.is_stock,
            lambda _: "amp_resized's class is not a PreTrainedModel, and vLLM has one head count for all layers",
            "_try_resolve_transformers, vllm/model_executor/models/registry.py; create_attention_instances, "
            "vllm/model_executor/models/transformers/base.py",
        ),
        Rule(_is_known_to_vllm, _why_unknown_to_vllm, "vllm/model_executor/models/registry.py"),
        Rule(
            _heads_hold(VLLM),
            _why_heads,
            "vllm/model_executor/models/qwen2.py; --model-impl, vllm/config/model.py",
            needs="--model-impl transformers",
        ),
        Rule(_neurons_hold(VLLM), _why_neurons, "vllm/model_executor/models/falcon.py"),
    ),
    VLLM,
    tried=False,
)

NEMOTRON_NAS_RUNTIMES = Loader(
    "Nemotron-NAS (vLLM, TensorRT-LLM)",
    "of vLLM 0.33",
    (
        Rule(
            lambda outcome: refuse(outcome.config) is None,
            lambda outcome: refuse(outcome.config) or "",
            "vllm/model_executor/models/nemotron_nas.py; tensorrt_llm/_torch/models/modeling_nemotron_nas.py",
        ),
        Rule(
            lambda _: False,
            lambda _: "it is a form of its own, with the same heads in all layers",
            "pruning/nemotron_nas.py",
            needs="--uniform nemotron-nas",
        ),
    ),
    tried=False,
)

LLAMA_CPP_RUNTIME = Loader(
    "llama.cpp (its own converter)",
    "as in llama-cpp-python 0.3.36",
    (
        Rule(
            lambda outcome: outcome.is_stock,
            lambda _: "GGUF supports per-layer widths, but the converter writes them for other classes only",
            "conversion/deci.py, conversion/openelm.py; llama_model::load_hparams, src/llama-model.cpp",
        ),
        Rule(
            lambda outcome: outcome.class_name in LLAMA_CPP,
            lambda outcome: f"convert_hf_to_gguf.py does not support {outcome.class_name}",
            "TEXT_MODEL_MAP, conversion/__init__.py",
        ),
        Rule(_heads_hold(LLAMA_CPP), _why_heads, "create_tensor in src/models/*.cpp; conversion/granite.py"),
        Rule(_neurons_hold(LLAMA_CPP), _why_neurons, "conversion/falcon.py, conversion/gpt2.py, conversion/phi.py"),
    ),
    LLAMA_CPP,
    tried=False,
)

RUNTIMES = (
    TRANSFORMERS,
    ONNX_RUNTIME,
    FUSED,
    GENAI,
    TENSORRT_RUNTIME,
    OPENVINO,
    EXECUTORCH,
    GGUF,
    EDGE_LLM_RUNTIME,
    VLLM_RUNTIME,
    NEMOTRON_NAS_RUNTIMES,
    LLAMA_CPP_RUNTIME,
)
