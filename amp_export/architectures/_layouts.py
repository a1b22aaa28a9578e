"""Layouts that several families share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from amp_export.architectures._blocks import Block, Count, Features, Projection, PrunedUnit, Tensor, Total
from amp_export.architectures._computation import Conditions, Not, Order
from amp_export.architectures._derived import Derived, Share
from amp_export.architectures._mixers import GatedDeltaRule, State, StateSpace

GROUP_ATTRIBUTE = {"num_key_value_groups": Count.QUERY_GROUP}
"""The only attribute that most attention classes read besides the shapes of their weights."""

GPT2_NAMES: Mapping[str, str | None] = {
    "hidden_size": "n_embd",
    "intermediate_size": "n_inner",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "max_position_embeddings": "n_positions",
    "head_dim": None,
}
"""Fields of GPT-2's config, and of those made after it, by canonical name."""

ALL_QUERY_HEADS = Features((PrunedUnit.QUERY_HEADS,))
ALL_KEY_HEADS = Features((PrunedUnit.KEY_VALUE_HEADS,))


def separate_attention(
    *,
    bias: bool | str,
    output_bias: bool | str | None = None,
    output: str = "o_proj",
    module: str = "self_attn",
    tensors: tuple[Tensor, ...] = (),
    attributes: Mapping[str, Count] = GROUP_ATTRIBUTE,
) -> Block:
    """Return query, key, value and output as separate linear layers: `LlamaAttention`, `modeling_llama.py`, 5.24."""
    return Block(
        module=module,
        inputs=(
            Projection(f"{module}.q_proj", rows=PrunedUnit.QUERY_HEADS, bias=bias),
            Projection(f"{module}.k_proj", rows=PrunedUnit.KEY_VALUE_HEADS, bias=bias),
            Projection(f"{module}.v_proj", rows=PrunedUnit.KEY_VALUE_HEADS, bias=bias),
        ),
        output=Projection(
            f"{module}.{output}", columns=PrunedUnit.QUERY_HEADS, bias=bias if output_bias is None else output_bias
        ),
        tensors=tensors,
        attributes=attributes,
    )


def gated_mlp(*, bias: bool | str = False, module: str = "mlp") -> Block:
    """Return gate, up and down: `LlamaMLP`, `modeling_llama.py`, transformers 5.24."""
    return Block(
        module=module,
        inputs=(
            Projection(f"{module}.gate_proj", rows=PrunedUnit.NEURONS, bias=bias),
            Projection(f"{module}.up_proj", rows=PrunedUnit.NEURONS, bias=bias),
        ),
        output=Projection(f"{module}.down_proj", columns=PrunedUnit.NEURONS, bias=bias),
    )


def fused_gated_mlp() -> Block:
    """Return gate and up in one projection, and down: `Phi3MLP`, `modeling_phi3.py`, transformers 5.24."""
    return Block(
        module="mlp",
        inputs=(Projection("mlp.gate_up_proj", rows=(PrunedUnit.NEURONS, PrunedUnit.NEURONS)),),
        output=Projection("mlp.down_proj", columns=PrunedUnit.NEURONS),
    )


def plain_mlp(up: str, down: str, *, bias: bool | str, transposed: bool = False) -> Block:
    """Return two linear layers with an activation between them; the names are module paths below the layer."""
    return Block(
        module=up.rpartition(".")[0],
        inputs=(Projection(up, rows=PrunedUnit.NEURONS, bias=bias, transposed=transposed),),
        output=Projection(down, columns=PrunedUnit.NEURONS, bias=bias, transposed=transposed),
    )


def latent_attention() -> Block:
    """Return queries, keys and values made from narrow latents: `DeepseekV3Attention`, `modeling_deepseek_v3.py`, 5.24.

    The latents, and the part of the keys that all heads share, stay as they are.
    """
    of_query, of_key = ("qk_nope_head_dim", "qk_rope_head_dim"), ("qk_nope_head_dim", "v_head_dim")
    return Block(
        module="self_attn",
        inputs=(
            Projection(
                "self_attn.q_proj",
                rows=PrunedUnit.QUERY_HEADS,
                entries_per_head=of_query,
                when={"q_lora_rank": None},
            ),
            Projection(
                "self_attn.q_b_proj",
                rows=PrunedUnit.QUERY_HEADS,
                entries_per_head=of_query,
                reads="q_lora_rank",
                when={"q_lora_rank": Not(None)},
            ),
            Projection(
                "self_attn.kv_b_proj",
                rows=PrunedUnit.KEY_VALUE_HEADS,
                entries_per_head=of_key,
                reads="kv_lora_rank",
            ),
        ),
        output=Projection("self_attn.o_proj", columns=PrunedUnit.QUERY_HEADS, bias="attention_bias"),
    )


