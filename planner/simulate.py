"""Discrete-event simulation of a plan: what single requests see where ``planner.serving`` has means.

Every replica has a queue, a KV pool and steps as the engine makes them: vLLM and llama.cpp mix a chunk of a prompt into
a decode step, SGLang runs prompts alone; a request is admitted when the pool holds its prompt, and the youngest is
preempted (its cache dropped, computed again later) when the pool runs out. Replicas that share experts step together.
Between events all steps are alike, so that the clock moves from event to event. Nothing is random but the lengths and
arrivals, from a fixed seed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import ceil, inf, log, sqrt
from random import Random
from typing import Final, NamedTuple

from planner.budget import fact
from planner.engines.base import Priced
from planner.request import PricedRelease, Request, Traffic
from planner.serving import drafting, serve, speculation
from planner.step import CONTEXT_STEP, OFFLOADERS, decode_step, prefill_step

RUNS_PROMPTS_ALONE: Final = ("sglang", "ktransformers")
WARM_UP: Final = 0.1
"""Share of the requests at either end that is left out: the machine fills, and drains."""
ROUNDS: Final = 12
"""Requests simulated of every one that runs at a time, so that start and end weigh little."""
MIN_REQUESTS: Final = 200
MAX_REQUESTS: Final = 6_000
EVENTS_OF_A_REQUEST: Final = 64
"""Steps of very long prompts and answers are taken together, so that a request has about so many events."""
MAX_RATIO: Final = 8.0
"""Lengths are cut to this many times their mean."""


class Percentiles(NamedTuple):
    """Of a sample, in its unit."""

    mean: float
    p50: float
    p95: float
    p99: float


class Simulated(NamedTuple):
    """What the simulated users saw. Times are seconds; ``requests`` were counted, of all but start and end.

    ``goodput`` values count requests that met the bounds of the time to first token and per output token; without
    bounds all do. ``running`` and ``waiting`` are means over time.
    """

    requests: int
    ttft_s: Percentiles
    tpot_s: Percentiles
    latency_s: Percentiles
    queue_s: Percentiles
    running: float
    waiting: float
    output_tokens_per_s: float
    requests_per_s: float
    goodput_share: float
    goodput_requests_per_s: float
    preemptions: int
    saturated: bool


@dataclass(slots=True)
class Job:
    """One request on its way. ``fresh`` prompt tokens are still to be computed, ``cached`` are in the pool."""

    arrived: float
    prompt: int
    output: int
    shared: int
    fresh: float = 0.0
    cached: float = 0.0
    made: float = 0.0
    admitted: float | None = None
    first: float | None = None
    ended: float | None = None


@dataclass(slots=True)
class Replica:
    """One engine: requests that wait, are in prefill, and decode; ``room`` tokens of KV are free."""

    room: float
    slots: int
    waiting: deque[Job] = field(default_factory=deque)
    filling: deque[Job] = field(default_factory=deque)
    running: list[Job] = field(default_factory=list)

    @property
    def load(self) -> int:
        """Requests it has, waiting ones included."""
        return len(self.waiting) + len(self.filling) + len(self.running)


class Steps:
    """Times of the steps of one configuration, and how many tokens a decode step yields of each request."""

    def __init__(self, request: Request, release: PricedRelease, priced: Priced) -> None:
        self._all = (request, release, priced)
        self._request = request
        self.width, accepted = speculation(request)
        self.yields = accepted[1]
        self.mixes = priced.config.engine not in RUNS_PROMPTS_ALONE
        self.chunk = float(max(priced.config.batched_tokens, 1))
        self._decode: dict[tuple[int, int], float] = {}
        self._prefill: dict[tuple[int, int], float] = {}

    def decode_s(self, batch: int, context: float) -> float:
        """One step of ``batch`` sequences."""
        if batch == 0:
            return 0.0
        key = (batch, round(context / CONTEXT_STEP))
        found = self._decode.get(key)
        if found is None:
            budget = decode_step(*self._all, float(batch), float(key[1] * CONTEXT_STEP), self.width)
            found = budget.total
            if self.width > 1:
                found += drafting(self._request, budget, self.width).seconds
            self._decode[key] = found
        return found

    def prefill_s(self, tokens: float, cached: float) -> float:
        """One pass over a chunk of a prompt."""
        key = (ceil(tokens / CONTEXT_STEP), round(cached / CONTEXT_STEP))
        found = self._prefill.get(key)
        if found is None:
            exact = max(1.0, min(tokens, key[0] * CONTEXT_STEP))
            found = self._prefill[key] = prefill_step(*self._all, exact, float(key[1] * CONTEXT_STEP)).total
        return found


def simulate(request: Request, release: PricedRelease, priced: Priced, traffic: Traffic | None = None) -> Simulated:
    """Serve the demand of ``request`` request by request. Raises ``MissingFact`` as ``decode_step`` does."""
    traffic = traffic or Traffic()
    simulation = _Simulation(request, release, priced, traffic)
    simulation.run()
    return _summary(request, simulation)


class _Simulation:
    def __init__(self, request: Request, release: PricedRelease, priced: Priced, traffic: Traffic) -> None:
        config = priced.config
        lanes = 1 if config.engine in OFFLOADERS else config.dp
        self.users = request.demand.concurrency
        pool = float(priced.pool.tokens) if priced.pool.bytes_per_token else inf
        slots = config.sequences or self.users
        self.lanes = [Replica(pool, slots) for _ in range(lanes)]
        self.together = lanes > 1 and config.expert_group > 1
        self.steps = Steps(request, release, priced)
        self.most_rounds = max(CONTEXT_STEP, request.demand.output_tokens // EVENTS_OF_A_REQUEST)
        self.overhead = fact("request_overhead_s").value
        count = min(traffic.requests or max(MIN_REQUESTS, ROUNDS * self.users), MAX_REQUESTS)
        random = Random(traffic.seed)
        self.jobs = [_job(request, traffic, random) for _ in range(count)]
        self.closed = traffic.rate_per_s is None
        self.next_job = 0
        self.starts = deque(self._starts(request, release, priced, traffic, random))
        self.done: list[Job] = []
        self.now = 0.0
        self.clocks = [0.0] * lanes
        self.preemptions = 0
        self.area_running = self.area_waiting = 0.0

    def _starts(
        self, request: Request, release: PricedRelease, priced: Priced, traffic: Traffic, random: Random
    ) -> Iterator[float]:
        """When requests come by themselves; with a fixed number of users, when each of them begins.

        Users who began together would stay together; they begin spread over the time of one answer.
        """
        if traffic.rate_per_s is not None:
            when = 0.0
            for _ in self.jobs:
                when += random.expovariate(traffic.rate_per_s)
                yield when
            return
        users = min(self.users, len(self.jobs))
        answer = request.demand.output_tokens * serve(request, release, priced).tpot_s
        for number in range(users):
            yield answer * number / users

    def run(self) -> None:
        """All requests, to the end of the last."""
        while len(self.done) < len(self.jobs):
            if self.together:
                self._step_all()
            else:
                self._step_one()

    def _send(self, when: float) -> None:
        """The next request goes to the replica with the least to do."""
        job = self.jobs[self.next_job]
        self.next_job += 1
        job.arrived = when
        index = min(range(len(self.lanes)), key=lambda number: self.lanes[number].load)
        if not self.together and not self.lanes[index].load:
            self.clocks[index] = max(self.clocks[index], when)
        self.lanes[index].waiting.append(job)

    def _arrivals(self, now: float) -> None:
        while self.starts and self.starts[0] <= now:
            when = self.starts.popleft()
            # Users who were quick may have sent the last request before others began.
            if self.next_job < len(self.jobs):
                self._send(when)

    def _next_arrival(self) -> float:
        return self.starts[0] if self.starts else inf

    def _step_one(self) -> None:
        """The replica whose clock is furthest behind moves to its next event."""
        busy = [index for index, lane in enumerate(self.lanes) if lane.load]
        index = min(busy, key=lambda number: self.clocks[number], default=None)
        if index is None or self._next_arrival() <= self.clocks[index]:
            self._arrivals(self._next_arrival() if index is None else self.clocks[index])
            return
        lane, now = self.lanes[index], self.clocks[index]
        self._admit(lane, now)
        seconds, rounds = self._plan_steps(lane, self._next_arrival() - now)
        self.clocks[index] = now + seconds * rounds
        self._apply(lane, now, seconds, rounds)

    def _step_all(self) -> None:
        """Replicas that share experts: every step lasts as long as that of the slowest."""
        now = self.clocks[0]
        self._arrivals(now)
        if not any(lane.load for lane in self.lanes):
            now = self.clocks[0] = self._next_arrival()
            self._arrivals(now)
        for lane in self.lanes:
            self._admit(lane, now)
        plans = [self._plan_steps(lane, self._next_arrival() - now) for lane in self.lanes if lane.load]
        seconds = max(plan[0] for plan in plans)
        rounds = min(plan[1] for plan in plans)
        for lane in self.lanes:
            self._apply(lane, now, seconds, rounds)
        self.clocks[0] = now + seconds * rounds

    def _admit(self, lane: Replica, now: float) -> None:
        while lane.waiting and len(lane.filling) + len(lane.running) < lane.slots:
            job = lane.waiting[0]
            tokens = job.prompt + job.made
            if tokens > lane.room and (lane.filling or lane.running):
                return
            lane.waiting.popleft()
            lane.room -= tokens
            # What a preempted request had made is part of its prompt now, and only the shared prefix survives.
            job.cached = float(job.shared)
            job.fresh = tokens - job.cached
            if job.admitted is None:
                job.admitted = now
            lane.filling.append(job)

    def _plan_steps(self, lane: Replica, until: float) -> tuple[float, int]:
        """Seconds of the coming step, and how many alike follow before anything changes."""
        batch = len(lane.running)
        context = sum([job.prompt + job.made for job in lane.running]) / batch if batch else 0.0
        if lane.filling:
            job = lane.filling[0]
            chunk = self._chunk(lane)
            prompt = self.steps.prefill_s(chunk, job.cached)
            rounds = max(1, int(min(job.fresh, job.prompt / EVENTS_OF_A_REQUEST) / chunk))
            return (max(prompt, self.steps.decode_s(batch, context)) if self.steps.mixes else prompt), rounds
        if not batch:
            return 0.0, 1
        seconds = self.steps.decode_s(batch, context)
        rounds = min([ceil((job.output - job.made) / self.steps.yields) for job in lane.running])
        rounds = min(rounds, max(1, int(lane.room / (batch * self.steps.yields))), self.most_rounds)
        if until < inf and seconds > 0:
            rounds = min(rounds, max(1, ceil(until / seconds)))
        return seconds, max(rounds, 1)

    def _apply(self, lane: Replica, now: float, seconds: float, rounds: int) -> None:
        """Let ``rounds`` steps of ``seconds`` pass on a replica."""
        span = seconds * rounds
        self.area_running += span * (len(lane.filling) + len(lane.running))
        self.area_waiting += span * len(lane.waiting)
        end = now + span
        prompts = bool(lane.filling)
        decoding = list(lane.running)
        if prompts:
            self._fill(lane, end, rounds)
        if decoding and (not prompts or self.steps.mixes):
            self._decode(lane, decoding, end, rounds)

    def _chunk(self, lane: Replica) -> float:
        """Tokens of the first prompt that one step takes."""
        room = self.steps.chunk - (len(lane.running) if self.steps.mixes else 0)
        return max(1.0, min(lane.filling[0].fresh, room))

    def _fill(self, lane: Replica, end: float, rounds: int) -> None:
        job = lane.filling[0]
        done = min(job.fresh, self._chunk(lane) * rounds)
        job.fresh -= done
        job.cached += done
        if job.fresh > 0:
            return
        lane.filling.popleft()
        # The pass over the last of the prompt yields the first token.
        job.made += 1
        lane.room -= 1
        if job.first is None:
            job.first = end + self.overhead
        lane.running.append(job)
        self._finish(lane, end)

    def _decode(self, lane: Replica, decoding: Sequence[Job], end: float, rounds: int) -> None:
        for job in decoding:
            made = min(rounds * self.steps.yields, job.output - job.made)
            job.made += made
            lane.room -= made
        self._finish(lane, end)
        while lane.room < 0 and len(lane.running) > 1:
            job = lane.running.pop()
            lane.room += job.prompt + job.made
            lane.waiting.appendleft(job)
            self.preemptions += 1

    def _finish(self, lane: Replica, end: float) -> None:
        ended = [job for job in lane.running if job.made >= job.output]
        if not ended:
            return
        lane.running = [job for job in lane.running if job.made < job.output]
        for job in ended:
            job.ended = end + self.overhead
            lane.room += job.prompt + job.made
            self.done.append(job)
            if self.closed and self.next_job < len(self.jobs):
                self._send(end)


def _job(request: Request, traffic: Traffic, random: Random) -> Job:
    demand = request.demand
    longest = max(demand.context, demand.input_tokens + demand.output_tokens)
    prompt = min(_length(random, demand.input_tokens, traffic.variation), longest - 1)
    output = min(_length(random, demand.output_tokens, traffic.variation), longest - prompt)
    shared = min(int(prompt * demand.prefix_cache_hit_rate), prompt - 1)
    return Job(0.0, prompt, output, shared)


def _length(random: Random, mean: int, variation: float) -> int:
    """A log-normal length with that mean."""
    mean = max(mean, 1)
    if not variation:
        return mean
    sigma = sqrt(log(1 + variation * variation))
    drawn = random.lognormvariate(log(mean) - sigma * sigma / 2, sigma)
    return max(1, round(min(drawn, MAX_RATIO * mean)))


def _counted(simulation: _Simulation) -> Iterator[Job]:
    """Requests that neither filled an empty machine nor ran on one that empties."""
    skipped = int(len(simulation.jobs) * WARM_UP)
    order = sorted(simulation.done, key=lambda job: job.arrived)
    yield from order[skipped : len(order) - skipped]


def _summary(request: Request, simulation: _Simulation) -> Simulated:
    jobs = list(_counted(simulation))
    bounds = request.bounds
    ttft, tpot, latency, queue, good = [], [], [], [], 0
    for job in jobs:
        assert job.first is not None
        assert job.ended is not None
        assert job.admitted is not None
        first, each = job.first - job.arrived, (job.ended - job.first) / max(job.output - 1, 1)
        ttft.append(first)
        tpot.append(each)
        latency.append(job.ended - job.arrived)
        queue.append(job.admitted - job.arrived)
        good += (bounds.ttft_s is None or first <= bounds.ttft_s) and (bounds.tpot_s is None or each <= bounds.tpot_s)
    ends = sorted(job.ended for job in jobs if job.ended is not None)
    # Between the first and the last end of the counted ones, all others but the first ended too.
    window = ends[-1] - ends[0] if len(ends) > 1 else 0.0
    inside = [job for job in simulation.done if job.ended is not None and ends[0] < job.ended <= ends[-1]]
    rate = len(inside) / window if window else 0.0
    share = good / len(jobs)
    whole = max(job.ended or 0.0 for job in simulation.done) or 1.0
    half = len(queue) // 2
    return Simulated(
        requests=len(jobs),
        ttft_s=percentiles(ttft),
        tpot_s=percentiles(tpot),
        latency_s=percentiles(latency),
        queue_s=percentiles(queue),
        running=simulation.area_running / whole,
        waiting=simulation.area_waiting / whole,
        output_tokens_per_s=sum([job.output for job in inside]) / window if window else 0.0,
        requests_per_s=rate,
        goodput_share=share,
        goodput_requests_per_s=rate * share,
        preemptions=simulation.preemptions,
        # With arrivals that nothing slows, a queue that only grows has no steady state.
        saturated=not simulation.closed and half > 0 and _mean(queue[half:]) > 2 * _mean(queue[:half]) + 1.0,
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def percentiles(values: Sequence[float]) -> Percentiles:
    """Mean and percentiles, between the two nearest ranks. Raises ``ValueError`` for an empty sample.

    >>> percentiles([1.0, 2.0, 3.0, 4.0, 5.0])[1:]
    (3.0, 4.8, 4.96)
    """
    if not values:
        raise ValueError("no values")
    ordered = sorted(values)

    def at(share: float) -> float:
        place = share * (len(ordered) - 1)
        low = int(place)
        high = min(low + 1, len(ordered) - 1)
        return ordered[low] + (place - low) * (ordered[high] - ordered[low])

    return Percentiles(_mean(ordered), at(0.5), at(0.95), at(0.99))
