"""Tiny random models of a type, whose sizes tell apart which axis is which."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from amp_export.architectures import PATCH_MASK, SPATIAL_SHAPES
from amp_export.checkpoints.building import decode_floats
from amp_export.checkpoints.quiet import quiet_transformers
from amp_export.errors import UnsupportedModelError, first_line
from amp_export.inputs.patches import describe_patches
from amp_export.inputs.random import INPUT_NAMES

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

SIZES: Mapping[str, int] = {
    "hidden_size": 96,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 24,
    "vocab_size": 112,
    "max_position_embeddings": 128,
}
"""Sizes by their canonical names. No two axes are of one length: 144 query features, or 96, and 48 of keys, or 32."""

OTHER_SIZES: Mapping[str, int] = {"intermediate_size": 88, "num_attention_heads": 12, "num_key_value_heads": 3}
"""Other counts, with another query group."""

_LARGE = 64
"""Other sizes above this are made smaller."""

_SMALLER = (40, 36, 44, 52, 28, 20, 12, 8, 16)
"""Lengths for them, each taken once."""

_PATCHES = 6
"""Patches of a sample, for a model that takes images as rows of them."""

_MOST_KINDS = 4
"""Most values of a field that tells kinds of layers apart."""

_OF_LAYERS = ("idxs", "indices", "layers", "layer_ids")
"""Ends of the names of fields that list numbers of layers."""

_TOKENS = ("bos", "eos", "pad", "cls", "sep", "decoder_start", "mask", "unk")


@dataclass(frozen=True)
class Tiny:
    """A config that makes a tiny model.

    Attributes:
        model_type: Its `model_type`.
        class_name: transformers' class.
        fields: Config fields that differ from the defaults.
    """

    model_type: str
    class_name: str
    fields: Mapping[str, Any]

    def but(self, **fields: Any) -> Tiny:
        """Return the same with other values of some fields."""
        return replace(self, fields={**self.fields, **fields})

    def config(self) -> Any:
        """Return transformers' config."""
        import transformers

        return transformers.AutoConfig.for_model(self.model_type, **self.fields)

    @cached_property
    def values(self) -> dict[str, Any]:
        """All fields of the config, the defaults too."""
        values: dict[str, Any] = self.config().to_dict()
        return values

    @cached_property
    def names(self) -> dict[str, str]:
        """The names of fields by their canonical names: see `canonical_names`."""
        return canonical_names(self.config())

    def shapes(self) -> dict[str, tuple[int, ...]] | None:
        """Return the shapes of all parameters; None if transformers refuses the config."""
        import torch

        try:
            with torch.device("meta"):
                model = self._build()
        except Exception:  # noqa: BLE001  configs and models raise exceptions of any class
            return None
        return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}

    def build(self, *, double: bool = True) -> PreTrainedModel:
        """Return the model with random weights: no biases of zero, no norms of one.

        Args:
            double: Whether it computes in float64, or in float32 as it is loaded.

        Raises:
            UnsupportedModelError: transformers refuses the config.
        """
        try:
            model: PreTrainedModel = self._build()
        except Exception as error:
            raise UnsupportedModelError(
                f"transformers makes no {self.class_name} of a small size: {type(error).__name__}: "
                f"{first_line(error)}\nIts facts cannot be found out."
            ) from error
        randomize(model)
        if not double:
            return model
        if hasattr(model, "set_experts_implementation"):
            model.set_experts_implementation("eager")  # the fast one knows no float64
        return model.double()

    def why_not(self) -> str | None:
        """Return why the model does not run; None if it does."""
        import torch

        try:
            model = self.build()
            with torch.no_grad():
                model(**sample(model))
        except Exception as error:  # noqa: BLE001  models raise exceptions of any class
            return f"{type(error).__name__}: {first_line(error)}"
        return None

    def _build(self) -> Any:
        import transformers

        with quiet_transformers():
            return getattr(transformers, self.class_name)(self.config()).eval()


MODALITIES = {name: modality for modality, name in INPUT_NAMES.items()}


