"""report.xml and report.md."""

from __future__ import annotations

import math
from dataclasses import replace
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from amp_export.parity.results import Greedy
from amp_export.pruning.quality import Quality
from amp_export.reporting.evaluations import compared_rows
from amp_export.reporting.findings import findings, headline
from amp_export.reporting.junit import to_junit
from amp_export.reporting.markdown import to_markdown
from amp_export.reporting.metrics import measure
from amp_export.reporting.report import Report
from tests.support.sample_reports import bare_report, case, encoder_report, evaluation, full_report, parity

SCHEMA = {
    "testsuites": ({"name", "time", "tests", "failures", "errors"}, {"testsuite"}),
    "testsuite": ({"name", "tests", "failures", "errors", "skipped"}, {"properties", "testcase"}),
    "properties": (set(), {"property"}),
    "property": ({"name", "value"}, set()),
    "testcase": ({"name", "classname", "time"}, {"failure", "skipped", "system-out"}),
    "failure": ({"type", "message"}, set()),
    "skipped": ({"type", "message"}, set()),
    "system-out": (set(), set()),
}
"""Attributes and children that `junit-10.xsd` of Jenkins' xUnit plugin (commit 031e285) allows, as far as used here."""


def read(report: Report) -> ElementTree.Element:
    """The tests of a report, held against the schema."""
    root = ElementTree.fromstring(to_junit(report).encode())
    for element in root.iter():
        attributes, children = SCHEMA[element.tag]
        assert set(element.attrib) <= attributes
        assert {child.tag for child in element} <= children
    (suite,) = root
    cases = suite.findall("testcase")
    assert int(suite.get("tests", "")) == len(cases)
    assert int(suite.get("failures", "")) == len(suite.findall("testcase/failure"))
    assert int(suite.get("skipped", "")) == len(suite.findall("testcase/skipped"))
    return suite


def test_every_case_of_every_output_is_a_test() -> None:
    suite = read(full_report())
    assert [(each.get("classname"), each.get("name")) for each in suite.findall("testcase")] == [
        ("amp_export.parity", "prefill of 17 tokens: logits"),
        (
            "amp_export.parity",
            "left-padded batch of 5, 11 and 17 tokens, and then 4 decode steps that follow each other: logits",
        ),
        ("amp_export.parity", "hidden: pooler_output"),
        ("amp_export.parity", "no number: logits"),
        ("amp_export.parity", "64 tokens generated greedily"),
        ("amp_export.parity.dense", "17 tokens: logits on orin.local"),
        ("amp_export.parity.pruned", "17 tokens: logits on orin.local"),
        ("amp_export.thresholds", "max_kl"),
        ("amp_export.thresholds", "max_size"),
        ("amp_export.baseline", "size"),
        ("amp_export.reload", "the pruned checkpoint reloads bit for bit"),
    ]
    failures = [failure.get("message") for failure in suite.iter("failure")]
    assert failures[0] == (
        "largest error 0.0036, tolerance 0.0004; mean error 0.00027, tolerance 4e-05; "
        "top-1 agreement 100.0% of 17 positions"
    )
    assert failures[1] is not None
    assert failures[1].startswith("largest error nan")
    assert failures[2] is not None
    assert failures[2].endswith("not a near tie: FAILS.")
    assert failures[3:] == ["max_size: FAILS, 600 MB is above 500 MB by 100 MB (20.0%)."]


def test_what_has_no_limit_is_a_property() -> None:
    properties = {each.get("name"): each.get("value") for each in read(full_report()).iter("property")}
    assert properties["version.torch"] == "2.13.0"
    assert properties["perplexity.pruned"] == "34.2"
    assert (properties["quality.kl"], properties["quality.top1_agreement"]) == ("0.412", "0.75")
    assert properties["benchmark.onnxruntime.dense.bytes_on_disk"] == "500000000"
    assert float(properties["benchmark.onnxruntime.decode.pruned.median_seconds"] or "") == pytest.approx(
        0.02 / 1.15, rel=0.1
    )
    assert "devices.orin.local.decode.speedup" in properties
    assert properties["evaluation.pruned.accuracy.piqa.dense"] == "0.75"
    assert properties["evaluation.pruned.accuracy.piqa.pruned"] == "0.675"
    assert properties["evaluation.pruned.average_accuracy.change"] == "none"
    assert properties["evaluation.pruned.perplexity.ratio"] == "1.511"
    assert properties["evaluation.onnx.average_accuracy.change"] == "lower"
    assert (
        properties["evaluation.pruned.word_perplexity.wikitext.dense"]
        == f"{math.exp(2 * (60 + 66 + 68) / (14 + 15 + 16)):.6g}"
    )
    assert properties["evaluation.pruned.word_perplexity.wikitext.change"] == "higher"
    assert properties["evaluation.pruned.word_perplexity.wikitext.ratio"] == f"{math.exp(2 * 26 / 45):.4g}"


