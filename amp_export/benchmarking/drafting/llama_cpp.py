"""Speculative decoding in llama.cpp, by the server that the package xllamacpp has in it."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from amp_export.benchmarking.drafting.base import Generated, OpenPair, logit_gap
from amp_export.documents import parse_json
from amp_export.errors import ModelError
from amp_export.exporting.drafting import DENSE, PRUNED

_TIMEOUT = 600
"""Seconds to wait for a text."""


class LlamaPair(OpenPair):
    """See `OpenPair`. The models run with llama.cpp's defaults."""

    def __init__(self, folder: Path, *, threads: int, draft_tokens: int, context: int) -> None:
        """Load the dense model twice, by itself and with the pruned one that drafts.

        Args:
            folder: Folder that `exporting.drafting.write_pair` wrote for llama.cpp.
            threads: Threads of each model.
            draft_tokens: Tokens to draft before the dense model checks them.
            context: Tokens of the longest prompt with what follows it.

        Raises:
            MissingExtraError: xllamacpp is not installed.
            ModelError: It cannot open the files.
        """
        from amp_export.exporters.gguf import require_runtime

        require_runtime()
        import xllamacpp

        self.description = f"llama.cpp of xllamacpp {xllamacpp.__version__}"
        self._dense = folder / f"{DENSE}.gguf"
        context += draft_tokens
        self._alone = _serve(_parameters(self._dense, threads=threads, context=context))
        both = _parameters(self._dense, threads=threads, context=context)
        both.speculative.types = [xllamacpp.common_speculative_type.COMMON_SPECULATIVE_TYPE_DRAFT_SIMPLE]
        draft = both.speculative.draft
        draft.mparams.path = str(folder / f"{PRUNED}.gguf")
        draft.n_max, draft.cpuparams.n_threads, draft.cpuparams_batch.n_threads = draft_tokens, threads, threads
        self._both = _serve(both)

    def generate_alone(self, prompt: Sequence[int], new_tokens: int) -> Generated:
        """See `OpenPair`."""
        return _generate(self._alone, prompt, new_tokens)

    def generate_drafted(self, prompt: Sequence[int], new_tokens: int) -> Generated:
        """See `OpenPair`."""
        return _generate(self._both, prompt, new_tokens)

    def gap(self, text: Sequence[int], chosen: int, other: int) -> float:
        """See `OpenPair`."""
        from amp_export.exporters.gguf import run

        return logit_gap(run(self._dense), text, chosen, other)


def _parameters(model: Path, *, threads: int, context: int) -> Any:
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(model)
    parameters.n_ctx, parameters.n_parallel = context, 1
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = threads
    # any free port of this machine
    parameters.port, parameters.verbosity = 0, 0
    return parameters


def _serve(parameters: Any) -> Any:
    import xllamacpp

    try:
        return xllamacpp.Server(parameters)
    except Exception as error:  # its errors have no class
        raise ModelError(
            f"llama.cpp cannot open {parameters.model.path} or its draft: {error}\nLeave the measurement out with "
            "--no-measure."
        ) from error


def _generate(server: Any, prompt: Sequence[int], new_tokens: int) -> Generated:
    # `POST /completion`, tools/server/README.md of llama.cpp
    asked = {
        "prompt": list(prompt),
        "n_predict": new_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "cache_prompt": False,
        "return_tokens": True,
    }
    request = urllib.request.Request(  # noqa: S310
        f"{server.listening_address}/completion", json.dumps(asked).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=_TIMEOUT) as response:  # noqa: S310
        answer = parse_json(response.read().decode(), source="llama.cpp's server", error=ModelError)
    times = answer["timings"]
    accepted = times.get("draft_n_accepted", 0)
    return Generated(
        tokens=answer["tokens"],
        seconds=times["predicted_ms"] / 1000,
        drafted=times.get("draft_n", 0),
        accepted=accepted,
        rounds=len(answer["tokens"]) - accepted,
    )
