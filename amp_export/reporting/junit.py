"""report.xml: results as JUnit tests, which CI systems show next to the tests of the code.

Elements and attributes are those of `junit-10.xsd` of Jenkins' xUnit plugin, commit 031e285. The durations of cases are
not known, so tests have no times; measurements are properties.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from xml.etree import ElementTree

from amp_export.parity.results import ParityReport
from amp_export.pruning.quality import Quality
from amp_export.reporting.evaluations import evaluation_properties
from amp_export.reporting.report import Report
from amp_export.reporting.summary import greedy_line, reload_line, rounded_line
from amp_export.reporting.wording import PARITY_NOT_CHECKED, AnyBenchmark

NOT_IN_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML does not allow. Source: production 2, Char, of XML 1.0, fifth edition."""


@dataclass(frozen=True)
class Test:
    """One test.

    Attributes:
        kind: Kind of test, in the place of a test class.
        name: Its name.
        problem: Reason why it failed, or None.
        skipped: Reason why it was not measured, or None.
        output: Numbers of a test that passed.
    """

    kind: str
    name: str
    problem: str | None = None
    skipped: str | None = None
    output: str | None = None


def to_junit(report: Report) -> str:
    """Return the text of report.xml."""
    tests = list(_tests(report))
    counts = {
        "tests": str(len(tests)),
        "failures": str(sum(test.problem is not None for test in tests)),
        "errors": "0",
    }
    skipped = str(sum(test.skipped is not None for test in tests))
    name = _legal(f"amp-export: {report.model}")
    root = ElementTree.Element("testsuites", {"name": name, **counts})
    suite = ElementTree.SubElement(root, "testsuite", {"name": name, **counts, "skipped": skipped})
    properties = ElementTree.SubElement(suite, "properties")
    for key, value in _properties(report):
        ElementTree.SubElement(properties, "property", {"name": _legal(key), "value": _legal(value)})
    for test in tests:
        _add(suite, test)
    ElementTree.indent(root)
    content: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return content.decode() + "\n"


def _add(suite: ElementTree.Element, test: Test) -> None:
    case = ElementTree.SubElement(
        suite, "testcase", {"classname": f"amp_export.{test.kind}", "name": _legal(test.name)}
    )
    if test.problem is not None:
        failure = ElementTree.SubElement(case, "failure", {"type": test.kind, "message": _legal(test.problem)})
        failure.text = _legal(test.problem)
    if test.skipped is not None:
        ElementTree.SubElement(case, "skipped", {"message": _legal(test.skipped)})
    if test.output is not None:
        ElementTree.SubElement(case, "system-out").text = _legal(test.output)


def _tests(report: Report) -> Iterator[Test]:
    """Yield all results that can fail."""
    yield from _parity_tests("parity", report.parity)
    for name, device in (report.devices or {}).items():
        for subject, parity in device.parity.items():
            yield from _parity_tests(f"parity.{subject}", parity, where=f" on {name}")
    for check in report.checks or ():
        yield _judged(check.against, check.name, check.text, holds=check.holds)
    if report.pruning is not None and report.pruning.reload is not None:
        # a checkpoint that does not reload is never written
        yield Test("reload", "the pruned checkpoint reloads bit for bit", output=reload_line(report.pruning.reload))


def _parity_tests(kind: str, parity: ParityReport | None, *, where: str = "") -> Iterator[Test]:
    if parity is None:
        yield Test(kind, "parity", skipped=PARITY_NOT_CHECKED)
        return
    for case in parity.cases:
        limit = parity.tolerances(case)
        numbers = (
            f"largest error {case.max_error:.3g}, tolerance {limit[0]:.3g}; "
            f"mean error {case.mean_error:.3g}, tolerance {limit[1]:.3g}; "
            f"top-1 agreement {case.top1_agreement:.1%} of {case.positions} positions"
        )
        yield _judged(kind, f"{case.name}: {case.output}{where}", numbers, holds=case.holds)
    if (greedy := parity.greedy) is not None:
        yield _judged(kind, f"{greedy.steps} tokens generated greedily", greedy_line(greedy), holds=greedy.holds)
    if (rounded := parity.rounded) is not None:
        yield _judged(kind, "activations rounded to int8", rounded_line(rounded), holds=rounded.holds)


def _judged(kind: str, name: str, numbers: str, *, holds: bool) -> Test:
    return Test(kind, name, output=numbers) if holds else Test(kind, name, problem=numbers)


def _properties(report: Report) -> Iterator[tuple[str, str]]:
    """Yield the measurements that have no limit."""
    yield from ((f"version.{name}", found) for name, found in (report.packages or {}).items())
    if report.parity is not None:
        yield "parity.precision", report.parity.dtype
        if report.parity.runtime is not None:
            yield "parity.runtime", report.parity.runtime
    if report.quality is not None:
        yield from _quality_properties(report.quality)
    for part, evaluation in (report.evaluations or {}).items():
        yield from evaluation_properties(f"evaluation.{part}", evaluation)
    for name, benchmark in (report.benchmarks or {}).items():
        yield from _benchmark_properties(f"benchmark.{name}", benchmark)
    for name, device in (report.devices or {}).items():
        if device.benchmark is not None:
            yield from _benchmark_properties(f"devices.{name}", device.benchmark)


def _quality_properties(quality: Quality) -> Iterator[tuple[str, str]]:
    yield "perplexity.dense", f"{quality.dense:.6g}"
    yield "perplexity.pruned", f"{quality.pruned:.6g}"
    for name in ("kl", "top1_agreement"):
        if (value := getattr(quality, name)) is not None:
            yield f"quality.{name}", f"{value:.6g}"
    if (other := quality.other) is not None:
        yield "perplexity.other_kinds.dense", f"{other.dense:.6g}"
        yield "perplexity.other_kinds.pruned", f"{other.pruned:.6g}"


def _benchmark_properties(prefix: str, benchmark: AnyBenchmark) -> Iterator[tuple[str, str]]:
    for phase, result in benchmark.phases.items():
        for subject, times in (("dense", result.dense), ("pruned", result.pruned)):
            yield f"{prefix}.{phase}.{subject}.median_seconds", f"{times.median:.6g}"
        low, high = result.interval
        yield f"{prefix}.{phase}.speedup", f"{result.speedup:.4g}"
        yield f"{prefix}.{phase}.interval", f"{low:.4g} to {high:.4g}"
        yield f"{prefix}.{phase}.conclusion", result.conclusion
    for subject, model in (("dense", benchmark.dense), ("pruned", benchmark.pruned)):
        yield f"{prefix}.{subject}.bytes_on_disk", f"{model.bytes_on_disk:.0f}"
        yield f"{prefix}.{subject}.peak_memory_bytes", f"{model.peak_memory_bytes:.0f}"


def _legal(text: str) -> str:
    return NOT_IN_XML.sub("\N{REPLACEMENT CHARACTER}", text)
