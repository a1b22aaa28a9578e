"""Tiny random checkpoints of every architecture, written by transformers itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from amp_export.architectures import find_architecture, supported_model_types, with_fields
from amp_export.architectures._layer_rules import LayerRule

SEED = 20250421

BUILDABLE = tuple(
    model_type for model_type in supported_model_types() if find_architecture(model_type).computation is not None
)
"""Families whose graphs can be built directly."""

SPECIAL_TOKENS = ("<pad>", "<s>", "</s>", "<unk>")
"""Their ids are 0 to 3; 97 characters follow, one token each."""

TINY_CONFIG: dict[str, Any] = {
    "vocab_size": 101,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}

SMOLLM2_135M: dict[str, Any] = {
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "tie_word_embeddings": True,
}
"""Fields of the demo model's config, which plans are made for without its weights."""

LATENT: dict[str, Any] = {
    "kv_lora_rank": 12,
    "q_lora_rank": 10,
    "qk_nope_head_dim": 6,
    "qk_rope_head_dim": 4,
    "num_experts_per_tok": 2,
    "n_shared_experts": 1,
}
"""Fields of families with latent attention."""

GATED_DELTA: dict[str, Any] = {
    "linear_key_head_dim": 6,
    "linear_value_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
}
"""Fields of families with gated delta rules."""

MAMBA2: dict[str, Any] = {"mamba_n_heads": 2, "mamba_n_groups": 2, "mamba_d_state": 6, "mamba_chunk_size": 4}
"""Fields of families with state-space mixers."""

SPEECH: dict[str, Any] = {
    "conv_dim": [8, 8, 8],
    "conv_kernel": [10, 8, 8],
    "conv_stride": [5, 8, 8],
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 4,
    "mask_time_prob": 0.0,
}
"""Fields of encoders of raw audio: 320 samples a frame, as in trained ones."""