def test_parity_that_nobody_checked_is_skipped_and_no_success() -> None:
    (test,) = read(bare_report()).findall("testcase")
    skipped = test.find("skipped")
    assert skipped is not None
    assert skipped.get("message") == "Parity is not checked; amp-export validate OUT checks it"


@given(st.text())
def test_any_name_makes_xml_that_parses(name: str) -> None:
    suite = read(Report(name, parity=parity(case(name))))
    assert len(suite.findall("testcase")) == 1


def test_a_number_that_breaks_its_limit_is_in_the_headline() -> None:
    report = replace(full_report(), devices=None, parity=parity(case("1 token")))
    assert report.holds
    assert not report.checks_hold
    beginning = (
        "Parity: holds in 1 of 1 cases; Thresholds: FAILS in 1 of 2 numbers; Baseline: holds in 1 of 1 numbers; "
    )
    assert headline(report).startswith(beginning)
    lines = to_markdown(report).splitlines()
    assert lines[2].startswith(f"**{beginning}")
    assert "- **max_size: FAILS, 600 MB is above 500 MB by 100 MB (20.0%).**" in lines
    assert "| max_size | thresholds | 600 MB is above 500 MB by 100 MB (20.0%) | **no** |" in lines
    assert "| max_kl | thresholds | 3e-09 is at most 0.0001 | yes |" in lines


def test_quality_is_told_apart_from_parity() -> None:
    text = to_markdown(full_report())
    assert "| KL from dense, nats |  | 0.412 |  |" in text
    assert "| Top-1 agreement |  | 75.0% |  |" in text
    (finding,) = [each for each in findings(full_report()) if each.subject == "Perplexity"]
    assert "For 75.0% of the tokens both models have the same top-1 token" in finding.sentence


def test_a_report_of_perplexities_alone_says_no_more() -> None:
    earlier = Quality(22.8, 34.2, "2 prompts")
    report = replace(encoder_report(), quality=earlier)
    assert "| Held-out perplexity | 22.80 | 34.20 | x 1.50 |" in to_markdown(report)
    assert "KL from dense" not in to_markdown(report)
    assert {each.get("name") for each in read(report).iter("property")}.isdisjoint(["quality.kl"])
    assert measure(report, None).keys().isdisjoint(["quality_kl", "quality_top1_agreement"])
    (finding,) = [each for each in findings(report) if each.subject == "Perplexity"]
    assert finding.sentence == "It rose from 22.80 (dense) to 34.20 (pruned); lower is better. Measured on 2 prompts."


def test_an_evaluation_has_a_row_for_each_measure() -> None:
    text = to_markdown(full_report())
    assert "| piqa, acc_norm, 40 questions | 75.0 ± 6.9% | 67.5 ± 7.5% | none [-17.8, +3.5] |" in text
    assert "| Average of the tasks | 61.5 ± 6.2% | 57.8 ± 6.3% | none [-13.0, +5.8] |" in text
    assert "| Perplexity, 3 windows of 32 | 21.74 ± 0.40 | 32.85 ± 0.40 | 1.511 times [1.261, 1.810] |" in text
    assert "| Distinct bigrams | 90.0 ± 0.0% | 90.0 ± 0.0% | none [+0.0, +0.0] |" in text
    assert "Repeated 4-grams" not in text, "the texts are too short"
    assert "| Evaluation of onnx |" in text
    assert "| piqa, acc_norm, 40 questions | 75.0 ± 6.9% | 25.0 ± 6.9% | -50.0 [-64.8, -30.4] |" in text
    assert (
        "- The evaluation of pruned is on piqa.jsonl, winogrande.jsonl, wikitext; only the first 40 of each file"
        in text
    )
    assert "Accuracy: no difference; " in headline(full_report())
    assert "Accuracy of onnx" not in headline(full_report())
    only_export = replace(full_report(), evaluations={"onnx": evaluation("onnx", lost=20)})
    assert "Accuracy of onnx: -25.0 points; " in headline(only_export)


