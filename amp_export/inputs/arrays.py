"""Images or audio that a model is scored on: the user's arrays, prepared with the model's own processor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amp_export.architectures import PATCH_MASK, SPATIAL_SHAPES, Kind, Modality, ModelConfig
from amp_export.errors import CalibrationError
from amp_export.inputs.batches import Batch
from amp_export.inputs.random import input_name, signal_shape
from amp_export.inputs.tokens import start_token
from amp_export.inputs.waveforms import frame_mask, takes_mask, takes_waveforms

if TYPE_CHECKING:
    import numpy as np
    import torch
    from transformers import PreTrainedModel

    Array = np.ndarray[Any, np.dtype[Any]]

SUFFIXES = (".npz", ".safetensors")

BATCH_SAMPLES = 4
"""An image has hundreds of tokens and an audio input more than a thousand, so a few keep the cores busy."""

WRITTEN = "decoder_input_ids"
MASK = "attention_mask"

_INTEGERS = frozenset({WRITTEN, MASK, PATCH_MASK, SPATIAL_SHAPES})

WRITTEN_TOKENS = 32
"""Number of target tokens to generate for a sample if none are given."""


@dataclass(frozen=True)
class SampleArrays:
    """Samples to score on.

    Attributes:
        arrays: Arrays by the name of the model's input; the first axis is the sample.
        file: The file that they were read from.
    """

    arrays: Mapping[str, Array]
    file: Path

    @property
    def samples(self) -> int:
        """Number of samples."""
        return len(next(iter(self.arrays.values())))

    @property
    def origin(self) -> str:
        """Description for a report."""
        return f"{self.samples} samples of {self.source}"

    @property
    def source(self) -> str:
        """Where the samples are from."""
        return self.file.name

    def batches(self, model: PreTrainedModel, config: ModelConfig) -> list[Batch]:
        """Return all samples in small batches of model inputs.

        An encoder-decoder gets the given target tokens, or else those that it generates by greedy decoding.
        """
        import torch

        prepared = []
        for start in range(0, self.samples, BATCH_SAMPLES):
            part = {
                name: torch.tensor(array[start : start + BATCH_SAMPLES]).to(
                    model.device, torch.int64 if name in _INTEGERS else model.dtype
                )
                for name, array in self.arrays.items()
            }
            samples, written_mask_bs = len(part[input_name(config)]), None
            if config.architecture.kind is Kind.ENCODER_DECODER and WRITTEN not in part:
                part[WRITTEN], written_mask_bs = generate_greedily(model, config, part)
            read_mask_bs = None
            if MASK in part:
                real_bs = frame_mask(part[MASK].cpu().numpy(), config)
                read_mask_bs = torch.from_numpy(real_bs).to(model.device)
            if PATCH_MASK in part:
                read_mask_bs = part[PATCH_MASK]
            prepared.append(Batch(part, samples, read_mask=read_mask_bs, decoder_mask=written_mask_bs))
        return prepared


def read_arrays(file: Path) -> SampleArrays:
    """Read a `.npz` or `.safetensors` file.

    Raises:
        CalibrationError: The file is missing, damaged or empty, or its arrays are not numeric or differ in their number
            of samples.
    """
    import numpy as np

    try:
        if file.suffix.lower() == ".npz":
            # numpy does not close a damaged file
            with file.open("rb") as stream, np.load(stream, allow_pickle=False) as content:
                arrays = {name: content[name] for name in content.files}
        else:
            arrays = _read_safetensors(file)
    except OSError as error:
        raise CalibrationError(
            f"{file} cannot be read: {error.strerror or error}.\nGive a .npz or .safetensors file."
        ) from error
    except Exception as error:  # a damaged file makes zipfile, numpy and safetensors raise errors of their own
        raise CalibrationError(
            f"{file} is damaged or does not only hold arrays: {error}\nWrite it with numpy.savez."
        ) from error
    if not arrays:
        raise CalibrationError(f"{file} is empty: it has no arrays.\nWrite it with numpy.savez(FILE, NAME=array).")
    for name, array in arrays.items():
        if array.dtype.kind not in "fiu":
            raise CalibrationError(f"{file}: `{name}` has dtype {array.dtype}, but must be numeric.")
        if array.ndim == 0 or array.size == 0:
            raise CalibrationError(f"{file}: `{name}` of shape {list(array.shape)} is empty: it has no samples.")
    if len({len(array) for array in arrays.values()}) > 1:
        counts = ", ".join(f"{len(array)} of `{name}`" for name, array in arrays.items())
        raise CalibrationError(f"{file} holds {counts}: all arrays must have the same number of samples.")
    return SampleArrays(arrays, file)


def check_arrays(given: SampleArrays, config: ModelConfig) -> None:
    """Check samples against the model that will be scored on them.

    Raises:
        CalibrationError: An array is missing, unknown to the model, not finite, or has the wrong shape.
    """
    import numpy as np

    name, expected = input_name(config), describe_samples(config)
    writes = config.architecture.kind is Kind.ENCODER_DECODER
    patches = {PATCH_MASK, SPATIAL_SHAPES} if config.architecture.takes_patches else set()
    known = {name, *patches, *([WRITTEN] if writes else []), *([MASK] if takes_mask(config) else [])}
    # a model without a head cannot generate target tokens
    needed = {name, *patches, *([WRITTEN] if writes and config.is_bare else [])}
    if needed - given.arrays.keys() or given.arrays.keys() - known:
        raise CalibrationError(f"{given.file} holds {_names(given.arrays)}.\nGive {expected}.")
    if not _has_shape(shape := given.arrays[name].shape[1:], config):
        raise CalibrationError(f"{given.file}: `{name}` has the shape [samples, {_sizes(shape)}].\nGive {expected}.")
    values = given.arrays[name]
    if not np.isfinite(values).all():
        sample = int((~np.isfinite(values)).reshape(len(values), -1).any(axis=1).argmax())
        raise CalibrationError(f"{given.file}: `{name}` holds NaN or infinity, first in sample {sample}.")
    if MASK in given.arrays:
        _check_mask(given, config)
    if patches:
        _check_patches(given, config)
    if WRITTEN in given.arrays:
        _check_written(given, config)


def _has_shape(shape: tuple[int, ...], config: ModelConfig) -> bool:
    """Return whether an input has the shape that the model takes; raw audio may be longer, and images have any size."""
    expected = signal_shape(config)
    if config.architecture.takes_patches:
        return len(shape) == len(expected) and shape[1:] == expected[1:]
    return shape == expected or (takes_waveforms(config) and len(shape) == 1 and shape > expected)


def no_samples(config: ModelConfig) -> CalibrationError:
    """Return the error for a model that needs samples if none are given."""
    reads = {Modality.IMAGE: "images", Modality.AUDIO: "audio"}[config.architecture.modality]
    return CalibrationError(
        f"{config.class_name} reads {reads}, but there are no samples to score it on.\n"
        f"Give --calibration FILE.npz (or .safetensors) with {describe_samples(config)}; use fifty or more.\nPrepare "
        "them with the model's own processor, and write them with numpy.savez."
    )


def describe_samples(config: ModelConfig) -> str:
    """Return a description of the arrays that a model is scored on."""
    needed = f"`{input_name(config)}` of shape [samples, {_sizes(signal_shape(config))}]"
    if config.architecture.takes_patches:
        return (
            f"`{input_name(config)}` of shape [samples, patches, {signal_shape(config)[-1]}], `{PATCH_MASK}` [samples, "
            f"patches], 1 for patches and 0 for padding after them, and `{SPATIAL_SHAPES}` [samples, 2], the rows and "
            "columns of these patches"
        )
    if takes_waveforms(config):
        needed = f"`{input_name(config)}` of shape [samples, length], at least {_sizes(signal_shape(config))} long"
    if takes_mask(config):
        needed += f", and optionally `{MASK}` of the same shape, 1 for sound and 0 for padding after it"
    if config.architecture.kind is not Kind.ENCODER_DECODER:
        return needed
    return (
        f"{needed}, and {'' if config.is_bare else 'optionally '}`{WRITTEN}` [samples, tokens] with the target tokens"
    )


def generate_greedily(
    model: PreTrainedModel, config: ModelConfig, source: Mapping[str, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Generate greedily; return token ids and the mask of those up to the end of text, both [samples, tokens]."""
    import torch

    limit = min(WRITTEN_TOKENS, config.longest_text or WRITTEN_TOKENS)
    end = config.fields.get("eos_token_id")
    tokens_bs = torch.full((len(next(iter(source.values()))), 1), start_token(config), device=model.device)
    with torch.inference_mode():
        states = model.get_encoder()(**source, return_dict=True)
        while tokens_bs.shape[1] < limit:
            logits_bsv = model(
                encoder_outputs=states, decoder_input_ids=tokens_bs, use_cache=False, return_dict=True
            ).logits
            tokens_bs = torch.cat([tokens_bs, logits_bsv[:, -1:].argmax(dim=-1)], dim=1)
    ended_bs = torch.zeros_like(tokens_bs)
    if end is not None:
        # the end token itself counts, those after it do not
        ended_bs[:, 2:] = torch.isin(tokens_bs[:, 1:-1], tokens_bs.new_tensor(end)).cumsum(dim=1).clamp(max=1)
    return tokens_bs, 1 - ended_bs


