"""Check that the inputs and outputs of a model's graphs fit together, before any of them runs."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from amp_export.architectures._grid_encoders import GRIDS
from amp_export.errors import ModelError
from amp_export.exporters.models.caches import WRITE_INDICES, is_past, is_present, past_of, present_of
from amp_export.options import Logits

if TYPE_CHECKING:
    from amp_export.exporters.models.session import Port, Session

LOGITS = "logits"
LOGITS_TO_KEEP = "num_logits_to_keep"
"""The number of last tokens whose logits are computed, named as in transformers.js; 0 is for all."""

FEATURES, EMBEDDINGS, TYPES = "image_features", "inputs_embeds", "token_type_ids"
"""What the vision encoder and the token embedding of a vision-language model write, and its decoder reads; types are 1
for tokens that stand for images and 0 for others, as in `Gemma3ForConditionalGeneration`."""

PIXELS = "pixel_values"
"""The images that a vision encoder reads."""

GRID_INPUTS = (GRIDS, "grid_thw")
"""Names of a vision encoder's input for the grids of images: see `GridEncoder.grid_input`."""

TOKENS = frozenset({"input_ids", "attention_mask", "position_ids", WRITE_INDICES})
EMBEDDED = frozenset({EMBEDDINGS, TYPES, "attention_mask", "position_ids"})
"""Inputs of the decoder of a vision-language model."""

SEEN = frozenset({PIXELS, "pixel_attention_mask", *GRID_INPUTS})
"""Inputs of a vision encoder."""

WRITTEN = frozenset({"input_ids", "encoder_attention_mask", "encoder_hidden_states"})
"""Inputs of the graphs of an encoder-decoder's decoder."""


def kept_logits(outputs: Mapping[str, Port]) -> Logits:
    """Return the tokens whose logits a decoder computes: those of the last one if that axis has a fixed length of 1."""
    axes = outputs[LOGITS].axes if LOGITS in outputs else ()
    return Logits.LAST if len(axes) == 3 and axes[1] == 1 else Logits.ALL


def check_decoder(session: Session, folder: Path) -> None:
    """Check the graph of a decoder.

    Raises:
        ModelError: It has an input that nothing gives, returns no logits, or does not return the KV cache it takes.
    """
    _check_written(session, TOKENS, folder)
    _check_cache(_past(session), _returned(session), folder)


def check_encoder_decoder(sessions: Sequence[Session], folder: Path) -> None:
    """Check the three graphs of an encoder-decoder.

    Raises:
        ModelError: One has an input that nothing gives, lacks its first output, or the KV cache is not complete.
    """
    encoder, first, later = sessions
    if "last_hidden_state" not in encoder.outputs:
        raise ModelError(_refusal(folder, f"the encoder returns no last_hidden_state, but {_list(encoder.outputs)}"))
    for session in (first, later):
        _check_written(session, WRITTEN, folder)
    if early := _list(_past(first)):
        raise ModelError(_refusal(folder, f"the first graph takes {early}, which nothing returned before"))
    taken = _past(later)
    _check_cache(taken, _returned(first), folder)
    # the cross-attention's keys and values do not change after the first call
    written = {name for name in taken if ".encoder." not in name}
    _check_cache(written, _returned(later) - (taken - written), folder)


def check_vision_language(sessions: Sequence[Session], folder: Path) -> None:
    """Check the three graphs of a vision-language model.

    Raises:
        ModelError: One has an input that nothing gives, lacks its output, or the KV cache is not complete.
    """
    vision, embedding, decoder = sessions
    tokens = frozenset({"input_ids"})
    for session, main, known, output in (
        (vision, PIXELS, SEEN, FEATURES),
        (embedding, "input_ids", tokens, EMBEDDINGS),
    ):
        if main not in session.inputs:
            raise ModelError(_refusal(folder, f"it takes no {main}, but {_list(session.inputs)}"))
        if output not in session.outputs:
            raise ModelError(_refusal(folder, f"no {output} is returned, but {_list(session.outputs)}"))
        if unknown := [name for name in session.inputs if name not in known]:
            raise ModelError(_refusal(folder, f"it takes {_list(unknown)}, which nothing gives"))
    _check_written(decoder, EMBEDDED, folder, main=EMBEDDINGS)
    _check_cache(_past(decoder), _returned(decoder), folder)


def _check_written(session: Session, known: Collection[str], folder: Path, *, main: str = "input_ids") -> None:
    if next(iter(session.outputs), None) != LOGITS:
        raise ModelError(_refusal(folder, f"its first output is not {LOGITS}: it returns {_list(session.outputs)}"))
    if main not in session.inputs:
        raise ModelError(_refusal(folder, f"it takes no {main}, but {_list(session.inputs)}"))
    if unknown := [name for name in session.inputs if name not in known and not is_past(name)]:
        raise ModelError(_refusal(folder, f"it takes {_list(unknown)}, which nothing gives"))


def _check_cache(taken: Collection[str], returned: Collection[str], folder: Path) -> None:
    """Check that the cache that a call takes is what the call before returned."""
    if wrong := sorted(set(taken) ^ set(returned)):
        past, present = wrong[0], present_of(wrong[0])
        problem = f"{past} is taken, but {present} is not returned"
        if past in returned:
            problem = f"{present} is returned, but {past} is not taken"
        raise ModelError(_refusal(folder, problem))


def _past(session: Session) -> set[str]:
    return {name for name in session.inputs if is_past(name)}


def _returned(session: Session) -> set[str]:
    return {past_of(name) for name in session.outputs if is_present(name)}


def _refusal(folder: Path, problem: str) -> str:
    return f"The graph in {folder} cannot run: {problem}.\nExport it again."


def _list(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))