def sample(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Return one random sample for a model."""
    import torch

    generator = torch.Generator().manual_seed(0)
    config, name = model.config, model.main_input_name
    _refuse_more_inputs(model)
    tokens = torch.randint(8, SIZES["vocab_size"] // 2, (1, 6), generator=generator)
    inputs = {}
    if name == "input_ids":
        inputs[name] = tokens
    elif takes_patches(model):
        values = config.num_channels * config.patch_size**2
        inputs[name] = torch.randn(1, _PATCHES, values, generator=generator)
        inputs |= {each: torch.from_numpy(array) for each, array in describe_patches([_PATCHES]).items()}
    elif name == "pixel_values":
        inputs[name] = torch.randn(1, config.num_channels, config.image_size, config.image_size, generator=generator)
    elif name == "input_features":
        inputs[name] = torch.randn(1, config.num_mel_bins, 2 * config.max_source_positions, generator=generator)
    else:
        raise UnsupportedModelError(
            f"{type(model).__name__} takes {name}, for which no random samples can be made.\nSupported: "
            f"{', '.join(MODALITIES)}."
        )
    if config.is_encoder_decoder:
        inputs["decoder_input_ids"] = tokens
    return {key: value.double() if value.is_floating_point() else value for key, value in inputs.items()}


def takes_patches(model: PreTrainedModel) -> bool:
    """Return whether a model takes images of any size as rows of patches."""
    return SPATIAL_SHAPES in inspect.signature(model.forward).parameters


def _refuse_more_inputs(model: PreTrainedModel) -> None:
    """Raise UnsupportedModelError for a model that needs more than its main input, such as the grids of images."""
    needed = inspect.signature(model.forward).parameters.values()
    named = (each.name for each in needed if each.default is each.empty and each.kind is each.POSITIONAL_OR_KEYWORD)
    described = (PATCH_MASK, SPATIAL_SHAPES) if takes_patches(model) else ()
    known = {model.main_input_name, "decoder_input_ids", *described}
    if others := [name for name in named if name not in known]:
        raise UnsupportedModelError(
            f"{type(model).__name__} takes {model.main_input_name} with {', '.join(others)}, for which no random "
            "samples can be made.\nOnly models that run on their main input alone are supported."
        )


def randomize(model: PreTrainedModel) -> None:
    """Redraw every parameter: matrices keep the variance of what they multiply, and vectors vary around one or zero."""
    import torch

    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1:
                parameter.copy_(noise / parameter.shape[-1] ** 0.5)
            else:
                parameter.copy_(0.3 * noise + (1.0 if name.endswith("weight") else 0.0))


def shrink(model_type: str, class_name: str, raw_config: Mapping[str, Any]) -> Tiny:
    """Return a tiny model with the switches of a config; it is only known that it can be built.

    Args:
        model_type: Its `model_type`.
        class_name: transformers' class.
        raw_config: The content of its config.json.

    Raises:
        UnsupportedModelError: transformers does not have the class, or none of a small size.
    """
    import transformers

    if not hasattr(transformers, class_name):
        raise UnsupportedModelError(f"transformers {transformers.__version__} has no class {class_name}.")
    own = getattr(getattr(transformers, class_name), "config_class", None)
    if own is None or own.model_type != model_type:
        raise UnsupportedModelError(
            f"config.json: {class_name} (architectures) is no class for models of type {model_type!r}.\n"
            "Correct model_type, or name the class that the weights are of."
        )
    given = {
        name: decode_floats(value) for name, value in raw_config.items() if name not in ("model_type", "architectures")
    }
    defaults = transformers.AutoConfig.for_model(model_type, **given).to_dict()
    names = canonical_names(transformers.AutoConfig.for_model(model_type))
    layers = names.get("num_hidden_layers", "")
    fields = {name: value for name, value in given.items() if value is not None}
    sizes = {name: SIZES[canonical] for canonical, each in names.items() for name in twins(each, defaults)}
    # the number of layers depends on their kinds; a size may be listed for each layer
    fields |= {**sizes, **_without(fewer_layers({**defaults, **given}, layers), sizes.keys() - {layers})}
    tokens = [name for name, value in defaults.items() if _is_token(name) and isinstance(value, int)]
    fields |= {name: place + 1 for place, name in enumerate(tokens)}
    tiny, left = Tiny(model_type, class_name, fields), list(_SMALLER)
    for name, value in defaults.items():
        is_done = tiny.fields.get(name) != given.get(name)
        if is_done or not _is_large(name, value):
            continue
        for size in left:
            if (smaller := tiny.but(**dict.fromkeys(twins(name, defaults), size))).shapes() is not None:
                tiny = smaller
                left.remove(size)
                break
    return tiny


def fewer_layers(fields: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return the fields that are about layers, for a model with a layer of each kind and few others.

    Lists with an entry for each layer lose those of the others, and lists of numbers of layers name what is left.

    Args:
        fields: All fields of a config.
        name: The field with the number of layers.
    """
    layers = fields.get(name)
    if not isinstance(layers, int):
        return {}
    lists = {each: list(value) for each, value in fields.items() if _is_list(value, layers) and not _is_token(each)}
    numbers = {each: set(value) for each, value in fields.items() if _names_layers(each, value, layers)}
    kept = _kept_layers([*lists.values(), *([n in value for n in range(layers)] for value in numbers.values())], layers)
    if len(kept) == SIZES["num_hidden_layers"] and not lists and not numbers:
        return {}
    return {
        name: len(kept),
        **{each: [value[number] for number in kept] for each, value in lists.items()},
        **{each: [place for place, number in enumerate(kept) if number in value] for each, value in numbers.items()},
    }


def _without(fields: Mapping[str, Any], names: Set[str]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name not in names}


def _kept_layers(lists: Sequence[Sequence[Any]], layers: int) -> list[int]:
    """Return the first layer of each kind, and so many others, the first ones, that none is missing of the usual size.

    Args:
        lists: What tells layers apart, with an entry for each; what is of many values is a measure, and no kind.
        layers: Number of layers.
    """
    telling = [list(map(repr, values)) for values in lists if len(set(map(repr, values))) <= _MOST_KINDS]
    firsts: dict[tuple[str, ...], int] = {}
    for number in range(layers):
        firsts.setdefault(tuple(values[number] for values in telling), number)
    kept = list(firsts.values())
    others = [number for number in range(layers) if number not in kept]
    return sorted([*kept, *others[: max(SIZES["num_hidden_layers"] - len(kept), 0)]])


def canonical_names(config: Any) -> dict[str, str]:
    """Return the names of config fields by their canonical names, as far as the class says them."""
    fields = config.to_dict()
    named = {canonical: config.attribute_map.get(canonical, canonical) for canonical in SIZES}
    if named["num_key_value_heads"] == named["num_attention_heads"]:
        del named["num_key_value_heads"]
    return {canonical: name for canonical, name in named.items() if name in fields}


def twins(name: str, fields: Mapping[str, Any]) -> tuple[str, ...]:
    """Return a field, and that of the decoder where it is an encoder's."""
    twins = (name, name.replace("encoder", "decoder"), name.replace("num_layers", "num_decoder_layers"))
    return tuple(dict.fromkeys(twin for twin in twins if twin in fields))


def _is_list(value: Any, length: int) -> bool:
    return isinstance(value, list | tuple) and len(value) == length > 0


def _names_layers(name: str, value: Any, layers: int) -> bool:
    """Return whether a field lists the numbers of some layers."""
    is_list = isinstance(value, list | tuple) and len(value) > 0 and name.endswith(_OF_LAYERS)
    return is_list and all(type(each) is int and 0 <= each < layers for each in value) and len({*value}) == len(value)


def _is_token(name: str) -> bool:
    return name.endswith("_token_id") and name.removesuffix("_token_id") in _TOKENS


def _is_large(name: str, value: Any) -> bool:
    is_number = isinstance(value, int) and not isinstance(value, bool)
    return is_number and value > _LARGE and not name.endswith("_token_id")
