"""What quantizations cost in quality, for people: one table for each suite, none across them."""

from __future__ import annotations

from rich.console import RenderableType
from rich.text import Text

from formulas.units import GB
from moeplan.text import FAINT, bullets, heading, line, table
from planner.quality import QualityRow, QualityView, Suite


def quality_parts(view: QualityView) -> list[RenderableType]:
    """The native weights, every suite, what is larger than native, what was never measured."""
    bits = f" ({view.native_bits_per_parameter:.2f} bits per parameter)" if view.native_bits_per_parameter else ""
    native = f"{view.native}{bits}: the weights as published, whose loss is 0 by definition"
    parts: list[RenderableType] = [heading("Native"), line(f"  {native if view.native else 'not known'}")]
    for suite in view.suites:
        parts += _suite(suite)
    if view.larger_than_native:
        listed = [
            f"{one.publisher}/{one.quantization}: {one.bits_per_parameter:.2f} bits per parameter, "
            f"{one.larger_by_bytes / GB:,.0f} GB more"
            for one in view.larger_than_native
        ]
        parts += [heading("Larger than the native weights, and made from them: they gain nothing"), bullets(listed)]
    if view.not_measured:
        parts += [heading("Measured by no suite that is known"), bullets([", ".join(view.not_measured)], FAINT)]
    return parts


def _suite(suite: Suite) -> list[RenderableType]:
    better = "lower" if suite.lower_is_better else "higher"
    base = f", baseline {suite.baseline:g}" if suite.baseline is not None else ""
    columns = ("quantization", ">GB", ">bits per\nparameter", f">{suite.metric}", ">from the\nbaseline", "measured on")
    return [
        heading(f"{suite.suite}: {suite.metric}, {better} is better{base}"),
        table(columns, [_row(row) for row in suite.rows]),
        bullets([suite.source, *dict.fromkeys(row.note for row in suite.rows if row.note)], FAINT),
    ]


def _row(row: QualityRow) -> list[str | Text]:
    return [
        f"{row.publisher}/{row.quantization}",
        f"{row.bytes / GB:,.1f}",
        f"{row.bits_per_parameter:.2f}",
        f"{row.value:g}",
        "" if row.loss is None else f"{row.loss:.3g}",
        "its own mixture" if row.measured_on == "release" else "its main type throughout",
    ]
