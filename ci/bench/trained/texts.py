"""What trained models are calibrated and measured on, if that is not the text shipped with amp-export."""

from __future__ import annotations

import enum
import io
import itertools
import random
import shutil
import subprocess
import wave
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from amp_export.inputs.texts import shipped_texts

SEED = 0
SEQUENCES, REACTIONS, CLIPS = 300, 300, 48

HELD_OUT = 5
"""Every fifth clip is held out, as amp-export holds out every fifth row of a text."""

CLIP_CHARACTERS = 200
"""About 15 seconds of speech; Whisper hears 30."""

TAILS = (
    *("CC", "CCC", "CC(C)", "CCCC", "C1CCCC1", "C1CCOCC1", "CC(C)C", "COC", "c1ccccc1", "Cc1ccccc1", "COc1ccccc1"),
    *("Clc1ccccc1", "Fc1ccccc1", "FC(F)(F)c1ccccc1", "N#Cc1ccccc1", "c1ccncc1", "Cc1ccncc1", "c1cccnc1", "c1ccsc1"),
)
"""Groups in SMILES whose last atom has the bond."""

HEADS = (
    *("CC", "CCC", "CC(C)C", "C1CCCCC1", "C1CCOCC1", "CCOC", "Cc1ccccc1", "CCc1ccccc1", "c1ccccc1", "c1ccc(C)cc1"),
    *("c1ccc(OC)cc1", "c1ccc(F)cc1", "c1cccc(Cl)c1", "c1ccc(C#N)cc1", "c1ccncc1", "c1cccc(C(F)(F)F)c1", "c1ccc(Br)cc1"),
)
"""Groups whose first atom has the bond."""

SPECIES = ("HUMAN", "MOUSE", "CAMEL", "RABBIT", "RAT", "RHESUS")
RESIDUES = frozenset("ACDEFGHIKLMNPQRSTVWY")
LONGEST_SEQUENCE = 140
"""IgLM was trained on variable domains, which have 110 to 130 residues."""

COUPLINGS: tuple[Callable[[str, str], str], ...] = (
    lambda a, b: f"{a}C(=O)O.N{b}.CCN(C(C)C)C(C)C.CN(C)C=O>>{a}C(=O)N{b}",
    lambda a, b: f"{a}C(=O)Cl.N{b}.CCN(CC)CC.ClCCl>>{a}C(=O)N{b}",
    lambda a, b: f"{a}C(=O)O.O{b}.O=S(=O)(O)O>>{a}C(=O)O{b}",
    lambda a, b: f"{a}S(=O)(=O)Cl.N{b}.c1ccncc1>>{a}S(=O)(=O)N{b}",
    lambda a, b: f"{a}C=O.N{b}.[Na+].[BH3-]C#N.CO>>{a}CN{b}",
    lambda a, b: f"{a}CBr.O{b}.O=C([O-])[O-].[K+].[K+].CC(C)=O>>{a}CO{b}",
)
"""Reactions as textbooks have them: amides, esters, sulfonamides, amines and ethers of two groups."""


class Text(enum.StrEnum):
    """Kinds of text, by what the page says of them."""

    SHIPPED = "the shipped text"
    ANTIBODIES = f"{SEQUENCES} antibodies drawn from IgLM"
    REACTIONS = f"{REACTIONS} textbook reactions in SMILES"
    SPEECH = f"{CLIPS} sentences read by espeak-ng"


def write_reactions(file: Path) -> None:
    """Write reactions that are drawn from all couplings of all groups, one a line."""
    every = [couple(a, b) for couple, a, b in itertools.product(COUPLINGS, TAILS, HEADS)]
    drawn = random.Random(SEED).sample(every, REACTIONS)  # noqa: S311
    file.write_text("\n".join(drawn) + "\n", encoding="utf-8")


def write_antibodies(checkpoint: Path, tagged: Path, plain: Path) -> None:
    """Write sequences that IgLM draws, one a line.

    Args:
        checkpoint: Its checkpoint.
        tagged: File to write, in which each begins with the tokens of its chain and species.
        plain: The same without these tokens, which AntiBERTy does not have.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = AutoModelForCausalLM.from_pretrained(checkpoint).eval()
    starts = [f"[{chain}][{species}]" for species in SPECIES for chain in ("HEAVY", "LIGHT")]
    # every fifth line is held out: each kind is both calibrated and measured on, as 5 does not divide their number
    starts *= SEQUENCES // len(starts)
    ids_bs = tokenizer(starts, return_tensors="pt").input_ids
    forbidden = [number for token, number in tokenizer.get_vocab().items() if token not in RESIDUES | {"[SEP]"}]
    torch.manual_seed(SEED)
    drawn_bs = model.generate(
        ids_bs,
        attention_mask=torch.ones_like(ids_bs),
        do_sample=True,
        max_new_tokens=LONGEST_SEQUENCE,
        suppress_tokens=forbidden,
        eos_token_id=tokenizer.sep_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    texts = ("".join(tokenizer.convert_ids_to_tokens(drawn_s)) for drawn_s in drawn_bs[:, ids_bs.shape[1] :].tolist())
    sequences = [text.split("[SEP]")[0] for text in texts]
    plain.write_text("\n".join(sequences) + "\n", encoding="utf-8")
    lines = (f"{start}{sequence}[SEP]" for start, sequence in zip(starts, sequences, strict=True))
    tagged.write_text("\n".join(lines) + "\n", encoding="utf-8")


def sentences() -> tuple[str, ...]:
    """Return shipped texts that are read aloud: the beginnings of those without markup, up to the end of a word."""
    plain = (text for text in shipped_texts() if text.isascii() and not set("{}<>|*_=\\#`") & set(text))
    return tuple(text[:CLIP_CHARACTERS].rsplit(" ", 1)[0].replace("\n", " ") for text in itertools.islice(plain, CLIPS))


def is_held_out(clip: int) -> bool:
    """Return whether a clip is measured on, and not calibrated on."""
    return clip % HELD_OUT == HELD_OUT - 1


def read_aloud(texts: Sequence[str]) -> Iterator[np.ndarray[Any, Any]]:
    """Yield speech, 16,000 samples a second in float32.

    Raises:
        SystemExit: espeak-ng is not installed.
    """
    from scipy.signal import resample_poly

    if (program := shutil.which("espeak-ng")) is None:
        raise SystemExit("espeak-ng reads the sentences for Whisper. Install it, as in: apt-get install espeak-ng")
    for text in texts:
        spoken = subprocess.run([program, "--stdout", text], check=True, capture_output=True).stdout
        with wave.open(io.BytesIO(spoken)) as sound:
            rate = sound.getframerate()
            # the length that the header states is unknown when it is written to a pipe
            samples = np.frombuffer(spoken[44:], np.int16).astype(np.float32) / 32768
        yield resample_poly(samples, 16000, rate).astype(np.float32)


def hear(checkpoint: Path, texts: Sequence[str]) -> np.ndarray[Any, Any]:
    """Return what Whisper reads of texts that are read aloud: spectrograms, [samples, bands, frames]."""
    from transformers.models.whisper import WhisperFeatureExtractor

    extractor = WhisperFeatureExtractor.from_pretrained(checkpoint)
    sounds = list(read_aloud(texts))
    found: np.ndarray[Any, Any] = extractor(sounds, sampling_rate=16000, return_tensors="np").input_features
    return found