FAMILY_FIELDS: dict[str, dict[str, Any]] = {
    "granite": {
        "embedding_multiplier": 3.0,
        "logits_scaling": 2.0,
        "residual_multiplier": 0.7,
        "attention_multiplier": 0.4,
    },
    "gemma2": {"query_pre_attn_scalar": 12, "sliding_window": 6},
    "gemma3_text": {"query_pre_attn_scalar": 12, "sliding_window": 6},
    "ministral": {"sliding_window": 6},
    "ministral3": {
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 1e4,
            "factor": 32.0,
            "original_max_position_embeddings": 4,
            "llama_4_scaling_beta": 0.5,
        }
    },
    "olmo3": {"sliding_window": 6},
    "exaone4": {"sliding_window": 6, "sliding_window_pattern": 2},
    "cohere2": {"sliding_window": 6, "sliding_window_pattern": 2},
    "hunyuan_v1_dense": {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "alpha": 100.0, "factor": 1.0}},
    "gptj": {"rotary_dim": 4},
    "codegen": {"rotary_dim": 4},
    "mpt": {"use_cache": True},
    "falcon": {"bias": True},
    "cohere": {"logit_scale": 0.5},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen3_moe": {"num_local_experts": 4, "num_experts_per_tok": 2, "norm_topk_prob": True},
    "olmoe": {"num_experts": 4, "num_experts_per_tok": 2, "norm_topk_prob": True, "clip_qkv": 1.0},
    "qwen2_moe": {
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "norm_topk_prob": True,
        "shared_expert_intermediate_size": 32,
    },
    "gpt_oss": {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 6, "swiglu_limit": 1.0},
    "deepseek_v2": {**LATENT, "q_lora_rank": None, "n_routed_experts": 4, "topk_method": "greedy"},
    "deepseek_v3": {**LATENT, "n_routed_experts": 4, "n_group": 2, "topk_group": 1},
    "llama4_text": {
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "intermediate_size_mlp": 40,
        "attention_chunk_size": 6,
        "no_rope_layer_interval": 2,
        "floor_scale": 4,
        "attention_bias": True,
    },
    "mistral4": {
        **LATENT,
        "n_routed_experts": 4,
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 1e4,
            "factor": 32.0,
            "original_max_position_embeddings": 4,
            "llama_4_scaling_beta": 0.5,
            "mscale_all_dim": 1.0,
            "mscale": 1.0,
        },
    },
    "phimoe": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "granitemoe": {
        "embedding_multiplier": 3.0,
        "logits_scaling": 2.0,
        "residual_multiplier": 0.7,
        "attention_multiplier": 0.4,
        "num_local_experts": 4,
    },
    "modernbert": {
        "local_attention": 6,
        "cls_token_id": 1,
        "sep_token_id": 2,
        "attention_bias": True,
        "mlp_bias": True,
    },
    "lfm2": {"conv_bias": True, "block_auto_adjust_ff_dim": False},
    # with a usual epsilon, the norm of a head that reads nearly nothing would make rounding the most of it
    "qwen3_5_text": {**GATED_DELTA, "attention_bias": True, "rms_norm_eps": 1e-2},
    "qwen3_next": {
        **GATED_DELTA,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "norm_topk_prob": True,
        "shared_expert_intermediate_size": 24,
    },
    "falcon_h1": {
        **MAMBA2,
        "mamba_d_ssm": 32,
        "embedding_multiplier": 1.4,
        "lm_head_multiplier": 0.6,
        "key_multiplier": 0.7,
        "attention_in_multiplier": 1.3,
        "attention_out_multiplier": 0.8,
        "mlp_multipliers": [0.9, 1.2],
        "ssm_in_multiplier": 1.25,
        "ssm_out_multiplier": 0.75,
        "ssm_multipliers": [0.7, 1.1, 0.8, 1.3, 0.6],
        "attention_bias": True,
        "mlp_bias": True,
        "mamba_proj_bias": True,
        "projectors_bias": True,
    },
    "bamba": {**MAMBA2, "attention_bias": True, "mlp_bias": True},
    "granitemoehybrid": {
        **MAMBA2,
        "embedding_multiplier": 3.0,
        "logits_scaling": 2.0,
        "residual_multiplier": 0.7,
        "attention_multiplier": 0.4,
        "num_local_experts": 0,
        "position_embedding_type": "rope",
    },
    "gemma4_text": {
        "sliding_window": 6,
        "global_head_dim": 12,
        "vocab_size_per_layer_input": 101,
        "hidden_size_per_layer_input": 4,
        "final_logit_softcapping": 20.0,
    },
    "gemma3n_text": {
        "sliding_window": 6,
        "vocab_size_per_layer_input": 101,
        "hidden_size_per_layer_input": 4,
        "laurel_rank": 4,
        "altup_num_inputs": 2,
        "num_kv_shared_layers": 0,
    },
    "vit": {"image_size": 12, "patch_size": 4},
    "clip_vision_model": {"image_size": 12, "patch_size": 4},
    "siglip_vision_model": {"image_size": 12, "patch_size": 4},
    "siglip2_vision_model": {"num_patches": 16, "patch_size": 4},
    "dinov2": {"image_size": 12, "patch_size": 4},
    "dinov3_vit": {"image_size": 12, "patch_size": 4, "use_gated_mlp": True, "num_register_tokens": 2},
    "wav2vec2": SPEECH,
    "hubert": {**SPEECH, "feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True},
    "moonshine": {"attention_bias": True, "partial_rotary_factor": 0.75, "decoder_start_token_id": 1},
    "electra": {"embedding_size": 16},
    "deberta-v2": {
        "relative_attention": True,
        "pos_att_type": ["p2c", "c2p"],
        "position_buckets": 4,
        "norm_rel_ebd": "layer_norm",
    },
    "albert": {"embedding_size": 16},
    "t5gemma": {
        **{f"{part}.query_pre_attn_scalar": 12 for part in ("encoder", "decoder")},
        **{f"{part}.sliding_window": 6 for part in ("encoder", "decoder")},
    },
    "t5": {"feed_forward_proj": "gated-gelu", "decoder_start_token_id": 0},
    "mt5": {"decoder_start_token_id": 0},
    "umt5": {"decoder_start_token_id": 0},
    **{name: {"decoder_start_token_id": 2} for name in ("bart", "m2m_100", "marian", "mbart", "pegasus")},
    "whisper": {
        "num_mel_bins": 8,
        "max_source_positions": 12,
        "decoder_start_token_id": 1,
        "suppress_tokens": None,
        "begin_suppress_tokens": None,
    },
}
"""Additional config fields by family, so that each of its own features has an effect."""


