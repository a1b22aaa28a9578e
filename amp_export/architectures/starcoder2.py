"""StarCoder2: Llama with layer norms, an MLP without a gate, and biases."""

from __future__ import annotations

from amp_export.architectures._computation import Computation, NormKind
from amp_export.architectures._facts import Architecture
from amp_export.architectures._layouts import language_model, norm, plain_mlp, separate_attention

ARCHITECTURE = Architecture(
    model_type="starcoder2",
    class_name="Starcoder2ForCausalLM",
    defaults={
        "vocab_size": 49152,
        "hidden_size": 3072,
        "intermediate_size": 12288,
        "num_hidden_layers": 30,
        "num_attention_heads": 24,
        "num_key_value_heads": 2,
        "head_dim": None,
        "hidden_act": "gelu_pytorch_tanh",
        "max_position_embeddings": 4096,
        "norm_epsilon": 1e-05,
        "tie_word_embeddings": True,
        "rope_parameters": None,
        "sliding_window": None,
        "use_bias": True,
    },
    attention=separate_attention(bias="use_bias"),
    mlp=plain_mlp("mlp.c_fc", "mlp.c_proj", bias="use_bias"),
    norms=(*norm("input_layernorm", bias=True), *norm("post_attention_layernorm", bias=True)),
    tensors=language_model("model.embed_tokens", norm("model.norm", bias=True)),
    computation=Computation(norm=NormKind.LAYER, epsilon="norm_epsilon"),
    windows_every_layer=True,
)
