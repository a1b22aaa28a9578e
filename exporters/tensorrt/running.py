"""Runs a decoder's engine on a GPU; it reads inputs from and writes outputs to torch tensors in place."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from amp_export.errors import RequestError
from amp_export.exporters.models.decoder import Decoder, Past, check_logits, check_mask
from amp_export.exporters.models.ports import kept_logits
from amp_export.exporters.tensorrt.engines import ENGINE, EngineFacts
from amp_export.exporters.tensorrt.flavors import TensorRtFlavor, load_flavor
from amp_export.options import Phase

if TYPE_CHECKING:
    import torch

    from amp_export.exporters.models.session import Floats, Integers

    Tokens: TypeAlias = Integers | torch.Tensor


class TensorrtDecoder(Decoder):
    """A loaded engine of a decoder, created by `run`.

    Attributes:
        facts: Facts of the engine.
        stream: CUDA stream that it runs on; None if not on a GPU.
        device: Device of its tensors.
    """

    def __init__(
        self, context: Any, facts: EngineFacts, device: torch.device, stream: torch.cuda.Stream | None
    ) -> None:
        """Take an engine's execution context and facts, the device of its tensors, and its stream if on a GPU."""
        self._context = context
        self.device = device
        self.stream = stream
        self._handle = stream.cuda_stream if stream is not None else 0
        self._profile: int | None = None
        self.facts = facts
        self.num_layers = sum(name.endswith(".key") for name in facts.inputs)
        self.dtype = facts.dtype
        self.threads = 0
        self.description = f"{facts.runtime} {facts.version}"
        self.max_batch, self.max_context = facts.limits.max_batch, facts.limits.max_context
        self.logits = kept_logits(facts.outputs)
        # the decode profile takes one token only
        self.one_at_a_time = True

    def forward(
        self,
        input_ids: Integers,
        attention_mask: Integers,
        position_ids: Integers,
        past: Past | None = None,
        *,
        logits_to_keep: int = 0,
    ) -> tuple[Floats, Past]:
        """See `Decoder.forward`."""
        check_logits(self.logits, logits_to_keep, input_ids.shape[1])
        logits, past = self.step(input_ids, attention_mask, position_ids, past)
        floats: Floats = logits[:, -logits_to_keep:].float().cpu().numpy()
        return floats, past

    def advance(
        self, input_ids: Integers, attention_mask: Integers, position_ids: Integers, past: Past | None = None
    ) -> Past:
        """See `Decoder.advance`."""
        return self.step(input_ids, attention_mask, position_ids, past)[1]

    def step(
        self, input_ids: Tokens, attention_mask: Tokens, position_ids: Tokens, past: Past | None = None
    ) -> tuple[torch.Tensor, Past]:
        """Run `forward` on arrays or tensors; the logits stay on the GPU, in the engine's dtype."""
        import torch

        if self._context is None:
            raise ValueError("This decoder is closed.")
        batch_size, sequence_length = input_ids.shape
        length = past.length if past is not None else 0
        sizes = {
            "batch_size": batch_size,
            "sequence_length": sequence_length,
            "kept_length": sequence_length,
            "past_sequence_length": length,
            "total_sequence_length": length + sequence_length,
        }
        check_mask(attention_mask.shape, batch_size, past_length=length, sequence_length=sequence_length)
        self._take_profile(sizes)
        given = {"input_ids": input_ids, "attention_mask": attention_mask, "position_ids": position_ids}
        tensors = {name: torch.as_tensor(array).contiguous().to(self.device) for name, array in given.items()}
        if self.stream is not None:
            # copies run on torch's stream, the engine on its own
            self.stream.wait_stream(torch.cuda.current_stream(self.device))
        tensors |= past.values if past is not None else {}
        for name in self.facts.inputs:
            self._bind_input(name, tensors, sizes)
        outputs = {}
        for name, port in self.facts.outputs.items():
            outputs[name] = self._empty(port.dtype, port.axes, sizes)
            self._context.set_tensor_address(name, outputs[name].data_ptr())
        if not self._context.execute_async_v3(self._handle):
            raise RequestError("The engine could not run.\nCheck the GPU and its driver with nvidia-smi and dmesg.")
        if self.stream is not None:
            self.stream.synchronize()
        logits = outputs.pop("logits")
        values = {name.replace("present", "past_key_values"): tensor for name, tensor in outputs.items()}
        return logits, Past(length + sequence_length, values)

    def close(self) -> None:
        """Free the engine's memory."""
        self._context = None

    def _take_profile(self, sizes: Mapping[str, int]) -> None:
        """Choose the profile for prefill or decode, and refuse shapes that it does not support."""
        names = [profile.name for profile in self.facts.profiles]
        wanted = Phase.DECODE if sizes["past_sequence_length"] else Phase.PREFILL
        number = names.index(wanted)
        for name, shapes in self.facts.profiles[number].ranges.items():
            shape = self._shape(self.facts.inputs[name].axes, sizes)
            bounds = zip(shapes.minimum, shape, shapes.maximum, strict=True)
            if not all(low <= size <= high for low, size, high in bounds):
                raise RequestError(
                    f"The engine takes {name} of {list(shapes.minimum)} to {list(shapes.maximum)} in {wanted}, but "
                    f"got {list(shape)}.\n"
                    "Build one with another --max-batch or --max-context; with a KV cache it takes one token at a time."
                )
        if number != self._profile:
            self._context.set_optimization_profile_async(number, self._handle)
            self._profile = number

    def _bind_input(self, name: str, tensors: dict[str, torch.Tensor], sizes: Mapping[str, int]) -> None:
        port = self.facts.inputs[name]
        shape = self._shape(port.axes, sizes)
        # an empty KV cache has no address, but the runtime needs one for every input: use a tensor of one value
        if name not in tensors:
            tensors[name] = self._empty(port.dtype, (1,), sizes)
        if not self._context.set_input_shape(name, shape):
            raise RequestError(f"The engine does not accept {name} of shape {list(shape)}.")
        self._context.set_tensor_address(name, tensors[name].data_ptr())

    def _empty(self, dtype: str, axes: tuple[int | str, ...], sizes: Mapping[str, int]) -> torch.Tensor:
        import torch

        return torch.empty(self._shape(axes, sizes), dtype=getattr(torch, dtype), device=self.device)

    @staticmethod
    def _shape(axes: tuple[int | str, ...], sizes: Mapping[str, int]) -> tuple[int, ...]:
        return tuple(axis if isinstance(axis, int) else sizes[axis] for axis in axes)


