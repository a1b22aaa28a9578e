"""Runs a GGUF file in llama.cpp, on the CPU."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amp_export.errors import ModelError, RequestError, UnsupportedModelError
from amp_export.exporters.gguf.files import GgufFacts, exported_file, read_facts
from amp_export.exporters.gguf.library import AUTO, DISABLED, FLOAT16, FLOAT32, LlamaCpp, load_library, text_buffer
from amp_export.exporters.models.decoder import Decoder, check_mask
from amp_export.hardware.threads import usable_cores

if TYPE_CHECKING:
    import numpy as np

    from amp_export.exporters.gguf.library import ContextParameters
    from amp_export.exporters.models.session import Floats, Integers

    Rows = Sequence[np.ndarray[Any, np.dtype[np.int64]]]

HEADROOM = 128
"""Tokens that a context has room for beyond a text, if nothing says how long that becomes."""

DEFAULTS = "flash attention where llama.cpp has it, KV cache in float16"
"""What llama.cpp does if nothing is asked: `llama_context_default_params`, src/llama-context.cpp."""


def run(path: Path, *, threads: int | None = None, exact: bool = False) -> LlamaDecoder:
    """Load an exported file into llama.cpp.

    Args:
        path: A file, or the folder that `export` wrote it into.
        threads: Number of threads; by default one per core that the process may use.
        exact: Whether attention is computed in float32: without flash attention, and with a KV cache in float32.
            Otherwise llama.cpp's defaults apply, which are faster and round more.

    Raises:
        MissingExtraError: xllamacpp or gguf is not installed.
        ModelError: There is no file, or a damaged one.
        UnsupportedModelError: This llama.cpp does not have the architecture, or does not fit.
    """
    library = load_library()
    file = path if path.is_file() else exported_file(path)
    facts = read_facts(file)
    return LlamaDecoder(library, file, facts, threads=threads or usable_cores(), exact=exact)


@dataclass(frozen=True)
class Written:
    """What the KV cache of a decoder holds, or held.

    Attributes:
        rows: The tokens of each text, without padding.
        length: Number of tokens of each, padding counted.
        turn: Number of the call that wrote it: an older one is computed again.
        room: Tokens of a text that there is to be room for.
    """

    rows: Rows
    length: int
    turn: int
    room: int


class LlamaDecoder(Decoder):
    """A decoder in llama.cpp, which holds the KV cache itself. Padding is not passed on to it."""

    # so that a failed load can be closed
    _model: Any = None
    _context: Any = None

    def __init__(self, library: LlamaCpp, file: Path, facts: GgufFacts, *, threads: int, exact: bool) -> None:
        self._library, self._exact = library, exact
        self._model = load_model(library, file)
        self._turn = 0
        self._shape = (0, 0)
        vocabulary = library.call("llama_model_get_vocab", self._model)
        self._vocab_size = int(library.call("llama_vocab_n_tokens", vocabulary))
        self.num_layers = int(library.call("llama_model_n_layer", self._model))
        self.dtype, self.threads = facts.dtype, threads
        self.takes_padding = not facts.counts_padding
        self.description = f"llama.cpp of xllamacpp {library.version}"
        self._longest = int(library.call("llama_model_n_ctx_train", self._model))

    def forward(
        self,
        input_ids: Integers,
        attention_mask: Integers,
        position_ids: Integers,
        past: Written | None = None,
        *,
        logits_to_keep: int = 0,
    ) -> tuple[Floats, Written]:
        """See `Decoder.forward`. Logits of padding are 0."""
        import numpy as np

        del position_ids  # they count the tokens that are not padding, as llama.cpp does
        if self._model is None:
            raise ValueError("This decoder is closed.")
        batch_size, new = input_ids.shape
        past = past if past is not None else self.reserve(batch_size, attention_mask.shape[1] + HEADROOM)
        check_mask(attention_mask.shape, batch_size, past_length=past.length, sequence_length=new)
        real_bs = attention_mask[:, past.length :] == 1
        rows = [input_ids[row, real_bs[row]] for row in range(batch_size)]
        whole = [np.concatenate([old, more]) for old, more in zip(past.rows, rows, strict=True)]
        self._make_room(past, whole)
        kept = min(new, logits_to_keep or new)
        real_bk = real_bs[:, new - kept :]
        wanted = [int(count) for count in real_bk.sum(axis=1)]
        logits_bkv = np.zeros((batch_size, kept, self._vocab_size), np.float32)
        # rows of a mask are read text by text, as tokens are given
        logits_bkv[real_bk] = self._decode(rows, [len(row) for row in past.rows], wanted)
        self._turn += 1
        return logits_bkv, Written(whole, past.length + new, self._turn, past.room)

    def reserve(self, batch_size: int, tokens: int) -> Written:
        """See `Decoder.reserve`."""
        import numpy as np

        return Written([np.empty(0, np.int64)] * batch_size, 0, -1, tokens)

    def tokenize(self, text: str) -> list[int]:
        """Return the token ids of a text by the file's own tokenizer; special tokens in it are recognised.

        Raises:
            UnsupportedModelError: The file has no tokenizer.
        """
        vocabulary = self._library.call("llama_model_get_vocab", self._model)
        # llama.cpp ends the process if it is asked without one
        if not self._library.call("llama_vocab_type", vocabulary):
            raise UnsupportedModelError("The GGUF file has no tokenizer.\nExport a checkpoint that has one.")
        content, length = text_buffer(text)
        found = (ctypes.c_int32 * (length + 8))()
        count = self._library.call("llama_tokenize", vocabulary, content, length, found, len(found), True, True)
        assert count >= 0, "a text has no more tokens than bytes, apart from the special ones around it"
        return list(found[:count])

    def close(self) -> None:
        """Free the weights."""
        if self._context is not None:
            self._library.call("llama_free", self._context)
        if self._model is not None:
            self._library.call("llama_model_free", self._model)
        self._model = self._context = None

    def __del__(self) -> None:
        self.close()

    def _make_room(self, past: Written, whole: Rows) -> None:
        """Make the context hold what came before, with room for what is new."""
        longest = max(map(len, whole))
        if longest > self._longest:
            raise RequestError(
                f"A text of {longest} tokens was given, but the GGUF file has a context of {self._longest}.\nGive "
                f"texts of at most {self._longest} tokens, prompt and output together."
            )
        rows, tokens = self._shape
        fits = self._context is not None and rows == len(whole) and tokens >= longest
        if fits and past.turn == self._turn:
            return
        if not fits or past.room > tokens:
            # a text that outgrows its context is not to be computed anew for every further token
            needed = 2 * longest if past.length else longest
            self._new_context(len(whole), min(self._longest, max(past.room, needed)))
        self._library.call("llama_memory_clear", self._library.call("llama_get_memory", self._context), True)
        if past.length:
            self._decode(past.rows, [0] * len(past.rows), [0] * len(past.rows))

    def _new_context(self, rows: int, tokens: int) -> None:
        library = self._library
        if self._context is not None:
            library.call("llama_free", self._context)
            self._context = None
        given: ContextParameters = library.call("llama_context_default_params")
        # a context of several texts is divided evenly, and each part is rounded up
        given.n_ctx, given.n_seq_max = rows * (-(-tokens // 256) * 256), rows
        given.n_outputs_max_per_seq = 0
        given.n_threads = given.n_threads_batch = self.threads
        if self._exact:
            given.flash_attn_type, given.type_k, given.type_v = DISABLED, FLOAT32, FLOAT32
        self._context, lines = library.heard(lambda: library.call("llama_init_from_model", self._model, given))
        if not self._context:
            raise MemoryError(f"llama.cpp cannot allocate a context of {rows} texts of {tokens} tokens: {lines[-1:]}")
        self._shape = (rows, tokens)
        _check_taken(library, self._context, given, lines)

    def _decode(self, rows: Rows, starts: Sequence[int], wanted: Sequence[int]) -> Floats:
        """Compute new tokens, and return the logits of the last ones of each text, text by text."""
        import numpy as np

        tokens = np.concatenate(rows).astype(np.int32) if len(rows) else np.empty(0, np.int32)
        places = np.concatenate(
            [np.arange(start, start + len(row)) for row, start in zip(rows, starts, strict=True)]
        ).astype(np.int32)
        texts = np.repeat(np.arange(len(rows), dtype=np.int32), [len(row) for row in rows])
        outputs = np.concatenate(
            [np.arange(len(row)) >= len(row) - count for row, count in zip(rows, wanted, strict=True)]
        ).astype(np.int8)
        most = int(self._library.call("llama_n_batch", self._context))
        found = [
            self._decode_batch(*(each[start : start + most] for each in (tokens, places, texts, outputs)))
            for start in range(0, len(tokens), most)
        ]
        return np.concatenate(found) if found else np.empty((0, self._vocab_size), np.float32)

    def _decode_batch(self, tokens: Any, places: Any, texts: Any, outputs: Any) -> Floats:
        import numpy as np

        from amp_export.exporters.gguf.library import Batch

        integers = ctypes.POINTER(ctypes.c_int32)
        tokens, places, texts, outputs = map(np.ascontiguousarray, (tokens, places, texts, outputs))
        counts = np.ones(len(tokens), np.int32)
        # a list of texts for each token, of which each belongs to one
        lists = (texts.ctypes.data + 4 * np.arange(len(texts))).astype(np.uint64)
        batch = Batch(
            len(tokens),
            tokens.ctypes.data_as(integers),
            None,
            places.ctypes.data_as(integers),
            counts.ctypes.data_as(integers),
            lists.ctypes.data_as(ctypes.POINTER(integers)),
            outputs.ctypes.data_as(ctypes.POINTER(ctypes.c_int8)),
        )
        code, lines = self._library.heard(lambda: self._library.call("llama_decode", self._context, batch))
        if code:
            raise ModelError(f"llama.cpp cannot compute: llama_decode returns {code}. {' '.join(lines[-1:])}")
        count = int(outputs.sum())
        if not count:
            return np.empty((0, self._vocab_size), np.float32)
        pointer = self._library.call("llama_get_logits", self._context)
        # the next call overwrites them
        return np.ctypeslib.as_array(pointer, (count, self._vocab_size)).copy()


def load_model(library: LlamaCpp, file: Path) -> Any:
    """Return a loaded model.

    Raises:
        UnsupportedModelError: This llama.cpp does not have the architecture.
        ModelError: It cannot load the file for another reason.
    """
    parameters = library.call("llama_model_default_params")
    parameters.n_gpu_layers = 0
    model, lines = library.heard(lambda: library.call("llama_model_load_from_file", str(file).encode(), parameters))
    if model:
        return model
    said = next((line for line in reversed(lines) if "error" in line), "it does not say why")
    if found := re.search(r"unknown model architecture: '(\w+)'", said):
        raise UnsupportedModelError(
            f"The llama.cpp of xllamacpp {library.version} is too old for {file}: it lacks the architecture "
            f"{found[1]}.\nInstall a newer one: pip install --upgrade xllamacpp"
        )
    raise ModelError(f"llama.cpp cannot load {file}: {said}\nExport it again.")


def _check_taken(library: LlamaCpp, context: Any, given: ContextParameters, lines: Sequence[str]) -> None:
    """Compare what llama.cpp says of a context with what was asked."""
    text = "\n".join(lines)
    for getter, wanted in (("llama_n_seq_max", given.n_seq_max), ("llama_n_threads", given.n_threads)):
        library.check(int(library.call(getter, context)) == wanted, getter)
    library.check(int(library.call("llama_n_ctx", context)) >= given.n_ctx, "n_ctx")
    if given.flash_attn_type == DISABLED:
        library.check(re.search(r"flash_attn\s+= disabled", text) is not None, "flash_attn_type")
    else:
        assert given.flash_attn_type == AUTO
    kind = {FLOAT32: "f32", FLOAT16: "f16"}[given.type_k]
    library.check(f"K ({kind})" in text and f"V ({kind})" in text, "type_k and type_v")
