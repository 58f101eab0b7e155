"""What a check found: one finding each, and the verdict over all of them. ``moeplan.check/1``.

What could not be read is ``not_run`` with its reason and never ``pass``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Literal, TypeVar

from pydantic import ConfigDict, Field

from hwdetect.facts import Fact
from planner.plan import Record

CHECK_SCHEMA: Final = "moeplan.check/1"
NOT_SUPPORTED: Final = frozenset({"Not Supported", "reported as 0", "not supported"})
"""Reasons of a fact that say that the device has no such thing, where others say that it could not be read."""

Status = Literal["pass", "warn", "fail", "not_run"]
Verdict = Literal["go", "no_go", "undetermined"]
STATUSES: Final[tuple[Status, ...]] = ("fail", "warn", "not_run", "pass")
"""Worst first."""

T = TypeVar("T")


class Finding(Record):
    """One check of one thing. ``subject`` names it on its node: "GPU 0-7", "disk /data", "host".

    ``evidence`` is what was read and where, or the source of the threshold; ``action`` is empty where there is nothing
    to do. Without a ``required`` finding the verdict cannot be "go".
    """

    code: str
    status: Status
    node: str
    subject: str
    evidence: str
    expected: str
    actual: str
    action: str
    required: bool = True


class NodeSummary(Record):
    """What of a node can be compared with its peers: GPUs, versions by name, and measured rates."""

    node: str
    hardware: str
    traits: dict[str, str]
    rates_bytes_per_s: dict[str, float]


class CheckReport(Record):
    """Every finding on every node, worst first, and the verdict.

    ``checked_at`` is when the machine was looked at, null where it was only described. ``plan`` names the configuration
    that the machine was held to.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", defer_build=True, populate_by_name=True, protected_namespaces=()
    )

    schema_: Literal["moeplan.check/1"] = Field(CHECK_SCHEMA, alias="schema")
    generated_by: str
    verdict: Verdict
    strict: bool
    checked_at: str | None
    plan: str | None
    nodes: tuple[str, ...]
    counts: dict[Status, int]
    findings: tuple[Finding, ...]
    machines: tuple[NodeSummary, ...] = ()

    def to_json(self) -> str:
        """The report as ``moeplan.check/1`` JSON."""
        return self.model_dump_json(indent=2, by_alias=True)


def verdict_of(findings: Iterable[Finding], *, strict: bool = False) -> Verdict:
    """No-go: something failed; with ``strict`` also what warns or did not run. Undetermined: nothing failed, and
    something that is required did not run. Else go.

    >>> verdict_of([])
    'undetermined'
    """
    seen = list(findings)
    statuses = {each.status for each in seen}
    if "fail" in statuses or (strict and statuses & {"warn", "not_run"}):
        return "no_go"
    if not seen or any(each.status == "not_run" and each.required for each in seen):
        return "undetermined"
    return "go"


class Findings:
    """Collects the findings of one node; those that say the same of several GPUs become one."""

    def __init__(self, node: str) -> None:
        self.node = node
        self._found: list[tuple[dict[str, Any], int | None]] = []

    def add(
        self,
        code: str,
        status: Status,
        subject: str | int,
        *,
        expected: str,
        actual: str,
        evidence: str = "",
        action: str = "",
        required: bool = True,
    ) -> None:
        """One finding; a number as subject is a GPU's index."""
        row = {
            "code": code,
            "status": status,
            "evidence": evidence,
            "expected": expected,
            "actual": actual or "an empty answer",
            "action": "" if status == "pass" else action,
            "required": required,
        }
        if isinstance(subject, int):
            self._found.append((row, subject))
        else:
            self._found.append(({**row, "subject": subject}, None))

    def judge(
        self,
        code: str,
        subject: str | int,
        fact: Fact[T] | None,
        verdict: Callable[[T], tuple[Status, str]],
        *,
        expected: str,
        show: Callable[[T], str] = str,
        evidence: str = "",
        required: bool = True,
        excused: bool = True,
    ) -> None:
        """A fact under a rule, which says the status and the action. A fact without a value is not run."""
        if fact is None or fact.value is None:
            self.unread(code, subject, fact, expected=expected, required=required, excused=excused)
            return
        status, action = verdict(fact.value)
        source = f"{fact.source}; {evidence}" if evidence else fact.source
        self.add(
            code, status, subject, expected=expected, actual=show(fact.value), evidence=source, action=action,
            required=required,
        )  # fmt: skip

    def unread(
        self,
        code: str,
        subject: str | int,
        fact: Fact[Any] | None,
        *,
        expected: str,
        required: bool = True,
        excused: bool = True,
    ) -> None:
        """What could not be read. excused: a device that says that it has no such thing need not have it."""
        reason = "not looked at" if fact is None else fact.reason or "no limit"
        lacks = excused and reason in NOT_SUPPORTED
        self.add(
            code,
            "not_run",
            subject,
            expected=expected,
            actual=f"not known: {reason}",
            evidence="" if fact is None else fact.source,
            action="" if lacks else "read it as root or with a newer driver, or look with the vendor's own tool",
            required=required and not lacks,
        )

    def rows(self) -> tuple[Finding, ...]:
        """The findings, those of GPUs together, in the order in which each first came up."""
        grouped: dict[tuple[Any, ...], tuple[dict[str, Any], list[int]]] = {}
        for row, index in self._found:
            key = (*row.values(), index is None)
            _, indices = grouped.setdefault(key, (row, []))
            if index is not None:
                indices.append(index)
        return tuple(
            Finding(node=self.node, **{**row, **({"subject": f"GPU {spans(indices)}"} if indices else {})})
            for row, indices in grouped.values()
        )


def worst_first(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Sorted by status, otherwise as they came."""
    return tuple(sorted(findings, key=lambda each: STATUSES.index(each.status)))


def spans(numbers: Sequence[int]) -> str:
    """Numbers as ranges.

    >>> spans([0, 1, 2, 5])
    '0-2, 5'
    """
    parts: list[list[int]] = []
    for number in sorted(set(numbers)):
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ", ".join(str(part[0]) if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in parts)


def gib(size: float) -> str:
    """Bytes for people, in MiB below one GiB.

    >>> gib(150754820096), gib(8388608)
    ('140.40 GiB', '8 MiB')
    """
    return f"{size / 2**30:,.2f} GiB" if size >= 1 << 30 or not size else f"{size / 2**20:,.0f} MiB"