def check_runs_here(facts: EngineFacts) -> TensorRtFlavor:
    """Return the runtime of an engine, and refuse engines that cannot run on this machine.

    Raises:
        MissingExtraError: The runtime that built it is not installed.
        RequestError: There is no GPU, the engine is for another GPU or runtime, or torch cannot use the GPU.
    """
    import torch

    from amp_export.hardware.gpus import find_gpu

    runtime = load_flavor(facts.runtime)
    gpu = find_gpu()
    facts.check_runs_on(runtime, present=gpu.compute_capability if gpu is not None else None)
    if not torch.cuda.is_available():
        raise RequestError(
            f"torch {torch.__version__} cannot use the {gpu.name if gpu is not None else 'GPU'}.\n"
            "Install a CUDA build of torch: see pytorch.org/get-started."
        )
    return runtime


def run(folder: Path) -> TensorrtDecoder:
    """Load an engine onto the GPU in this machine.

    Args:
        folder: Folder that `export` wrote.

    Raises:
        ModelError: The folder holds no engine, or a damaged one.
        RequestError: The engine cannot be loaded.
        AmpExportError: See `check_runs_here`.
    """
    import torch

    facts = EngineFacts.load(folder)
    trt = check_runs_here(facts).module
    engine = trt.Runtime(trt.Logger(trt.Logger.ERROR)).deserialize_cuda_engine((folder / ENGINE).read_bytes())
    if engine is None:
        raise RequestError(
            f"{folder / ENGINE} cannot be loaded: it is damaged, or the GPU has too little memory.\n"
            "Build it again here: amp-export export --to tensorrt --overwrite."
        )
    device = torch.device("cuda")
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    return TensorrtDecoder(engine.create_execution_context(), facts, device, stream)
