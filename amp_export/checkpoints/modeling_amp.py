"""Loads a pruned checkpoint with layer widths that a stock config cannot express.

Every such checkpoint contains a copy of this file, so that it loads anywhere with `trust_remote_code=True`. The file
needs only torch and transformers. It builds the dense model's class from its own config, and resizes the modules that
config.json lists before the weights are loaded.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
import transformers
from transformers import PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

MODEL_TYPE = "amp_resized"
"""Unknown to transformers on purpose: without this file, such a checkpoint must fail to load."""


FIELDS = frozenset({"config.num_attention_heads", "config.num_key_value_heads"})
"""Fields of a module's own copy of the config that config.json may set. Of attributes, it may set positive integers."""


GENERATION_FIELDS = (
    *("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id"),
    *("forced_bos_token_id", "forced_eos_token_id", "suppress_tokens", "begin_suppress_tokens", "use_cache"),
)
"""Fields that `generate` reads from config.json where there is no generation_config.json; not from within `dense`."""


class ConfigError(ValueError):
    """The config.json names something that this file does not change."""


class AmpResizedConfig(PreTrainedConfig):
    """The content of config.json.

    Attributes:
        dense: The config of the dense model, in the form of a config.json.
        dense_class: The transformers class of the dense model.
        resized_modules: By module path, `parameters` (shapes by name) and `attributes` (values by name; `config.NAME`
            is an attribute of the module's own copy of the config).
        layer_widths: The widths of each layer. Caches take their numbers of heads; not needed to load the model.
    """

    model_type = MODEL_TYPE
    dense: dict[str, Any] | None = None
    dense_class: str | None = None
    resized_modules: dict[str, Any] | None = None
    layer_widths: list[dict[str, int]] | None = None


class LayerConfigs(Sequence[PreTrainedConfig]):
    """The config of each layer, with its own `num_key_value_heads`: `per_layer_config` of a resized model's config.

    transformers 5.24 takes the shapes of a cache that is allocated before the first pass from there (`get_head_shapes`,
    configuration_utils.py), as it is for `generate(cache_implementation="static", prefill_chunk_size=...)`. A
    `per_layer_config` in config.json would not do: with it, its classes refuse to read one count for all layers, and so
    refuse to be built (`AmbiguousGlobalPerLayerAttributeError`).
    """

    def __init__(self, dense: PreTrainedConfig, by_type: Any, widths: Sequence[dict[str, int]]) -> None:
        """Take the dense config, its own `per_layer_config`, and the widths of each layer."""
        self._dense, self._by_type, self._widths = dense, by_type, widths

    def __len__(self) -> int:
        """Return the number of layers."""
        return len(self._widths)

    def __getitem__(self, layer: Any) -> Any:
        """Return the config of a layer, of the layers of a slice, or of all layers of a type, such as sliding ones."""
        if isinstance(layer, str):
            return self._by_type[layer]
        if isinstance(layer, slice):
            return [self[number] for number in range(*layer.indices(len(self)))]
        heads = self._widths[layer]["key_value_heads"]
        # layers without attention have none; with counts of some layers, a config refuses to read one for all
        if heads in (0, vars(self._dense).get("num_key_value_heads")):
            return self._by_type[layer]
        view = copy.copy(self._by_type[layer])
        # the other counts stay those of the dense model: some classes derive the width of a head from them
        view.num_key_value_heads = heads
        return view


def dense_config(config: AmpResizedConfig) -> PreTrainedConfig:
    """Return the dense model's config; when it is saved, it is written as the resized config."""
    if config.dense is None or config.resized_modules is None:
        raise ConfigError(f"config.json of type {MODEL_TYPE} needs `dense`, `dense_class` and `resized_modules`.")
    fields = {name: value for name, value in config.dense.items() if name not in ("model_type", "auto_map")}
    dense: PreTrainedConfig = transformers.AutoConfig.for_model(config.dense["model_type"], **fields)
    saved = {
        "architectures": config.architectures,
        "auto_map": getattr(config, "auto_map", None),
        "model_type": MODEL_TYPE,
        "dense_class": config.dense_class,
        "resized_modules": config.resized_modules,
        "layer_widths": config.layer_widths,
    }

    class Resized(type(dense)):  # type: ignore[misc]
        """A dense config that is serialized as the resized one, and whose layers have their own numbers of KV heads."""

        @property
        def per_layer_config(self) -> Any:
            found, widths = super().per_layer_config, config.layer_widths or ()
            # those of an encoder-decoder are of both stacks, and its caches are allocated by the first pass
            is_decoder = not self.is_encoder_decoder and len(widths) == self.num_hidden_layers
            return LayerConfigs(self, found, widths) if is_decoder else found

        @per_layer_config.setter
        def per_layer_config(self, _: Any) -> None:
            raise ConfigError("The layers' widths are those of `resized_modules`, and cannot be changed.")

        def to_dict(self) -> dict[str, Any]:
            fields = super().to_dict()
            generation = {name: fields[name] for name in GENERATION_FIELDS if fields.get(name) is not None}
            return {**generation, **saved, "dense": fields}

        def to_diff_dict(self) -> dict[str, Any]:
            return self.to_dict()

    Resized.__name__ = type(dense).__name__
    dense.__class__ = Resized
    if getattr(config, "dtype", None) is not None:
        dense.dtype = config.dtype
    return dense