def _check_mask(given: SampleArrays, config: ModelConfig) -> None:
    import numpy as np

    sounds_bs, mask_bs, (shortest,) = given.arrays[input_name(config)], given.arrays[MASK], signal_shape(config)
    # one that grows along a row pads on the left
    if (
        mask_bs.shape != sounds_bs.shape
        or not np.isin(mask_bs, (0, 1)).all()
        or (mask_bs[:, 1:] > mask_bs[:, :-1]).any()
    ):
        raise CalibrationError(
            f"{given.file}: `{MASK}` has shape {list(mask_bs.shape)} and values from {mask_bs.min()} to "
            f"{mask_bs.max()}.\nGive {describe_samples(config)}."
        )
    if (length := int(mask_bs.sum(axis=1).min())) < shortest:
        raise CalibrationError(
            f"{given.file}: the sound of a sample is {length} long, but must be at least {shortest} long."
        )


def _check_patches(given: SampleArrays, config: ModelConfig) -> None:
    import numpy as np

    patches_bpv, mask_bp, shapes_b2 = (given.arrays[name] for name in (input_name(config), PATCH_MASK, SPATIAL_SHAPES))
    if shapes_b2.shape[1:] != (2,) or shapes_b2.dtype.kind not in "iu" or shapes_b2.min() < 1:
        raise CalibrationError(
            f"{given.file}: `{SPATIAL_SHAPES}` has dtype {shapes_b2.dtype}, shape {list(shapes_b2.shape)} and values "
            f"from {shapes_b2.min()}, but must hold integers of at least 1.\nGive {describe_samples(config)}."
        )
    real_b1 = shapes_b2.prod(axis=1, keepdims=True)
    expected_bp = np.arange(patches_bpv.shape[1]) < real_b1
    if real_b1.max() > patches_bpv.shape[1] or mask_bp.shape != expected_bp.shape or (mask_bp != expected_bp).any():
        raise CalibrationError(
            f"{given.file}: `{PATCH_MASK}` {list(mask_bp.shape)} and `{SPATIAL_SHAPES}` do not agree: rows times "
            f"columns of a sample are up to {real_b1.max()}, and the mask has up to {mask_bp.sum(-1).max()} ones.\n"
            f"Give {describe_samples(config)}, as the model's own processor makes them."
        )


