"""The page, by its text; how it looks is tried in a browser by `test_report_browser`."""

from __future__ import annotations

import hashlib
import itertools
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from amp_export.architectures import LayerWidths
from amp_export.errors import MissingExtraError, OutputError
from amp_export.options import ReportFormat
from amp_export.outputs.manifest import FileRecord, Manifest
from amp_export.progress import Advance
from amp_export.reporting import reproduce as report_commands
from amp_export.reporting.files import save_report, update_report, write_forms
from amp_export.reporting.html import svg as palette
from amp_export.reporting.html.page import to_html
from amp_export.reporting.layers import layer_counts, read_importance
from amp_export.reporting.report import Report
from amp_export.reporting.reproduce import commands
from tests.support import PROJECT, sample_reports
from tests.support.contrast import TEXT_CONTRAST, contrast
from tests.support.sample_reports import FILES, bare_report, encoder_report, full_report, manifest, save_layers

pytest.importorskip("matplotlib", reason="matplotlib is not installed")

VOID = {"meta", "link", "img", "br", "hr", "input"}


class Page(HTMLParser):
    """What a page is made of, and whether its elements are closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.headings: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] == "h2":
            self.headings.append(data)
        if self._open and self._open[-1] not in ("style", "title", "desc", "text"):
            self.words.append(data.strip())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


KINDS = {"full": full_report, "encoder": encoder_report, "bare": bare_report}


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scored")
    save_layers(folder)
    return folder


@pytest.fixture(scope="module")
def pages(scored: Path) -> dict[str, Page]:
    reports = {kind: make() for kind, make in KINDS.items()}
    return {kind: Page(to_html(report, manifest(report), scored)) for kind, report in reports.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_a_page_is_sound_and_refers_to_nothing_outside(kind: str, pages: dict[str, Page]) -> None:
    page = pages[kind]
    assert page.all("html") == [{"lang": "en"}]
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in page.all("meta")
    assert not page.all("script")
    names = Counter(attributes["id"] for _, attributes in page.elements if "id" in attributes)
    assert set(names.values()) == {1}
    for _, attributes in page.elements:
        for name in ("href", "src", "xlink:href"):
            target = attributes.get(name) or "#"
            assert target.startswith("data:image/png") or target == "#" or target[1:] in names, target
        for name in (attributes.get("aria-labelledby") or "").split():
            assert name in names
        assert "http" not in (attributes.get("style") or "")


@pytest.mark.parametrize("kind", KINDS)
def test_headings_tables_and_pictures_can_be_read_aloud(kind: str, pages: dict[str, Page]) -> None:
    page = pages[kind]
    levels = [int(tag[1]) for tag, _ in page.elements if tag in ("h1", "h2", "h3", "h4")]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert all(heading.get("scope") in ("col", "row") for heading in page.all("th"))
    assert len(page.all("table")) == len(page.all("caption"))
    pictures = page.all("svg")
    assert all(picture["role"] == "img" and picture["aria-labelledby"] for picture in pictures)
    assert len(pictures) == len(page.all("figure")) == len(page.all("desc"))
    # a title of the page, and one of each picture
    assert len(page.all("title")) == 1 + len(pictures)


def test_the_verdict_comes_first_and_says_its_numbers(pages: dict[str, Page]) -> None:
    page = pages["full"]
    assert page.headings == [
        "Verdict",
        "What was removed",
        "Parity: does the graph compute what PyTorch computes?",
        "Thresholds and baseline",
        "Evaluation: what the model can do",
        "Latency: dense against pruned",
        "Size and memory",
        "Roofline: what the memory allows",
        "On orin.local",
        "Provenance",
    ]
    assert "✗ FAILS in 1 of 2 numbers max_size: FAILS, 600 MB is above 500 MB by 100 MB (20.0%)." in page.text
    assert "✓ holds in 1 of 1 numbers No number is worse than the baseline" in page.text
    assert "Thresholds" not in pages["encoder"].text
    assert "Accuracy no difference Average of 2 tasks: 61.5% (dense), 57.8% (pruned). No difference within" in page.text
    assert "Accuracy of onnx -25.0 points Average of 2 tasks: 61.5% (dense), 36.5% (onnx). Lower: -25.0" in page.text
    assert "Evaluation" not in pages["encoder"].text
    assert "Intermediate values, case prefill of 17 tokens: 93 compared" in page.text
    assert "the first that differs is model.layers.7.input_layernorm (layer 7)" in page.text
    for said in ("✗ FAILS in 2 of 4 cases", "x 1.50", "It rose from 22.80 (dense) to 34.20 (pruned)", "On orin.local"):
        assert said in page.text
    assert "✓ holds in 2 of 2 cases" in pages["encoder"].text
    assert "too noisy to conclude" in pages["encoder"].text


def test_what_was_not_measured_says_so_and_how_to_measure_it(pages: dict[str, Page]) -> None:
    bare = pages["bare"].text
    assert "Nothing was pruned" in bare
    assert bare.count("Not measured. amp-export benchmark OUT measures it.") == 3
    assert "Parity is not checked; amp-export validate OUT checks it." in bare
    assert not pages["bare"].all("svg")
    assert "The roofline is computed for decoding" in pages["encoder"].text
    assert "Quality was not measured: perplexity needs" in pages["encoder"].text


def test_names_of_users_are_text_and_nothing_else() -> None:
    name = "<script>alert('$x^2$')</script> & |"
    report = Report(name, parity=sample_reports.parity(sample_reports.case(name)))
    page = Page(to_html(report, manifest(report), Path("/nowhere")))
    assert not page.all("script")
    assert name in page.text


def test_the_same_report_gives_the_same_bytes_in_another_process(scored: Path) -> None:
    report = encoder_report()
    code = (
        "import sys; from pathlib import Path;"
        "from tests.support.sample_reports import encoder_report as report, manifest;"
        "from amp_export.reporting.html.page import to_html;"
        "sys.stdout.buffer.write(to_html(report(), manifest(report()), Path(sys.argv[1])).encode())"
    )
    environment = {"PYTHONPATH": str(PROJECT), "PYTHONHASHSEED": "7", "PATH": "/nowhere"}
    command = [sys.executable, "-c", code, str(scored)]
    made = subprocess.run(command, env=environment, capture_output=True, check=True)
    assert made.stderr == b""
    assert made.stdout.decode() == to_html(report, manifest(report), scored)


def test_colours_can_be_told_from_the_paper() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    for colour in (palette.INK, palette.GREY, palette.PRUNED, palette.GOOD, palette.BAD):
        assert contrast(colour, palette.WHITE) >= TEXT_CONTRAST


def test_layers_that_are_alike_share_a_row() -> None:
    report = Report("m", pruning=replace(sample_reports.pruning(), widths=(LayerWidths(9, 3, 64),) * 30))
    page = Page(to_html(report, manifest(report), Path("/nowhere")))
    assert "0 to 29 9 of 9 3 of 3 64 of 96" in page.text
    assert "there is no scores.safetensors" in page.text


def test_a_long_table_of_layers_opens_on_demand(pages: dict[str, Page]) -> None:
    assert "Heads and neurons kept in each layer (25 rows)" in pages["full"].text, "5 of 15 pairs of layers are alike"


def test_importance_is_read_with_what_is_kept(scored: Path) -> None:
    report = full_report()
    assert report.pruning is not None
    layers = layer_counts(report.pruning, manifest(report))
    importance = read_importance(scored, layers)
    assert not isinstance(importance, str)
    assert importance.heads[0].kept.tolist() == [False, True, True] * 3
    assert importance.neurons[5].kept.tolist() == [False, False, *[True] * 94]
    assert sorted(importance.heads[3].importance)[4] == 1, "in medians of the layer"


def drop(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def edit_plan(folder: Path) -> None:
    content = json.loads((folder / "plan.json").read_text())
    content["layers"][4]["neurons"] = [0, 1]
    (folder / "plan.json").write_text(json.dumps(content))


CHANGES = {
    "no scores": (drop("scores.safetensors"), "there is no scores.safetensors"),
    "no plan": (drop("plan.json"), "there is no plan.json"),
    "an edited plan": (edit_plan, "layer 4 keeps 9 heads and 2 neurons in plan.json"),
    "damaged scores": (lambda folder: (folder / "scores.safetensors").write_bytes(b"x"), "do not fit the report"),
    "a plan that is none": (lambda folder: (folder / "plan.json").write_text("[]"), "do not fit the report"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_layers_that_do_not_fit_the_report_are_not_shown(change: str, tmp_path: Path) -> None:
    spoil, said = CHANGES[change]
    save_layers(tmp_path)
    spoil(tmp_path)
    report = full_report()
    assert report.pruning is not None
    found = read_importance(tmp_path, layer_counts(report.pruning, manifest(report)))
    assert isinstance(found, str)
    assert said in found


def test_layers_of_a_model_that_reads_and_writes_are_named_by_their_stack() -> None:
    config = {"model_type": "t5", "d_model": 32, "d_ff": 48, "num_layers": 2, "num_heads": 4, "d_kv": 8}
    widths = tuple(LayerWidths(4, 4, neurons) for neurons in (40, 40, 40, 40, 0, 0))
    pruning = replace(sample_reports.pruning(), widths=widths, widths_before=LayerWidths(4, 4, 48))
    layers = layer_counts(pruning, Manifest(SOURCE, config_before={**config, "vocab_size": 9}))
    assert [layer.label for layer in layers] == [
        "encoder 0",
        "encoder 1",
        "decoder 0",
        "decoder 1",
        "cross 0",
        "cross 1",
    ]
    assert [layer.dense.neurons for layer in layers] == [48] * 4 + [0] * 2


SOURCE = manifest(bare_report()).source


def test_commands_make_the_same_again() -> None:
    report = full_report()
    assert list(commands(report, manifest(report))) == [
        "amp-export prune --model org/a-model --ratio 0.2 --allocation balanced --snap 1 --output out",
        "amp-export export --model out/pruned --to onnx --dtype float32 --via direct --output out",
        "amp-export validate out",
        "amp-export benchmark out --rounds 20 --threads 2",
    ]
    bare = bare_report()
    assert [line.split()[:4] for line in commands(bare, manifest(bare))] == [
        ["amp-export", "export", "--model", "as-it-is"]
    ]


def test_every_form_is_written_and_vouched_for(tmp_path: Path) -> None:
    report = Report("m", parity=sample_reports.parity(sample_reports.case("1 token")))
    saved = save_report(tmp_path, report, manifest(report))
    assert Manifest.load(tmp_path) == saved
    assert saved.files.keys() == {*FILES, "report.json", "report.md", "report.xml", "report.html"}
    for form in ReportFormat:
        content = (tmp_path / f"report.{form}").read_bytes()
        assert saved.files[f"report.{form}"] == FileRecord(hashlib.sha256(content).hexdigest(), len(content))
    page = (tmp_path / "report.html").read_text()
    write_forms(tmp_path, report, saved, [ReportFormat.HTML])
    assert (tmp_path / "report.html").read_text() == page, "the hashes of reports are no part of them"


class Notes:
    def __init__(self) -> None:
        self.notes: list[str] = []

    def step(self, description: str) -> AbstractContextManager[Advance]:
        raise AssertionError(description)

    def note(self, message: str) -> None:
        self.notes.append(message)


def test_without_the_extra_all_but_the_page_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = bare_report()
    saved = save_report(tmp_path, report, manifest(report))
    assert "report.html" in saved.files
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    notes = Notes()
    update_report(tmp_path, parity=sample_reports.parity(sample_reports.case("1 image")), progress=notes)
    (note,) = notes.notes
    assert 'pip install "amp-export[report]"' in note
    assert {file.name for file in tmp_path.iterdir()} == {
        "amp_export.json",
        "report.json",
        "report.md",
        "report.xml",
    }, "a page of an earlier report does not stay"
    assert "report.html" not in Manifest.load(tmp_path).files
    with pytest.raises(MissingExtraError, match=r"amp-export\[report\]"):
        to_html(report, saved, tmp_path)


def test_a_report_is_the_same_after_a_file(tmp_path: Path) -> None:
    report = replace(encoder_report(), packages={"torch": "2"}, checks=full_report().checks)
    write_forms(tmp_path, report, manifest(report), [ReportFormat.JSON])
    assert json.loads(Report.load(tmp_path).to_json()) == json.loads(report.to_json())
    assert Report.load(tmp_path).checks == report.checks


def test_what_was_checked_says_nothing_of_numbers_measured_since(tmp_path: Path) -> None:
    report = replace(full_report(), devices=None)
    save_report(tmp_path, report, manifest(report))
    kept = update_report(tmp_path, devices={"orin.local": sample_reports.device()})
    assert kept.checks == report.checks, "no check is of a device"
    parity = sample_reports.parity(sample_reports.case("1 image"))
    assert update_report(tmp_path, parity=parity).checks is None
    assert "max_size" not in (tmp_path / "report.xml").read_text()


@pytest.mark.parametrize(
    ("check", "said"),
    [
        ({"name": "size"}, r"checks\[0\]\.holds is missing"),
        (
            {"name": "size", "holds": True, "found": "", "against": "hearsay"},
            r'checks\[0\]\.against: expected "thresholds" or "baseline", found "hearsay"',
        ),
        (3, r"checks\[0\]: expected object, found 3"),
    ],
)
def test_damaged_checks_are_named(tmp_path: Path, check: object, said: str) -> None:
    content = {**json.loads(bare_report().to_json()), "checks": [check]}
    (tmp_path / "report.json").write_text(json.dumps(content))
    with pytest.raises(OutputError, match=rf"report\.json: {said}"):
        Report.load(tmp_path)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("onnxruntime", []),
        ("onnxruntime-cuda", ["--provider", "cuda"]),
        ("onnxruntime-tensorrt-rtx", ["--provider", "tensorrt-rtx"]),
        ("onnxruntime-genai", ["--runtime", "onnxruntime-genai"]),
        ("pytorch-compiled", ["--runtime", "pytorch-compiled"]),
        ("pytorch-cuda", ["--runtime", "pytorch", "--device", "cuda"]),
    ],
)
def test_a_benchmark_s_command_names_its_runtime(name: str, words: list[str]) -> None:
    assert report_commands._runtime(name) == words