def resize(model: torch.nn.Module, modules: dict[str, Any]) -> None:
    """Set the shapes and attributes of modules; a parameter that already has its shape keeps its values."""
    known = dict(model.named_modules())
    for path, changes in modules.items():
        module = known.get(path)
        if module is None:
            raise ConfigError(f"config.json: the model has no module {path!r}.")
        for name, shape in changes.get("parameters", {}).items():
            old = dict(module.named_parameters(recurse=False)).get(name)
            if old is None or not all(_is_count(size) for size in shape):
                raise ConfigError(f"config.json: {path} has no parameter {name!r} that can take the shape {shape!r}.")
            if list(old.shape) != list(shape):
                setattr(module, name, torch.nn.Parameter(old.new_empty(shape), requires_grad=old.requires_grad))
        for name, value in changes.get("attributes", {}).items():
            if not (name in FIELDS or _is_count(vars(module).get(name))) or not _is_count(value):
                raise ConfigError(f"config.json: {name!r} of {path} must be a count that it has, not {value!r}.")
            _set_attribute(module, name, value)
        _tell_features(module)


def _is_count(value: Any) -> bool:
    return type(value) is int and value > 0


def _set_attribute(module: torch.nn.Module, name: str, value: int) -> None:
    if not name.startswith("config."):
        setattr(module, name, value)
        return
    # a copy, so that the other layers still read the dense counts
    view = copy.copy(module.config)
    setattr(view, name.removeprefix("config."), value)
    module.config = view


def _tell_features(module: torch.nn.Module) -> None:
    weight = getattr(module, "weight", None)
    if isinstance(module, torch.nn.Linear) and weight is not None:
        module.out_features, module.in_features = weight.shape
    elif hasattr(module, "nf") and weight is not None:  # transformers' Conv1D, whose weight is [in, out]
        module.nx, module.nf = weight.shape


class _Loader:
    """A model class for transformers' Auto classes; it creates a class for each checkpoint."""

    @classmethod
    def from_pretrained(cls, path: Any, *args: Any, config: Any = None, **kwargs: Any) -> Any:
        """Load the checkpoint, like the method of `PreTrainedModel`."""
        if not isinstance(config, AmpResizedConfig):
            config = AmpResizedConfig.from_pretrained(path)
        dense = dense_config(config)
        return resized_class(config, dense).from_pretrained(path, *args, config=dense, **kwargs)

    @classmethod
    def register_for_auto_class(cls, auto_class: Any = None) -> None:
        """Do nothing: config.json names the classes."""

    @staticmethod
    def add_generation_mixin_to_remote_model(model_class: Any) -> Any:
        """Return the class unchanged: the dense class has the mixin if it can generate."""
        return model_class


def model_class(name: str | None, config: PreTrainedConfig) -> Any:
    """Return the transformers class of this name, which must be a model class for this config."""
    found: Any = getattr(transformers, str(name), None)
    is_model = isinstance(found, type) and issubclass(found, transformers.PreTrainedModel)
    # some types have no class of their own, such as InternLM3, which is loaded in Llama's
    is_lent = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(config.model_type) == name
    if not is_model or not (is_lent or getattr(found.config_class, "model_type", None) == config.model_type):
        raise ConfigError(f"config.json: {name!r} is not a model class of transformers for type {config.model_type!r}.")
    return found


def resized_class(config: AmpResizedConfig, dense: PreTrainedConfig) -> Any:
    """Return the dense model's class, with the layers resized when it is built."""
    base = model_class(config.dense_class, dense)

    def build(self: Any, dense: PreTrainedConfig, *args: Any, **kwargs: Any) -> None:
        base.__init__(self, dense, *args, **kwargs)
        resize(self, config.resized_modules or {})

    return type(base.__name__, (base,), {"__init__": build, "__module__": base.__module__})


class AmpResizedForCausalLM(_Loader):
    """Any causal language model."""


class AmpResizedForMaskedLM(_Loader):
    """Any masked language model."""


class AmpResizedForSequenceClassification(_Loader):
    """Any sequence classification model."""


class AmpResizedForTokenClassification(_Loader):
    """Any token classification model."""


class AmpResizedForQuestionAnswering(_Loader):
    """Any extractive question answering model."""


class AmpResizedForPreTraining(_Loader):
    """Any model with all heads of its pre-training."""


class AmpResizedForNextSentencePrediction(_Loader):
    """Any next sentence prediction model."""


class AmpResizedForImageClassification(_Loader):
    """Any image classification model."""


class AmpResizedForAudioClassification(_Loader):
    """Any audio classification model."""


class AmpResizedForCTC(_Loader):
    """Any model that transcribes speech by connectionist temporal classification."""


class AmpResizedForSeq2SeqLM(_Loader):
    """Any text-to-text encoder-decoder."""


class AmpResizedForSpeechSeq2Seq(_Loader):
    """Any speech-to-text encoder-decoder."""


class AmpResized(_Loader):
    """Any model without a head."""