def test_an_evaluation_without_its_dense_model_says_so() -> None:
    whole = evaluation()
    alone = replace(whole, against=None, differences=None, model=replace(whole.model, average=None, tasks={}))
    _, text = findings(Report("m", evaluations={"pruned": alone}))
    assert (text.subject, text.result) == ("Perplexity on the evaluated text", "32.85")
    assert text.sentence.endswith("It was not compared with the dense model's.")
    assert whole.model.perplexity is not None
    huge = replace(alone, model=replace(alone.model, perplexity=replace(whole.model.perplexity, perplexity=2.57e7)))
    assert "Perplexity on the evaluated text: 2.57e+07." in headline(Report("m", evaluations={"pruned": huge}))
    (task, *_) = whole.model.tasks
    one = replace(alone, model=replace(whole.model, average=None, tasks={task: whole.model.tasks[task]}))
    report = Report("m", evaluations={"pruned": one})
    (accuracy,) = [each for each in findings(report) if each.subject == "Accuracy"]
    assert accuracy.sentence == "piqa: 67.5% (pruned). The dense model was not measured beside it."
    assert "| piqa, acc_norm, 40 questions |  | 67.5 ± 7.5% |  |" in to_markdown(report)


def test_a_pull_request_reads_the_verdict_first() -> None:
    lines = to_markdown(full_report()).splitlines()
    assert lines[0] == "# amp-export: org/a-model"
    assert lines[2].startswith("**Parity: FAILS in 2 of 4 cases; ")
    assert "| hidden, pooler_output | 17 | 0.0036 | 0.00027 | 0.0001 | 1e-05 | 100.0% | **no** |" in lines
    folded = lines.index("<details><summary>Parity, case by case</summary>")
    assert "</details>" in lines[folded:]
    assert "details" not in to_markdown(bare_report())


def test_names_do_not_break_the_markdown() -> None:
    report = replace(encoder_report(), model="a|b <i>\nc", parity=parity(case("a|b")))
    lines = to_markdown(report).splitlines()
    assert lines[0] == "# amp-export: a\\|b &lt;i> c"
    (row,) = [line for line in lines if line.startswith("| a")]
    assert row.replace("\\|", "").count("|") == 9


def test_parity_that_fails_in_what_is_written_alone_says_so() -> None:
    checked = parity(case("1 token"))
    greedy = Greedy(steps=64, common=11, near_tie=False, holds=False)
    report = Report("m", parity=structs.replace(checked, greedy=greedy, holds=False))
    assert headline(report) == "Parity: FAILS in greedy decoding."


def test_an_error_that_is_no_number_is_the_worst() -> None:
    (finding,) = findings(Report("m", parity=parity(case("a", share=float("nan")), case("b", share=9.0))))
    assert "largest error nan" in finding.sentence


def test_a_gain_that_cannot_be_claimed_is_none_in_the_headline() -> None:
    assert "Forward, one sample: too noisy to conclude" in headline(encoder_report())
    assert headline(bare_report()) == "Parity: not checked."


def test_a_row_says_how_many_examples_a_task_has_and_what_there_is_no_number_for() -> None:
    found = evaluation()
    tasks = {**found.model.tasks, "piqa": replace(found.model.tasks["piqa"], few_shot=5, floor=None)}
    rows = {row.label: row for row in compared_rows(replace(found.model, tasks=tasks), None, None)}
    assert rows["piqa, acc_norm, 40 questions, 5-shot"].floor == ""
    assert rows["winogrande, acc, 25 questions"].floor == "55.0%"
    assert rows["wikitext, perplexity per word, 3 documents"].model.startswith("1.76e+04 ±")
    pages = {row.label: row for row in compared_rows(found.model, found.against, found.differences)}
    assert pages["wikitext, perplexity per word, 3 documents"].change == "higher"
