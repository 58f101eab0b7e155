"""Speed as a plan shows it: ranges, time budgets, and the kernels that it depends on."""

from __future__ import annotations

from hwdetect.bench.case import KernelCase
from planner import plan as out
from planner.budget import Budget
from planner.engines.base import Priced
from planner.request import PricedRelease, Request
from planner.speed import Speed, token_budget


def _range(values: tuple[float, float, float]) -> out.Range:
    return out.Range(low=values[0], expected=values[1], high=values[2])


def performance_of(speed: Speed) -> out.Performance:
    """Speed as shown."""
    return out.Performance(
        decode_tokens_per_s_per_request=_range(speed.decode_per_request),
        decode_tokens_per_s_total=_range(speed.decode_total),
        prefill_tokens_per_s=_range(speed.prefill),
        ttft_s=_range(speed.ttft_s),
        tpot_s=_range(speed.tpot_s),
        effective_concurrency=round(speed.effective_concurrency, 2),
        bound_by=speed.bound_by,
        evidence=speed_evidence(speed),
        budget=budget_rows(token_budget(speed.serving)),
        prompt_budget=budget_rows(speed.serving.prompt),
    )


def speed_evidence(speed: Speed) -> str:
    """Modelled, verified, or how much of the time rests on kernels measured on this machine."""
    if speed.verified:
        return speed.verified
    share = speed.measured_share
    return "modelled" if share < 0.005 else f"calibrated: kernels of {share:.0%} of the time were measured here"


def budget_rows(budget: Budget) -> tuple[out.BudgetEntry, ...]:
    """A time budget as shown, longest row first."""
    total = budget.total
    return tuple([
        out.BudgetEntry(
            what=term.what,
            seconds=term.seconds,
            low_s=term.seconds / term.spread,
            high_s=term.seconds * term.spread,
            share=term.seconds / total if total else 0.0,
            bound_by=term.bound,
            source=term.source,
            evidence="measured" if term.measured else "modelled",
        )
        for term in sorted(budget.terms, key=lambda term: -term.seconds)
        if term.seconds > 0
    ])  # fmt: skip


def kernel_ref(case: KernelCase) -> out.Kernel:
    """A kernel as shown: what a benchmark needs to measure it."""
    return out.Kernel(
        series=case.series,
        kernel=case.kernel,
        quantization=case.quantization,
        dims=dict(case.dims),
        batch=case.batch,
        context=case.context,
    )


def simulation_of(request: Request, release: PricedRelease, priced: Priced) -> out.Simulation | None:
    """The simulation of one configuration as shown; None where the request asks for none."""
    traffic = request.traffic
    if traffic is None:
        return None
    # Only a request for it pays for loading it.
    from planner.simulate import simulate

    seen = simulate(request, release, priced, traffic)

    def spread(values: tuple[float, float, float, float]) -> out.Percentiles:
        return out.Percentiles(mean=values[0], p50=values[1], p95=values[2], p99=values[3])

    return out.Simulation(
        arrival_rate_per_s=traffic.rate_per_s,
        length_variation=traffic.variation,
        requests=seen.requests,
        ttft_s=spread(seen.ttft_s),
        tpot_s=spread(seen.tpot_s),
        latency_s=spread(seen.latency_s),
        queue_s=spread(seen.queue_s),
        mean_running=seen.running,
        mean_waiting=seen.waiting,
        output_tokens_per_s=seen.output_tokens_per_s,
        requests_per_s=seen.requests_per_s,
        goodput_share=seen.goodput_share,
        goodput_requests_per_s=seen.goodput_requests_per_s,
        preemptions=seen.preemptions,
        saturated=seen.saturated,
        evidence="modelled",
    )
