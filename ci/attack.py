"""Attack the command line, and write docs/results/robustness.md: python ci/attack.py [SECTION ...] [--sample].

Sections: inputs (damaged files), crashes (SIGKILL, full disks, little memory, other writers), faults (numeric faults in
graphs) and files (hostile files). All of them in full take about an hour on two cores; `--sample` takes a small part of
each, writes nothing, and is what CI runs. The exit code is 1 if an attack succeeds: then it is shown, with what the
command printed. With --rows, results of single sections are kept there, and the page is written once all are present;
with --kinds, only these jobs of the sections are repeated, and replace their earlier results.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).parents[1]
sys.path.insert(0, str(PROJECT))

from attacks import interruptions, page, planted, untrusted  # noqa: E402
from attacks.inputs import TARGETS, attack_inputs  # noqa: E402
from attacks.sandbox import import_libraries  # noqa: E402
from attacks.template import make_template  # noqa: E402

SECTIONS = ("inputs", "crashes", "faults", "files")
PAGE = PROJECT / "docs/results/robustness.md"
EXAMPLES, SAMPLED_EXAMPLES = 25, 1
"""Attacks on each kind of file."""

SAMPLED_TARGETS = 5
"""A sample damages every fifth kind of file."""

SAMPLED_FAMILIES = ("gpt2",)
"""A family whose graph is built directly, which takes a second."""

SPAWN = multiprocessing.get_context("spawn")
"""Processes take nothing over from this one."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """Attacks that run one after another.

    Attributes:
        section: Their section.
        kind: What is attacked, or how.
        options: Arguments of the function that attacks.
    """

    section: str
    kind: str
    options: Mapping[str, Any] = field(default_factory=dict)


def list_jobs(sections: Sequence[str], *, sample: bool, random_seed: int) -> list[Job]:
    """Return the attacks to run, the longest first."""
    seeded = {"random_seed": random_seed}
    crashes = {
        "kill_runs": {"count": 50, **seeded},
        "kill_device_runs": {"count": 20, **seeded},
        "kill_bundles": {"count": 20, **seeded},
        "fill_disk": {"count": 1 if sample else 10, **seeded},
        "change_sources": {"count": 9, **seeded},
        "starve": {},
        "forbid_writing": {},
        "race": {},
        "jump_clock": {},
    }
    examples = {"examples": SAMPLED_EXAMPLES if sample else EXAMPLES, **seeded}
    jobs = [Job("crashes", kind, options) for kind, options in crashes.items() if not sample or kind == "fill_disk"]
    jobs.append(Job("faults", "planted", {"families": SAMPLED_FAMILIES if sample else None}))
    jobs += [Job("inputs", target.kind, examples) for target in (TARGETS[::SAMPLED_TARGETS] if sample else TARGETS)]
    jobs.append(Job("files", "hostile"))
    return [job for job in jobs if job.section in sections]


def run_job(job: Job, template: Path) -> list[Row]:
    """Run attacks, and return a row for each, in a process that computes nothing, since it forks the commands."""
    sys.path.insert(0, str(PROJECT))
    if job.section == "faults":
        with ProcessPoolExecutor(1, mp_context=SPAWN) as own:
            return own.submit(_plant, job).result()
    import_libraries()
    run = {"inputs": _damage, "crashes": _crash, "files": _deceive}[job.section]
    return list(run(job, template))


def _damage(job: Job, template: Path) -> Iterator[Row]:
    targets = [target for target in TARGETS if target.kind == job.kind]
    for tally, findings in attack_inputs(template, targets=targets, **job.options):
        counts = {name: getattr(tally, name) for name in ("attacks", "works", "fails", "refuses", "slowest")}
        shown = [f"{each.problem}: {each.said}: {_show(each.outcome)}" for each in findings]
        yield {"kind": job.kind, **counts, "problems": shown}


def _crash(job: Job, template: Path) -> Iterator[Row]:
    attack = getattr(interruptions, job.kind)
    if job.kind != "kill_device_runs":
        trials = attack(template, **job.options)
    elif (device := interruptions.start_device()) is None:
        print("sshd is not installed: benchmark --device is not attacked.", file=sys.stderr)
        return
    else:
        trials = attack(template, device=device, **job.options)
    for trial in trials:
        problems = [f"{trial.problem}: {_show(trial.outcome)}"] if trial.problem else []
        yield {"kind": trial.kind, "said": trial.said, "code": trial.outcome.code, "problems": problems}


def _plant(job: Job) -> list[Row]:
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for verdict in planted.plant_all(Path(folder), families=job.options["families"]):
            problem = "" if verdict.caught and verdict.named else "not caught" if not verdict.caught else "not named"
            row = {"family": verdict.fault.family, "fault": verdict.fault.name, "module": verdict.module}
            rows.append({**row, "problems": [problem] if problem else []})
    return rows


def _deceive(job: Job, template: Path) -> Iterator[Row]:
    del job
    for attempt in untrusted.attempt_all(template):
        problems = [f"{attempt.problem}: {_show(attempt.outcome)}"] if attempt.problem else []
        yield {"said": attempt.said, "code": attempt.outcome.code, "problems": problems}


def _show(outcome: Any) -> str:
    return f"amp-export {' '.join(outcome.command)}\n{outcome.text[-1500:]}"


def main() -> int:
    """Attack, show what succeeded, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", choices=[*SECTIONS, []], metavar="SECTION", help="default: all")
    parser.add_argument("--sample", action="store_true", help="run a small part, and write nothing")
    parser.add_argument("--seed", type=int, default=20250421, help="what is drawn depends on it (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=2, help="processes (default: %(default)s)")
    parser.add_argument("--kinds", nargs="+", metavar="KIND", help="jobs to repeat, by the names printed; needs --rows")
    parser.add_argument("--rows", type=Path, help="directory of results, so that sections can run one by one")
    asked = parser.parse_args()
    began = time.monotonic()
    sections = asked.sections or SECTIONS
    with tempfile.TemporaryDirectory() as scratch:
        jobs = list_jobs(sections, sample=asked.sample, random_seed=asked.seed)
        if asked.kinds:
            jobs = [job for job in jobs if job.kind in asked.kinds]
        rows = run_jobs(jobs, Path(scratch), asked.jobs)
        if asked.kinds:
            rows = {section: _replaced(asked.rows / f"{section}.json", rows[section]) for section in sections}
        if not asked.sample:
            _write(rows, asked.rows or Path(scratch), sections)
    problems = [problem for section in rows.values() for row in section for problem in row["problems"]]
    for problem in problems:
        print(f"\n{problem}", file=sys.stderr)
    print(f"{len(problems)} attacks succeeded, {time.monotonic() - began:.0f} s.", file=sys.stderr)
    return 1 if problems else 0


def run_jobs(jobs: Sequence[Job], scratch: Path, processes: int) -> dict[str, list[Row]]:
    """Run jobs in processes, and return their rows by section, in the order of the jobs."""
    (scratch / "template").mkdir()
    template = make_template(scratch / "template")
    found: dict[int, list[Row]] = {}
    with ProcessPoolExecutor(processes, mp_context=SPAWN) as pool:
        futures = {pool.submit(run_job, job, template): number for number, job in enumerate(jobs)}
        for future in as_completed(futures):
            job, found[futures[future]] = jobs[futures[future]], future.result()
            print(f"{job.section}: {job.kind}: done", file=sys.stderr, flush=True)
    rows: dict[str, list[Row]] = {section: [] for section in SECTIONS}
    for number, job in enumerate(jobs):
        rows[job.section] += found[number]
    return rows


def _replaced(file: Path, repeated: Sequence[Row]) -> list[Row]:
    """Return the rows that are kept in a file, with those of the kinds that were repeated in their places."""
    kept: list[Row] = json.loads(file.read_text(encoding="utf-8"))
    kinds = {row["kind"] for row in repeated}
    first = next((number for number, row in enumerate(kept) if row["kind"] in kinds), len(kept))
    others = [(number, row) for number, row in enumerate(kept) if row["kind"] not in kinds]
    before, after = ([row for number, row in others if (number < first) is early] for early in (True, False))
    return [*before, *repeated, *after]


def _write(rows: Mapping[str, Sequence[Row]], folder: Path, sections: Sequence[str]) -> None:
    """Keep the rows of the sections that ran, and write the page if all have run."""
    folder.mkdir(exist_ok=True)
    for section in sections:
        (folder / f"{section}.json").write_text(json.dumps(rows[section]), encoding="utf-8")
    kept = {section: folder / f"{section}.json" for section in SECTIONS}
    if missing := [section for section, file in kept.items() if not file.is_file()]:
        print(f"The page is not written: {', '.join(missing)} did not run yet.", file=sys.stderr)
        return
    PAGE.write_text(page.write({section: json.loads(file.read_text()) for section, file in kept.items()}))


if __name__ == "__main__":
    sys.exit(main())
