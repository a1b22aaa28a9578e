"""A GPU without a GPU: tensors that refuse to meet those of the CPU, and compute there all the same.

It shows a tensor that was created on the wrong device, which is what tests on a CPU do not show. Values are the CPU's,
bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_iter, tree_map

DEVICE = torch.device("cuda", 0)

_TAKES_INDICES = ("__getitem__", "__setitem__")
"""What takes indices that are on the CPU."""

_CROSSES = ("copy_",)
"""What copies from one device to the other."""


class OnGpu(torch.Tensor):
    """A tensor that says that it is on a GPU."""

    @classmethod
    def __torch_function__(
        cls, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(function, "__name__", "")
        owner = getattr(function, "__self__", None)
        if name == "__get__" and owner is torch.Tensor.device:
            return DEVICE
        if name == "__get__" and owner is torch.Tensor.is_cuda:
            return True
        if name in ("numpy", "__array__"):
            raise TypeError(f"{DEVICE} tensors cannot be converted to numpy: use .cpu() first")
        if name == "cpu":
            return _plain(args[0])
        if name == "histc":
            args = (args[0].float(), *args[1:])  # a GPU counts integers too
        if name == "register_hook":
            return _compute(function, types, (args[0], _hook(args[1])), kwargs)
        moved = _device_of(args[1:], kwargs) if name == "to" else None
        if name == "to":
            args, kwargs = _without_device(args, kwargs)
            found = _compute(function, types, args, kwargs) if len(args) > 1 or kwargs else args[0]
            return _plain(found) if moved is not None and moved.type == "cpu" else found
        _check(name, args, kwargs)
        kwargs.pop("device", None)
        return _compute(function, types, args, kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> OnGpu:
        if id(self) not in memo:
            with torch._C.DisableTorchFunctionSubclass():
                copied = self.detach().clone().as_subclass(OnGpu).requires_grad_(self.requires_grad)
            if isinstance(self, torch.nn.Parameter):
                copied = torch.nn.Parameter(copied, requires_grad=self.requires_grad)
            memo[id(self)] = copied
        copy: OnGpu = memo[id(self)]
        return copy


class _Intercept(TorchFunctionMode):
    """What creates tensors on the GPU, or moves them there."""

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(function, "__name__", "")
        if any(isinstance(each, OnGpu) for each in tree_iter((args, kwargs))):
            return function(*args, **kwargs)
        device = _device_of(args[1:] if name == "to" else (), kwargs)
        if device is None or device.type != DEVICE.type:
            return function(*args, **kwargs)
        if name == "to":
            args, kwargs = _without_device(args, kwargs)
            found = function(*args, **kwargs) if len(args) > 1 or kwargs else args[0]
        else:
            kwargs.pop("device")
            found = function(*args, **kwargs)
        return tree_map(_on_gpu, found)


def _compute(function: Callable[..., Any], types: Any, args: Any, kwargs: Any) -> Any:
    return torch.Tensor.__torch_function__.__func__(OnGpu, function, types, args, kwargs)  # type: ignore[attr-defined]


def _check(name: str, args: Any, kwargs: Mapping[str, Any]) -> None:
    """Refuse tensors of both devices in one operation; a scalar of the CPU is allowed."""
    if name in _CROSSES:
        return
    given = args[:1] if name in _TAKES_INDICES and isinstance(args[0], OnGpu) else args
    others = [each for each in tree_iter((given, kwargs)) if isinstance(each, torch.Tensor)]
    if wrong := [each for each in others if not isinstance(each, OnGpu) and each.ndim]:
        raise RuntimeError(f"{name}: expected all tensors on {DEVICE}, but one of {list(wrong[0].shape)} is on the CPU")


def _device_of(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> torch.device | None:
    for each in (*args, kwargs.get("device")):
        if isinstance(each, torch.Tensor):
            return each.device
        if isinstance(each, (str, torch.device)):
            return torch.device(each)
    return None


def _without_device(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    kept = (each for each in args[1:] if not isinstance(each, (str, torch.device)))
    return (args[0], *kept), {name: value for name, value in kwargs.items() if name != "device"}


def _on_gpu(value: Any) -> Any:
    return value.as_subclass(OnGpu) if isinstance(value, torch.Tensor) else value


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    with torch._C.DisableTorchFunctionSubclass():
        return tensor.as_subclass(torch.Tensor)


def _hook(function: Callable[..., Any]) -> Callable[..., Any]:
    """Autograd hands out plain gradients, and lets no subclass see what hooks do."""

    def run(gradient: torch.Tensor) -> Any:
        with torch._C._EnableTorchFunction():
            return function(_on_gpu(gradient))

    return run


def move(model: torch.nn.Module, device: str) -> torch.nn.Module:
    """Stands for `placement.move`: weights that are shared stay shared."""
    convert = _on_gpu if device == DEVICE.type else _plain
    known: dict[int, torch.nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                new = torch.nn.Parameter(convert(parameter.detach()), requires_grad=parameter.requires_grad)
                module._parameters[name] = known.setdefault(id(parameter), new)
        for name, buffer in module._buffers.items():
            module._buffers[name] = None if buffer is None else convert(buffer)
    return model


@contextmanager
def fake_gpu() -> Iterator[None]:
    """Let torch create tensors on a GPU that is not there."""
    with _Intercept():
        yield
