"""What a GGUF file holds of mixers of tokens other than attention: keys with their sizes, and their tensors.

Keys and tensors: `LLM_KV_NAMES` and `LLM_TENSOR_NAMES`, src/llama-arch.cpp; shapes: `load_arch_tensors` in
src/models/lfm2.cpp and src/models/granite-hybrid.cpp, llama.cpp in xllamacpp 2026.10.11549.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from amp_export.architectures import Mixer, ModelConfig, ShortConvolution, StateSpace
from amp_export.exporters.gguf.planned import PlannedTensor

if TYPE_CHECKING:
    import numpy as np

    from amp_export.checkpoints.reading import Checkpoint

    Array = np.ndarray[Any, np.dtype[Any]]


def mixer_keys(config: ModelConfig) -> Iterator[tuple[str, int]]:
    """Yield the keys with the sizes of the mixer of a family that has one, and their values."""
    mixer = config.architecture.mixer
    assert isinstance(mixer, ShortConvolution | StateSpace), f"no file holds mixers of {config.architecture.model_type}"
    taps = config.size(str(mixer.states[0].axes[-1]))
    if isinstance(mixer, ShortConvolution):
        yield "shortconv.l_cache", taps
        return
    heads, key_width, value_width = (config.size(str(axis)) for axis in mixer.states[1].axes)
    yield "ssm.conv_kernel", taps
    yield "ssm.inner_size", heads * value_width
    yield "ssm.state_size", key_width
    yield "ssm.time_step_rank", heads
    yield "ssm.group_count", config.size(mixer.groups)


def planned_mixer(checkpoint: Checkpoint, block: str, source: str, mixer: Mixer) -> Iterator[PlannedTensor]:
    """Yield the tensors of the mixer of a layer.

    Args:
        checkpoint: The checkpoint.
        block: Name of the layer in the file.
        source: Name of the layer in the checkpoint.
        mixer: The mixer.
    """
    planner = _MixerPlanner(checkpoint, block, source)
    yield from planner.state_space(mixer) if isinstance(mixer, StateSpace) else planner.short_convolution(mixer)


class _MixerPlanner:
    """Plans the tensors of the mixer of one layer."""

    def __init__(self, checkpoint: Checkpoint, block: str, source: str) -> None:
        self._checkpoint, self._block, self._source = checkpoint, block, source

    def short_convolution(self, mixer: Mixer) -> Iterator[PlannedTensor]:
        """Plan a short convolution."""
        yield self._plain("shortconv.in_proj.weight", f"{mixer.inputs[0].name}.weight")
        yield self._plain("shortconv.out_proj.weight", f"{mixer.output.name}.weight")
        yield self._convolution("shortconv.conv.weight", mixer)

    def state_space(self, mixer: StateSpace) -> Iterator[PlannedTensor]:
        """Plan a state-space mixer."""
        config = self._checkpoint.config
        yield self._plain("ssm_in.weight", f"{mixer.inputs[0].name}.weight")
        yield self._convolution("ssm_conv1d.weight", mixer)
        yield self._bias("ssm_conv1d.bias", mixer)
        yield self._plain("ssm_dt.bias", mixer.step_bias)
        yield self._decays("ssm_a", mixer.decay)
        yield self._reshaped("ssm_d", mixer.skip, groups=self._shape(mixer.skip)[0])
        if config.meets(mixer.normed_when):
            yield self._reshaped("ssm_norm.weight", f"{mixer.norm}.weight", groups=config.size(mixer.groups))
        yield self._plain("ssm_out.weight", f"{mixer.output.name}.weight")

    def _plain(self, name: str, source: str) -> PlannedTensor:
        return PlannedTensor(f"{self._block}.{name}", self._shape(source), partial(self._read, source))

    def _convolution(self, name: str, mixer: Mixer) -> PlannedTensor:
        """Plan the weight of a convolution, without the axis for the one channel that each filter reads."""
        source = f"{mixer.convolution}.weight"
        channels, _, taps = self._shape(source)
        return PlannedTensor(f"{self._block}.{name}", (channels, taps), lambda: self._read(source)[:, 0])

    def _bias(self, name: str, mixer: Mixer) -> PlannedTensor:
        """Plan the bias of a convolution, which llama.cpp adds, whether or not there is one."""
        import numpy as np

        source = f"{mixer.convolution}.bias"
        if f"{self._source}.{source}" in self._checkpoint.tensors:
            return self._plain(name, source)
        shape = self._shape(f"{mixer.convolution}.weight")[:1]
        return PlannedTensor(f"{self._block}.{name}", shape, lambda: np.zeros(shape, np.float32))

    def _decays(self, name: str, source: str) -> PlannedTensor:
        """Plan the rates at which the states of heads decay, of which checkpoints hold the logarithms."""
        import numpy as np

        def read() -> Array:
            rates: Array = -np.exp(self._read(source).astype(np.float32))[:, None]
            return rates

        return PlannedTensor(f"{self._block}.{name}", (*self._shape(source), 1), read)

    def _reshaped(self, name: str, source: str, *, groups: int) -> PlannedTensor:
        """Plan a vector whose entries belong to groups: [groups, entries of each]."""
        shape = (groups, self._shape(source)[0] // groups)
        return PlannedTensor(f"{self._block}.{name}", shape, lambda: self._read(source).reshape(shape))

    def _shape(self, source: str) -> tuple[int, ...]:
        return self._checkpoint.tensors[f"{self._source}.{source}"].shape

    def _read(self, source: str) -> Array:
        return self._checkpoint.read(f"{self._source}.{source}")
