"""GPT-J: one norm before parallel attention and MLP, interleaved rotary embeddings of a part of each head."""

from __future__ import annotations

from amp_export.architectures._computation import Computation, NormKind, Order, Rotary
from amp_export.architectures._derived import Derived
from amp_export.architectures._facts import Architecture
from amp_export.architectures._layouts import GPT2_NAMES, language_model, norm, plain_mlp, separate_attention

ARCHITECTURE = Architecture(
    model_type="gptj",
    class_name="GPTJForCausalLM",
    defaults={
        "vocab_size": 50400,
        "n_positions": 2048,
        "n_embd": 4096,
        "n_layer": 28,
        "n_head": 16,
        "n_inner": None,
        "rotary_dim": 64,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
        "tie_word_embeddings": False,
    },
    attention=separate_attention(module="attn", bias=False, output="out_proj", attributes={}),
    mlp=plain_mlp("mlp.fc_in", "mlp.fc_out", bias=True),
    norms=norm("ln_1", bias=True),
    tensors=language_model("transformer.wte", norm("transformer.ln_f", bias=True), head_bias=True),
    # `GPTJBlock.forward` and `GPTJRotaryEmbedding`, `modeling_gptj.py`, transformers 5.24
    computation=Computation(
        norm=NormKind.LAYER,
        epsilon="layer_norm_epsilon",
        orders=(Order("ln_1", "ln_1", parallel=True),),
        final_norm="transformer.ln_f",
        positions=Rotary(theta=(None, 10_000.0), dimensions="rotary_dim", interleaved=True),
        activation="activation_function",
    ),
    names={**GPT2_NAMES, "num_key_value_heads": None},
    derived=(Derived("n_inner", ("n_embd", 4)),),
    # cosines and sines would be of the hidden size
    refused={"rotary_dim": (None,)},
    says_head_dim_when=None,
    embeds_padding=False,
    base_model="transformer",
    layers="transformer.h",
    embedding="transformer.wte",
    obsolete=(".attn.bias", ".attn.masked_bias"),
)