def expert_mlp(count: str, *, module: str = "mlp.experts", transposed: bool = False) -> Block:
    """Return experts that fuse gate and up in one parameter: `MixtralExperts`, `modeling_mixtral.py`, 5.24.

    Args:
        count: The config field with the number of experts.
        module: Module path of the experts, relative to the layer.
        transposed: Whether the weight of an expert is [in, out].
    """
    both = (PrunedUnit.NEURONS, PrunedUnit.NEURONS)
    return Block(
        module=module,
        inputs=(Projection(f"{module}.gate_up_proj", rows=both, transposed=transposed, stacked=count),),
        output=Projection(f"{module}.down_proj", columns=PrunedUnit.NEURONS, transposed=transposed, stacked=count),
        attributes={"intermediate_dim": Count.NEURONS},
    )


def bert_layer() -> tuple[Block, Block, tuple[Tensor, ...]]:
    """Return attention, MLP and norms of `BertLayer`, `modeling_bert.py`, transformers 5.24."""
    attention = Block(
        module="attention.self",
        inputs=(
            Projection("attention.self.query", rows=PrunedUnit.QUERY_HEADS, bias=True),
            Projection("attention.self.key", rows=PrunedUnit.KEY_VALUE_HEADS, bias=True),
            Projection("attention.self.value", rows=PrunedUnit.KEY_VALUE_HEADS, bias=True),
        ),
        output=Projection("attention.output.dense", columns=PrunedUnit.QUERY_HEADS, bias=True),
        attributes={"num_attention_heads": Count.QUERY_HEADS, "all_head_size": Count.QUERY_FEATURES},
    )
    mlp = Block(
        module="output",
        inputs=(Projection("intermediate.dense", rows=PrunedUnit.NEURONS, bias=True),),
        output=Projection("output.dense", columns=PrunedUnit.NEURONS, bias=True),
    )
    return attention, mlp, (*norm("attention.output.LayerNorm", bias=True), *norm("output.LayerNorm", bias=True))


BERT_DEFAULTS: Mapping[str, Any] = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
    "is_decoder": False,
    "add_cross_attention": False,
    "tie_word_embeddings": True,
}


GATED_DELTA: Mapping[str, Any] = {
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 32,
}
"""Config fields of gated delta rules, which stay: `Qwen3NextGatedDeltaNet`, `modeling_qwen3_next.py`, 5.24."""

MAMBA2: Mapping[str, Any] = {
    "mamba_n_heads": 128,
    "mamba_d_head": None,
    "mamba_n_groups": 1,
    "mamba_d_state": 256,
    "mamba_d_conv": 4,
    "mamba_expand": 2,
    "mamba_chunk_size": 256,
    "mamba_conv_bias": True,
    "mamba_proj_bias": False,
    "time_step_limit": None,
}
"""Config fields of state-space mixers, which stay: `Mamba2Mixer`, `modeling_mamba2.py`, transformers 5.24."""


def mamba2_head_width(*inner: str) -> tuple[Derived, ...]:
    """Return how wide a mixer's head is where the config leaves it out, or to transformers.

    Args:
        inner: Config fields whose product is the width of the mixer.
    """
    width = Share(inner, by="mamba_n_heads")
    return Derived("mamba_d_head", width), Derived("mamba_d_head", width, {"mamba_d_head": "auto"})


def norm(name: str, *, bias: bool = False, when: Conditions | None = None) -> tuple[Tensor, ...]:
    """Return a norm of the hidden state."""
    parts = ("weight", "bias") if bias else ("weight",)
    return tuple(Tensor(f"{name}.{part}", ("hidden_size",), when or {}) for part in parts)


def head_norm(name: str, *, when: Conditions | None = None, bias: bool = False) -> tuple[Tensor, ...]:
    """Return a norm over each head, whose weight all heads share."""
    parts = ("weight", "bias") if bias else ("weight",)
    return tuple(Tensor(f"{name}.{part}", ("head_dim",), when or {}) for part in parts)


NORMS_OF_EACH_HEAD = (*head_norm("self_attn.q_norm"), *head_norm("self_attn.k_norm"))
"""A norm over each query and key head, whose weight all heads share."""

NORMS_OF_ALL_HEADS = (
    Tensor("self_attn.q_norm.weight", (ALL_QUERY_HEADS,)),
    Tensor("self_attn.k_norm.weight", (ALL_KEY_HEADS,)),
)
"""A norm over all query heads at once, and one over all key heads."""


def language_model(
    embedding: str, final_norm: tuple[Tensor, ...], *, head: str = "lm_head", head_bias: bool | str = False
) -> tuple[Tensor, ...]:
    """Return the token embedding, the final norm, and an LM head that exists unless it is tied to the embedding.

    Its bias exists always, never, or as a config field decides.
    """
    head_tensor = Tensor(f"{head}.weight", ("vocab_size", "hidden_size"), {"tie_word_embeddings": False})
    when = {head_bias: True} if isinstance(head_bias, str) else {}
    bias = (Tensor(f"{head}.bias", ("vocab_size",), when),) if head_bias else ()
    return (Tensor(f"{embedding}.weight", ("vocab_size", "hidden_size")), *final_norm, head_tensor, *bias)