def _check_written(given: SampleArrays, config: ModelConfig) -> None:
    tokens_bs = given.arrays[WRITTEN]
    limit, vocabulary = config.longest_text or tokens_bs.shape[-1], config.vocab_size
    if tokens_bs.ndim != 2 or tokens_bs.dtype.kind not in "iu" or tokens_bs.shape[1] > limit:
        raise CalibrationError(
            f"{given.file}: `{WRITTEN}` has dtype {tokens_bs.dtype} and shape {list(tokens_bs.shape)}.\nGive integers "
            f"of shape [samples, tokens], with at most {limit} tokens."
        )
    if tokens_bs.min() < 0 or tokens_bs.max() >= vocabulary:
        raise CalibrationError(
            f"{given.file}: `{WRITTEN}` holds {tokens_bs.min()} to {tokens_bs.max()}, but the model's tokens are 0 to "
            f"{vocabulary - 1}."
        )


def _read_safetensors(file: Path) -> dict[str, Array]:
    from safetensors.torch import load_file

    # through torch, because numpy has no bfloat16
    return {name: _to_numpy(tensor) for name, tensor in load_file(file).items()}


def _to_numpy(tensor: torch.Tensor) -> Array:
    array: Array = (tensor.float() if tensor.is_floating_point() else tensor).numpy()
    return array


def _names(arrays: Mapping[str, Array]) -> str:
    return ", ".join(f"`{name}` {list(array.shape)}" for name, array in arrays.items())


def _sizes(shape: tuple[int, ...]) -> str:
    return ", ".join(map(str, shape))
