"""A measured load beside a plan: per term holds, better, or differs, and what to change. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Final, Literal, NamedTuple

from hwdetect.serving.endpoint import Endpoint
from hwdetect.serving.load import Step, errors_of, percentile
from planner import verify_report as out
from planner.plan import Candidate, Plan, Range
from planner.speed import Speed
from profiles.engines import UnknownVersion, version_tuple

KV_ROUNDING: Final = 0.025
"""Part of the KV tokens by which block rounding and padding differ, as in the comparison of start-up logs."""
ENOUGH: Final = 3
"""Requests of a step below which its median says little."""


class Expected(NamedTuple):
    """What is predicted of a step; ``load`` says for which load."""

    tpot_s: Range
    ttft_s: Range
    throughput: Range
    load: str


def expected_of(speed: Speed, load: str) -> Expected:
    """A speed as ranges."""
    return Expected(_range(speed.tpot_s), _range(speed.ttft_s), _range(speed.decode_total), load)


def planned_speed(candidate: Candidate, load: str) -> Expected:
    """What the plan itself says, for its own load."""
    speed = candidate.performance
    return Expected(speed.tpot_s, speed.ttft_s, speed.decode_tokens_per_s_total, load)


def load_step(step: Step) -> out.LoadStep:
    """The figures of a step; medians and rates are null where no request gave one."""
    good = [sample for sample in step.samples if not sample.error]
    ttfts = [sample.ttft_s for sample in good if sample.ttft_s is not None]
    tpots = [sample.tpot_s for sample in good if sample.tpot_s is not None]
    prompts = [sample.input_tokens for sample in good if sample.input_tokens is not None]
    outputs = [sample.output_tokens for sample in good]
    errors = errors_of(step)
    return out.LoadStep(
        concurrency=step.concurrency,
        requests=len(step.samples),
        failed=sum(errors.values()),
        errors=errors,
        input_tokens=fmean(prompts) if prompts else None,
        output_tokens=fmean(outputs) if outputs else None,
        tokens_counted_by_server=bool(good) and all(sample.counted for sample in good),
        ttft_s=_percentiles(ttfts),
        tpot_s=_percentiles(tpots),
        output_tokens_per_s=sum(outputs) / step.wall_s if outputs and step.wall_s > 0 else None,
        wall_s=step.wall_s,
        sustained=len(step.samples) >= 2 * step.concurrency or step.concurrency == 1,
    )


def compare(
    plan: Plan, candidate: Candidate, endpoint: Endpoint, steps: Sequence[tuple[out.LoadStep, Expected | None]]
) -> tuple[out.Compared, ...]:
    """Every term that the plan and the measurement have in common."""
    rows = [*_identity(candidate, endpoint), _kv_row(candidate, endpoint), _context_row(plan, endpoint)]
    for step, expected in steps:
        rows += _speed_rows(step, expected)
    return tuple(rows)


def kv_tokens_of(candidate: Candidate, endpoint: Endpoint) -> tuple[int | None, str]:
    """Tokens of the server's KV cache, and where they stand.

    llama.cpp's slots share one cache where the plan starts it so (``--kv-unified``), and divide it where not. The ranks
    of a divided context hold their parts of it.
    """
    if endpoint.kv_tokens is not None and endpoint.kv_of_rank:
        return endpoint.kv_tokens * candidate.parallel.dcp, endpoint.kv_source
    if endpoint.kv_tokens is not None or endpoint.slots is None or endpoint.max_model_len is None:
        return endpoint.kv_tokens, endpoint.kv_source
    if "--kv-unified" in candidate.launch.argv:
        return endpoint.max_model_len, "/props, n_ctx of the slots, which share one cache as planned"
    return endpoint.max_model_len * endpoint.slots, "/props, n_ctx x total_slots"


def verdict_of(
    rows: Sequence[out.Compared], steps: Sequence[out.LoadStep], checks: Sequence[out.Check]
) -> tuple[str, tuple[str, ...]]:
    """``failed`` where requests or checks failed, ``differs`` where a term does, and the names of what differs."""
    differing = [
        f"{row.term} at {row.concurrency}" if row.concurrency is not None else row.term
        for row in rows
        if row.verdict == "differs"
    ]
    failed = [f"requests at {step.concurrency}" for step in steps if step.failed]
    failed += [check.name for check in checks if check.status == "fail"]
    if failed:
        return "failed", (*failed, *differing)
    if differing:
        return "differs", tuple(differing)
    measured = any(row.verdict in ("holds", "better") and row.observed is not None for row in rows)
    return ("holds" if measured else "nothing_measured"), ()


def _identity(candidate: Candidate, endpoint: Endpoint) -> list[out.Compared]:
    wanted = candidate.engine
    rows = [
        _text_row(
            "engine", wanted.name, endpoint.engine, endpoint.engine == wanted.name, "plan for the engine that runs"
        )
    ]
    if endpoint.version is not None:
        rows.append(
            _text_row(
                "version", wanted.version, endpoint.version, same_version(wanted.version, endpoint.version),
                f"plan again with --engine-version {endpoint.version[:20]}",
            )
        )  # fmt: skip
    return rows


def same_version(planned: str, running: str) -> bool | None:
    """Whether a running version is the planned one; None for a build that names no version."""
    try:
        numbers = version_tuple(running)
    except UnknownVersion:
        return None
    wanted = version_tuple(planned)
    return numbers[: min(2, len(wanted))] == wanted[:2]


def _text_row(
    term: Literal["engine", "version"], planned: str, running: str | None, same: bool | None, action: str
) -> out.Compared:
    known = running is not None and same is not None
    return out.Compared(
        term=term,
        concurrency=None, predicted=None, predicted_text=planned, observed=None, observed_text=running or "",
        verdict="not_measured" if not known else "holds" if same else "differs", outside=0.0,
        predicted_for="the plan", action=action if known and not same else "",
    )  # fmt: skip


def _kv_row(candidate: Candidate, endpoint: Endpoint) -> out.Compared:
    cache = candidate.kv_cache
    low, high = float(cache.tokens), float(cache.tokens)
    if cache.budget_bytes_per_rank > 0:
        low = cache.tokens * cache.budget_low_bytes_per_rank / cache.budget_bytes_per_rank
        high = cache.tokens * cache.budget_high_bytes_per_rank / cache.budget_bytes_per_rank
    predicted = Range(low=min(low, cache.tokens), expected=cache.tokens, high=max(high, cache.tokens))
    row = _row(
        "kv_tokens",
        None,
        predicted,
        kv_tokens_of(candidate, endpoint)[0],
        "the plan",
        more_is_better=True,
        slack=KV_ROUNDING,
    )
    if row.verdict == "differs":
        action = "fewer tokens fit than planned: compare the engine's start-up log with `moeplan observe`"
        return row.model_copy(update={"action": action})
    return row


def _context_row(plan: Plan, endpoint: Endpoint) -> out.Compared:
    wanted = float(plan.workload.context)
    predicted = Range(low=wanted, expected=wanted, high=wanted)
    row = _row("context", None, predicted, endpoint.max_model_len, "the plan", more_is_better=True)
    return (
        row.model_copy(update={"action": "start it with the plan's maximum length"})
        if row.verdict == "differs"
        else row
    )


def _speed_rows(step: out.LoadStep, expected: Expected | None) -> list[out.Compared]:
    if expected is None:
        return []
    enough = step.requests - step.failed >= min(ENOUGH, step.concurrency)
    tpot = step.tpot_s.p50 if step.tpot_s is not None and enough else None
    ttft = step.ttft_s.p50 if step.ttft_s is not None and enough else None
    rate = step.output_tokens_per_s if step.sustained and enough and not step.failed else None
    rows = [
        _row("tpot", step.concurrency, expected.tpot_s, tpot, expected.load, more_is_better=False),
        _row("ttft", step.concurrency, expected.ttft_s, ttft, expected.load, more_is_better=False),
    ]
    if step.output_tokens is not None:
        total = _whole_rate(step, expected)
        rows.append(_row("throughput", step.concurrency, total, rate, expected.load, more_is_better=True))
    actions = {
        "tpot": "lower the concurrency, or plan for this measurement: the machine is slower than its kind",
        "ttft": "shorten the prompts, or serve more of them from the prefix cache",
        "throughput": "follows from the terms above",
    }
    return [row.model_copy(update={"action": actions[row.term]}) if row.verdict == "differs" else row for row in rows]


def _whole_rate(step: out.LoadStep, expected: Expected) -> Range:
    """Output tokens per second of so many requests, each with its wait for the first token: Little's law."""
    tokens = step.output_tokens or 1.0
    return Range(
        low=step.concurrency * tokens / (expected.ttft_s.high + tokens * expected.tpot_s.high),
        expected=step.concurrency * tokens / (expected.ttft_s.expected + tokens * expected.tpot_s.expected),
        high=step.concurrency * tokens / (expected.ttft_s.low + tokens * expected.tpot_s.low),
    )


def _row(
    term: str,
    concurrency: int | None,
    predicted: Range,
    observed: float | None,
    load: str,
    *,
    more_is_better: bool,
    slack: float = 0.0,
) -> out.Compared:
    verdict, outside = "not_measured", 0.0
    if observed is not None:
        low, high = predicted.low * (1 - slack), predicted.high * (1 + slack)
        over, under = observed > high, observed < low
        outside = observed / high - 1 if over and high else observed / low - 1 if under and low else 0.0
        good = over if more_is_better else under
        verdict = "better" if good else "differs" if over or under else "holds"
    return out.Compared(
        term=term,  # type: ignore[arg-type]
        concurrency=concurrency, predicted=predicted, predicted_text="", observed=observed, observed_text="",
        verdict=verdict,  # type: ignore[arg-type]
        outside=outside, predicted_for=load, action="",
    )  # fmt: skip


def _percentiles(values: list[float]) -> out.Percentiles | None:
    if not values:
        return None
    return out.Percentiles(p50=percentile(values, 0.5), p90=percentile(values, 0.9), p99=percentile(values, 0.99))


def _range(values: tuple[float, float, float]) -> Range:
    return Range(low=values[0], expected=values[1], high=values[2])