def gated_attention() -> Block:
    """Return attention with a gate of its output: `Qwen3NextAttention`, `modeling_qwen3_next.py`, transformers 5.24."""
    plain = separate_attention(bias="attention_bias", tensors=NORMS_OF_EACH_HEAD)
    query, *others = plain.inputs
    # the rows of a query head are followed by those of its gate
    return replace(plain, inputs=(replace(query, entries_per_head=("head_dim", "head_dim")), *others))


def gated_delta_rule() -> GatedDeltaRule:
    """Return a gated delta rule with separate projections: `Qwen3_5GatedDeltaNet`, `modeling_qwen3_5.py`, 5.24."""
    keys, values = ("linear_num_key_heads", "linear_key_head_dim"), ("linear_num_value_heads", "linear_value_head_dim")
    convolved, heads = Total(((2, *keys), values)), "linear_num_value_heads"
    return GatedDeltaRule(
        module="linear_attn",
        inputs=(
            Projection("linear_attn.in_proj_qkv", writes=convolved),
            Projection("linear_attn.in_proj_z", writes=Total((values,))),
            Projection("linear_attn.in_proj_b", writes=heads),
            Projection("linear_attn.in_proj_a", writes=heads),
        ),
        output=Projection("linear_attn.out_proj", reads=Total((values,))),
        convolution="linear_attn.conv1d",
        key_heads="linear_num_key_heads",
        decay="linear_attn.A_log",
        decay_bias="linear_attn.dt_bias",
        norm="linear_attn.norm",
        tensors=(
            Tensor("linear_attn.conv1d.weight", (convolved, 1, "linear_conv_kernel_dim")),
            Tensor("linear_attn.A_log", (heads,)),
            Tensor("linear_attn.dt_bias", (heads,)),
            Tensor("linear_attn.norm.weight", ("linear_value_head_dim",)),
        ),
        states=(
            State("conv", (convolved, "linear_conv_kernel_dim")),
            State("recurrent", (heads, "linear_key_head_dim", "linear_value_head_dim"), in_float32=True),
        ),
    )


def state_space(
    module: str,
    *,
    output_bias: str = "mamba_proj_bias",
    normed_when: Conditions | None = None,
    gated_last_when: Conditions | None = None,
) -> StateSpace:
    """Return a state-space mixer: `GraniteMoeHybridMambaLayer`, `modeling_granitemoehybrid.py`, transformers 5.24.

    Args:
        module: Module path of the mixer, relative to the layer.
        output_bias: Config field that decides whether its output projection has a bias.
        normed_when: See `StateSpace`; by default, there is always a norm.
        gated_last_when: See `StateSpace`.
    """
    inner, heads = ("mamba_n_heads", "mamba_d_head"), "mamba_n_heads"
    keys = queries = ("mamba_n_groups", "mamba_d_state")
    convolved = Total((inner, keys, queries))
    return StateSpace(
        module=module,
        inputs=(
            Projection(
                f"{module}.in_proj", writes=Total((inner, inner, keys, queries, (heads,))), bias="mamba_proj_bias"
            ),
        ),
        output=Projection(f"{module}.out_proj", reads=Total((inner,)), bias=output_bias),
        convolution=f"{module}.conv1d",
        groups="mamba_n_groups",
        decay=f"{module}.A_log",
        step_bias=f"{module}.dt_bias",
        skip=f"{module}.D",
        norm=f"{module}.norm",
        step_limit="time_step_limit",
        normed_when=normed_when or {},
        gated_last_when=gated_last_when,
        tensors=(
            Tensor(f"{module}.conv1d.weight", (convolved, 1, "mamba_d_conv")),
            Tensor(f"{module}.conv1d.bias", (convolved,), {"mamba_conv_bias": True}),
            Tensor(f"{module}.A_log", (heads,)),
            Tensor(f"{module}.dt_bias", (heads,)),
            Tensor(f"{module}.D", (heads,)),
            Tensor(f"{module}.norm.weight", (Total((inner,)),), normed_when or {}),
        ),
        states=(
            State("conv", (convolved, "mamba_d_conv")),
            State("ssm", (heads, "mamba_d_state", "mamba_d_head"), in_float32=True),
        ),
    )


LLAMA_NORMS = (*norm("input_layernorm"), *norm("post_attention_layernorm"))
LLAMA_TENSORS = language_model("model.embed_tokens", norm("model.norm"))

GEMMA_NORMS = tuple(
    tensor
    for name in (
        "input_layernorm",
        "post_attention_layernorm",
        "pre_feedforward_layernorm",
        "post_feedforward_layernorm",
    )
    for tensor in norm(name)
)
GEMMA_ORDER = Order(
    before_attention="input_layernorm",
    after_attention="post_attention_layernorm",
    before_mlp="pre_feedforward_layernorm",
    after_mlp="post_feedforward_layernorm",
)
"""Gemma 2 and 3 have norms before and after both attention and MLP."""
