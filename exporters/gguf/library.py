"""llama.cpp through its C interface, as the package xllamacpp ships it.

The structures are those of include/llama.h in xllamacpp 2026.10.11549. A later version may have others: what llama.cpp
says that it was given is compared with what was asked, so that a field in another place is an error and not noise.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
from collections.abc import Callable
from ctypes import POINTER, c_bool, c_byte, c_char, c_char_p, c_float, c_int8, c_int32, c_size_t, c_uint32, c_void_p
from typing import Any

from amp_export.errors import UnsupportedModelError
from amp_export.extras import require_extra

TESTED = "2026.10.11549"
"""Version of xllamacpp that this module was written for."""

DISABLED, AUTO = 0, -1
"""Values of `llama_flash_attn_type`."""
FLOAT32, FLOAT16 = 0, 1
"""Values of `ggml_type`."""

_SPARE = 512
"""Bytes after a structure: a later version may have a longer one, which is passed by value."""


class ModelParameters(ctypes.Structure):
    """`llama_model_params`, whose defaults are all kept but the devices: a GPU would compute in other ways."""

    _fields_ = (
        ("devices", c_void_p),
        ("tensor_buft_overrides", c_void_p),
        ("n_gpu_layers", c_int32),
        ("rest", c_byte * _SPARE),
    )


class ContextParameters(ctypes.Structure):
    """`llama_context_params`."""

    _fields_ = (
        *((name, c_uint32) for name in ("n_ctx", "n_batch", "n_ubatch", "n_seq_max", "n_rs_seq")),
        *((name, c_uint32) for name in ("n_outputs_max", "n_outputs_max_per_seq")),
        *((name, c_int32) for name in ("n_threads", "n_threads_batch", "ctx_type", "rope_scaling_type")),
        *((name, c_int32) for name in ("pooling_type", "attention_type", "flash_attn_type")),
        *((name, c_float) for name in ("rope_freq_base", "rope_freq_scale", "yarn_ext_factor", "yarn_attn_factor")),
        *((name, c_float) for name in ("yarn_beta_fast", "yarn_beta_slow")),
        ("yarn_orig_ctx", c_uint32),
        ("defrag_thold", c_float),
        ("cb_eval", c_void_p),
        ("cb_eval_user_data", c_void_p),
        ("type_k", c_int32),
        ("type_v", c_int32),
        ("moe_cache_size", c_size_t),
        ("abort_callback", c_void_p),
        ("abort_callback_data", c_void_p),
        *((name, c_bool) for name in ("embeddings", "offload_kqv", "no_perf", "op_offload", "swa_full", "kv_unified")),
        ("rest", c_byte * _SPARE),
    )


_DEFAULTS = {
    "n_ctx": 512,
    "n_batch": 2048,
    "n_ubatch": 512,
    "n_seq_max": 1,
    "n_outputs_max": 0,
    "n_outputs_max_per_seq": 1,
    "rope_scaling_type": -1,
    "pooling_type": -1,
    "flash_attn_type": AUTO,
    "rope_freq_base": 0.0,
    "yarn_ext_factor": -1.0,
    "type_k": FLOAT16,
    "type_v": FLOAT16,
    "offload_kqv": True,
}
"""Of `llama_context_default_params`, src/llama-context.cpp: what they read as says where the fields are."""


class Batch(ctypes.Structure):
    """`llama_batch`."""

    _fields_ = (
        ("n_tokens", c_int32),
        ("token", POINTER(c_int32)),
        ("embd", POINTER(c_float)),
        ("pos", POINTER(c_int32)),
        ("n_seq_id", POINTER(c_int32)),
        ("seq_id", POINTER(POINTER(c_int32))),
        ("logits", POINTER(c_int8)),
    )


_LOG = ctypes.CFUNCTYPE(None, c_int32, c_char_p, c_void_p)

_FUNCTIONS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "llama_backend_init": (None, ()),
    "llama_log_set": (None, (_LOG, c_void_p)),
    "llama_model_default_params": (ModelParameters, ()),
    "llama_context_default_params": (ContextParameters, ()),
    "llama_model_load_from_file": (c_void_p, (c_char_p, ModelParameters)),
    "llama_init_from_model": (c_void_p, (c_void_p, ContextParameters)),
    "llama_model_free": (None, (c_void_p,)),
    "llama_free": (None, (c_void_p,)),
    "llama_model_get_vocab": (c_void_p, (c_void_p,)),
    "llama_model_n_ctx_train": (c_int32, (c_void_p,)),
    "llama_model_n_layer": (c_int32, (c_void_p,)),
    "llama_vocab_n_tokens": (c_int32, (c_void_p,)),
    "llama_vocab_type": (c_int32, (c_void_p,)),
    "llama_tokenize": (
        c_int32,
        (c_void_p, c_char_p, c_int32, POINTER(c_int32), c_int32, c_bool, c_bool),
    ),
    "llama_n_ctx": (c_uint32, (c_void_p,)),
    "llama_n_batch": (c_uint32, (c_void_p,)),
    "llama_n_threads": (c_int32, (c_void_p,)),
    "llama_n_seq_max": (c_uint32, (c_void_p,)),
    "llama_get_memory": (c_void_p, (c_void_p,)),
    "llama_memory_clear": (None, (c_void_p, c_bool)),
    "llama_decode": (c_int32, (c_void_p, Batch)),
    "llama_get_logits": (POINTER(c_float), (c_void_p,)),
}


class LlamaCpp:
    """The loaded library.

    Attributes:
        version: Version of xllamacpp.
    """

    def __init__(self) -> None:
        package = importlib.import_module("xllamacpp")
        self.version = str(package.__version__)
        self._library = ctypes.CDLL(importlib.import_module("xllamacpp.xllamacpp").__file__)
        self._lines: list[str] = []
        self._partial = ""
        # llama.cpp calls it as long as the process runs
        self._log = _LOG(self._hear)
        for name, (returned, taken) in _FUNCTIONS.items():
            try:
                function = getattr(self._library, name)
            except AttributeError as error:
                raise UnsupportedModelError(self._refusal(f"it has no {name}")) from error
            function.restype, function.argtypes = returned, taken
        self.call("llama_log_set", self._log, None)
        self.call("llama_backend_init")
        self._check_defaults()

    def call(self, name: str, *arguments: Any) -> Any:
        """Call a function of llama.h."""
        return getattr(self._library, name)(*arguments)

    def heard(self, work: Callable[[], Any]) -> tuple[Any, list[str]]:
        """Return what a call returns, and the lines that llama.cpp logs meanwhile."""
        # a server in this process, such as xllamacpp's, takes the log of all for itself
        self.call("llama_log_set", self._log, None)
        self._lines.clear()
        found = work()
        lines, self._lines = [*self._lines, self._partial], []
        return found, [line for line in lines if line]

    def check(self, found: bool, what: str) -> None:
        """Refuse a version that did not take a setting as it was given.

        Raises:
            UnsupportedModelError: It did not.
        """
        if not found:
            raise UnsupportedModelError(self._refusal(f"it did not take {what} as it was given"))

    def _check_defaults(self) -> None:
        given = self.call("llama_context_default_params")
        for name, expected in _DEFAULTS.items():
            self.check(getattr(given, name) == expected, f"the field {name} of its parameters")

    def _hear(self, _level: int, text: bytes | None, _data: Any) -> None:
        *lines, self._partial = (self._partial + (text or b"").decode("utf-8", "replace")).split("\n")
        self._lines += lines

    def _refusal(self, why: str) -> str:
        return (
            f"xllamacpp {self.version} holds a llama.cpp that does not fit: {why}.\nInstall the one that was "
            f"tested: pip install xllamacpp=={TESTED}"
        )


def require_runtime() -> None:
    """Import xllamacpp, so that it fails early if it is not installed.

    Raises:
        MissingExtraError: It is not installed.
    """
    require_extra("xllamacpp", "llamacpp", needed_for="Running a GGUF file")


@functools.cache
def load_library() -> LlamaCpp:
    """Return llama.cpp, which a process loads once.

    Raises:
        MissingExtraError: xllamacpp is not installed.
        UnsupportedModelError: Its llama.cpp lacks a function, or has other parameters.
    """
    require_runtime()
    return LlamaCpp()


def text_buffer(text: str) -> tuple[ctypes.Array[c_char], int]:
    """Return a text as bytes in UTF-8, with their number."""
    content = text.encode("utf-8")
    return ctypes.create_string_buffer(content, len(content) + 1), len(content)
