"""What the bench screen of ``tui`` is handed: runs of ``moeplan bench`` and ``moeplan validate``, and their words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Literal

from moeplan.screens import refusals
from moeplan.text_safe import printable
from tui.bench_program import BenchAnswer, BenchLine, BenchOffer, BenchProgram, BenchTask, BenchWatch
from tui.program import Refused

if TYPE_CHECKING:
    from rich.console import RenderableType

    from hwdetect.bench.case import KernelCase
    from hwdetect.bench.result import BenchRow, NotMeasured
    from hwdetect.bench.suite import Outcome, Watch
    from moeplan.bench_report import BenchReport
    from moeplan.validating import Validation

COLUMNS: Final = (
    "kernel", ">batch", ">ms", ">spread", "stable", "of the ceiling", "provider", ">GB/s", ">GFLOP/s", "format, shape",
)  # fmt: skip
ENDINGS: Final = {
    "done": "",
    "out_of_time": "; the time was up, Enter goes on from here",
    "interrupted": "; cancelled, Enter goes on from here",
}
VERDICT_STYLES: Final = {"holds": "green", "differs": "red", "undetermined": "yellow"}


def bench_program() -> BenchProgram:
    """The real one, on this machine."""
    return BenchProgram(columns=COLUMNS, offers=offers, run=run, keep=keep)


def offers(task: BenchTask) -> tuple[BenchOffer, ...]:
    """What can be measured, in words."""
    from moeplan.text_plan import title

    of = "the ranked rows" if _of_this_machine(task) else f"{task.values.get('model', '')}'s best rows here"
    candidate = task.candidate
    own = (
        f"rank {candidate.rank} beside its prediction: {title(candidate)}"
        if candidate is not None
        else "needs a row that fits under the cursor of the plan screen"
    )
    return (
        BenchOffer("quick", printable(f"kernels of {of}, at small batches, under a minute"), True),
        BenchOffer("plan", printable(own), candidate is not None),
        BenchOffer("all", "the same at every batch and context, which takes many minutes", True),
    )


def _of_this_machine(task: BenchTask) -> bool:
    return task.plan is not None and task.plan.hardware.source == "detected" and bool(task.plan.candidates)


def run(task: BenchTask, watch: BenchWatch) -> BenchAnswer:
    """Measure, and keep nothing in the calibration yet. Raises ``Refused``."""
    from moeplan.benching import BenchOptions, bench
    from moeplan.calibrations import NONE
    from moeplan.validating import validate_candidate

    watch.begins("looking at this machine")
    chosen = BenchOptions(quick=task.kind == "quick", calibration=NONE, watch=_watched(watch))
    with refusals():
        if task.kind != "plan":
            plan = task.plan if _of_this_machine(task) else None
            report = bench(
                task.values.get("model"), chosen, plan=plan,
                engine=task.values.get("engine"), quant=task.values.get("quant"), progress=watch.progress,
            )  # fmt: skip
            return answer_of(report, None)
        if task.plan is None or task.candidate is None:
            raise Refused("there is no row that fits under the cursor of the plan screen")
        result, report = validate_candidate(task.plan, task.candidate, "the plan shown", chosen, watch.progress)
    return answer_of(report, result)


def _watched(watch: BenchWatch) -> Watch:
    from hwdetect.bench.suite import Watch

    def begins(case: KernelCase, provider: str) -> None:
        watch.begins(printable(f"{case.kernel} {case.quantization}, batch {case.batch}, by {provider}"))

    def found(outcome: Outcome) -> None:
        watch.found(lines_of(tuple(outcome.rows), tuple(outcome.missing)))

    return Watch(begins=begins, found=found, cancelled=watch.is_cancelled)


def answer_of(report: BenchReport, result: Validation | None) -> BenchAnswer:
    """A finished run in the words of the bench screen."""
    from moeplan.bench_report import measured_series
    from moeplan.text import FAINT, bullets, stacked
    from moeplan.text_bench import (
        ceilings_view,
        doubts_view,
        missing_view,
        providers_view,
        sweeps_view,
        validation_view,
        verdict_words,
    )
    from moeplan.text_numbers import plural

    unstable, missing = sum(not row.stable for row in report.rows), len(report.not_measured)
    counts = [f"{plural(len(report.rows), 'case')} measured"]
    counts += [f"{unstable} unstable"] if unstable else []
    counts += [f"{missing} not measured"] if missing else []
    plots = [ceilings_view(report.rows), sweeps_view(report.rows)]
    told = (doubts_view(report.rows), missing_view(report), providers_view(report.rows))
    return BenchAnswer(
        ended=printable(f"{', '.join(counts)} at {report.date}{ENDINGS[report.ended]}"),
        lines=lines_of(report.rows, report.not_measured),
        verdict=printable(f"The prediction {verdict_words(result)}") if result is not None else "",
        verdict_style=VERDICT_STYLES[result.verdict] if result is not None else "",
        against=validation_view(result) if result is not None else None,
        plot=stacked(*plots) if any(plots) else None,
        notes=stacked(*told, bullets(report.notes, FAINT) if report.notes else None),
        result=report if measured_series(report.rows) else None,
    )


def keep(result: object) -> str:
    """Write what was measured as this machine's calibration. Raises ``Refused``."""
    from moeplan.bench_report import BenchReport
    from moeplan.benching import stored
    from moeplan.calibrations import AUTO

    assert isinstance(result, BenchReport)
    kept = stored(result, AUTO)
    if kept.calibration is None:
        raise Refused(printable(kept.notes[-1] if kept.notes else "nothing of it can be kept"))
    return printable(f"Kept in {kept.calibration}: plans of this machine use it")