NOISE = {"qwen3_5_text": 1e-3}
"""How far logits of tiny models may be apart, of families that need more than others: transformers computes a gated
delta rule in float32 also where the model is in float64, and norms magnify what is next to nothing."""


OTHER_KINDS = {
    "lfm2": "conv",
    **dict.fromkeys(("granitemoehybrid", "qwen3_5_text", "qwen3_next"), "linear_attention"),
}
"""The kind of layers without attention, of families that have some."""


def save_tiny_model(folder: Path, model_type: str, **config_overrides: Any) -> Path:
    """Write a checkpoint with seeded random weights, biases that are not zero, and norms that are not one.

    Args:
        folder: Folder to create.
        model_type: Model type, such as `llama`.
        **config_overrides: Config fields that differ from `TINY_CONFIG`.

    Returns:
        The folder.
    """
    import transformers

    fields = family_fields(model_type, {**TINY_CONFIG, **FAMILY_FIELDS.get(model_type, {}), **config_overrides})
    class_name = fields.pop("class_name", find_architecture(model_type).class_name)
    model = getattr(transformers, class_name)(transformers.AutoConfig.for_model(model_type, **fields))
    randomize(model)
    model.save_pretrained(folder)
    return folder


def family_fields(model_type: str, fields: dict[str, Any]) -> dict[str, Any]:
    """Return config fields under the family's names, without those that it lacks."""
    architecture = find_architecture(model_type)
    named = {architecture.field_name(name): value for name, value in fields.items()}
    if model_type == "opt":
        named["word_embed_proj_dim"] = fields["hidden_size"]
    if "kv_lora_rank" in architecture.defaults:
        named["num_key_value_heads"] = fields["num_attention_heads"]
    if architecture.mlp_layers is not None and architecture.mlp_layers.after is not None:
        named["intermediate_size"] = fields["intermediate_size"]
        named[architecture.mlp_layers.after] = min(1, fields["num_hidden_layers"] - 1)
    if architecture.mlp_layers is not None and architecture.mlp_layers.every is not None:
        # two layers must both have what may differ
        named[architecture.mlp_layers.every] = 2 if fields["num_hidden_layers"] > 2 else 1
    if (rule := architecture.attention_layers) is not None:
        for name, kinds in kinds_of_layers(model_type, rule, fields["num_hidden_layers"]).items():
            named.setdefault(name, kinds)
    if (rule := architecture.mlp_layers) is not None:
        for name, (kind, *_) in rule.kinds.items():
            named.setdefault(name, [kind] * fields["num_hidden_layers"])
    for stack in architecture.more_stacks:
        named |= {name: fields[canonical] for canonical, name in stack.names.items() if canonical in fields}
    return with_fields({}, {name: value for name, value in named.items() if name is not None})


def kinds_of_layers(model_type: str, rule: LayerRule, layers: int) -> dict[str, Any]:
    """Return the config fields with which every second layer attends, or the only one."""
    attending = [number for number in range(layers) if number % 2 or layers == 1]
    if not rule.kinds:
        assert rule.numbers is not None
        return {rule.numbers: attending}
    ((name, (kind, *_)),) = rule.kinds.items()
    return {name: [kind if number in attending else OTHER_KINDS[model_type] for number in range(layers)]}


def least_fields(model_type: str) -> dict[str, Any]:
    """Return the config fields without which a config that says nothing is refused."""
    architecture = find_architecture(model_type)
    rule = architecture.attention_layers
    if rule is None or rule.otherwise:
        return dict(architecture.required)
    return {**architecture.required, **kinds_of_layers(model_type, rule, architecture.defaults["num_hidden_layers"])}


