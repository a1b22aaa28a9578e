"""Which decoders become engines from which operators, tried with TensorRT-RTX 1.7.1 on every decoder there is."""

from __future__ import annotations

from amp_export.architectures import ModelConfig, Rotary


def builds_with_new_operators(config: ModelConfig) -> bool:
    """Whether an engine can be built from the decoder's graph of opset 23.

    A RotaryEmbedding whose pairs lie side by side, which Cohere has, ended the build with an internal error. From the
    graph of opset 20 every decoder's engine was built, in float32, float16 and bfloat16.
    """
    computation = config.architecture.computation
    positions = computation.positions if computation is not None else None
    return not (isinstance(positions, Rotary) and positions.interleaved)