def lines_of(rows: Sequence[BenchRow], missing: Sequence[NotMeasured]) -> tuple[BenchLine, ...]:
    """Rows of the table: what was measured, then what was not."""
    return (*[_line(row) for row in rows], *[_missing(case) for case in missing])


def _line(row: BenchRow) -> BenchLine:
    from moeplan.text_bench import bar, milliseconds, size_of, what

    share = row.fraction_of_roofline
    cells = (
        row.kernel,
        size_of(row),
        milliseconds(row.median_s),
        f"{row.iqr_s / row.median_s:.0%}",
        "yes" if row.stable else "no",
        f"{bar(share, 10)} {share:.0%}" if share is not None else "",
        row.provider,
        f"{row.bytes / row.median_s / 1e9:.1f}" if row.bytes else "",
        f"{row.flops / row.median_s / 1e9:,.0f}" if row.flops else "",
        what(row),
    )
    state: Literal["stable", "unstable"] = "stable" if row.stable else "unstable"
    key = f"{row.series} {size_of(row)} {row.threads}"
    return BenchLine(key, tuple(printable(cell) for cell in cells), state, _details(row))


def _details(row: BenchRow) -> RenderableType:
    from moeplan.text import pairs
    from moeplan.text_bench import milliseconds, reason_of, size_of, what
    from moeplan.text_numbers import plural

    threads = f", {plural(row.threads, 'thread')}" if row.threads is not None else ""
    reads = (
        f" of memory that was read at {row.reference_bytes_per_s / 1e9:.1f} GB/s" if row.reference_bytes_per_s else ""
    )
    ceiling = f"{row.fraction_of_roofline:.0%} of the time at the ceiling{reads}" if row.fraction_of_roofline else ""
    error = row.correctness
    return pairs(
        (
            ("kernel", f"{row.kernel}, {what(row)}, batch {size_of(row)}"),
            ("unstable", f"because {row.unstable_because}" if row.unstable_because else ""),
            (
                "time",
                f"{milliseconds(row.median_s)} ms median, quartiles {milliseconds(row.low_s)}-"
                f"{milliseconds(row.high_s)}, {plural(len(row.samples_s), 'sample')} by the {row.clock} clock",
            ),
            ("ceiling", ceiling),
            ("provider", f"{row.provider}: {row.version}{threads}{', a kernel of this project' if row.ours else ''}"),
            ("not run", "; ".join(reason_of(one) for one in row.not_run)),
            ("checked", f"relative error {error.max_relative_error:.2g}, at most {error.bound:g} is right"),
            ("note", row.note),
        )
    )


def _missing(case: NotMeasured) -> BenchLine:
    from moeplan.text import pairs
    from moeplan.text_bench import reason_of, size_of

    reasons = [reason_of(reason) for reason in case.reasons]
    first = (case.series.partition("/")[0], size_of(case), "", "", "not run")
    cells = (*first, *("" for _ in COLUMNS[len(first) + 1 :]), "; ".join(reasons))
    return BenchLine(
        f"{case.series} {size_of(case)}",
        tuple(printable(cell) for cell in cells),
        "missing",
        pairs((("kernel", f"{case.series}, batch {size_of(case)}"), *[("not run", reason) for reason in reasons])),
    )