def randomize(model: Any, *, seed: int = SEED, vocab_size: int | None = None) -> None:
    """Redraw every parameter: no biases of zero, no norms of one, and logits of several units.

    Args:
        model: The model.
        seed: Seed of the random numbers.
        vocab_size: Rows of its token embedding; by default those that its config says.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
            if parameter.ndim == 2:
                # keeps the variance of the input of a linear layer, and gives embeddings unit variance
                is_embedding = parameter.shape[0] == (vocab_size or model.config.vocab_size)
                parameter.copy_(noise if is_embedding else noise / parameter.shape[1] ** 0.5)
            else:
                parameter.copy_(0.3 * noise)
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1 and name.endswith("weight"):
                parameter.add_(1.0)  # the weight of a norm


def save_tiny_tokenizer(folder: Path) -> None:
    """Write a tokenizer next to a checkpoint: one token for each printable ASCII character, tab and newline."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    characters = ["\t", "\n", *map(chr, range(32, 127))]
    vocabulary = {token: number for number, token in enumerate([*SPECIAL_TOKENS, *characters])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)


def save_tiny_samples(folder: Path) -> Path:
    """Write calibration samples next to a checkpoint, and into it a tokenizer if it takes text.

    Returns:
        The file.
    """
    import numpy as np

    from amp_export.architectures import Modality
    from amp_export.checkpoints.reading import read_config
    from amp_export.inputs.patches import describe_patches
    from amp_export.inputs.random import input_name, signal_shape

    config = read_config(folder)[1]
    if config.architecture.modality is Modality.TEXT:
        save_tiny_tokenizer(folder)
        file = folder.parent / "prompts.txt"
        file.write_text("\n".join(f"Say the number {number} and nothing else." for number in range(10)))
        return file
    samples = np.random.default_rng(SEED).standard_normal((6, *signal_shape(config, 8)), np.float32)
    arrays: dict[str, Any] = {input_name(config): samples}
    if config.architecture.takes_patches:
        arrays |= describe_patches([8] * len(samples))
    np.savez(folder.parent / "samples.npz", **arrays)
    return folder.parent / "samples.npz"


def save_tiny_output(folder: Path) -> Path:
    """Write an output directory with the graph of a narrower Llama, as if it had been pruned.

    A full conversion would write the same files, but take ten times as long.

    Returns:
        The output directory; the dense checkpoint is beside it.
    """
    from dataclasses import replace

    from amp_export.api.export import export
    from amp_export.architectures import LayerWidths
    from amp_export.checkpoints.hashing import hash_weights
    from amp_export.checkpoints.reading import open_checkpoint
    from amp_export.outputs.manifest import Manifest, PlanSummary, RewriteKind, RewriteRecord, SourceRecord

    dense = open_checkpoint(save_tiny_model(folder / "checkpoint", "llama", num_hidden_layers=2))
    pruned = save_tiny_model(folder / "out/pruned", "llama", num_hidden_layers=2, intermediate_size=32)
    for checkpoint in (dense.path, pruned):
        save_tiny_tokenizer(checkpoint)
    source = SourceRecord("tiny", str(dense.path), hash_weights(dense))
    Manifest(source=source, config_before=dict(dense.raw_config)).save(folder / "out")
    export(pruned, folder / "out")
    widths = LayerWidths(4, 2, 48)
    plan = PlanSummary(
        asked=0.3,
        achieved=1 / 3,
        parameters_before=3,
        parameters_after=2,
        widths_before=widths,
        widths=(replace(widths, neurons=32),) * 2,
        settings={"allocation": "balanced", "snap": 1},
        reasons={"neurons": "a third of them"},
        calibration="nothing",
    )
    rewrite = RewriteRecord(RewriteKind.SAME_CLASS, "LlamaForCausalLM", "the config can say it")
    replace(Manifest.load(folder / "out"), plan=plan, rewrite=rewrite).save(folder / "out")
    return folder / "out"
