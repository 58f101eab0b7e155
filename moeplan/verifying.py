"""From an address and a plan to a comparison: reads the endpoint, loads it within bounds, prices the same load."""

from __future__ import annotations

import itertools
import json
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from hwdetect.inventory import from_json
from hwdetect.serving.client import BadAddress, Broken, Server, Unreachable, server_at
from hwdetect.serving.endpoint import Endpoint, read_endpoint
from hwdetect.serving.load import Step, Work, run_step, words_for
from hwdetect.serving.modes import ModeCheck, check_mode, check_tools
from moeplan.calibration import fingerprint, now, store_load
from moeplan.calibrations import AUTO, NONE, place_of
from moeplan.pipeline import GENERATED_BY, read_model
from moeplan.text_safe import printable
from planner.build import build_request
from planner.errors import BadRequest, Undetermined
from planner.hardware import machine_of
from planner.loads import served_as
from planner.options import Options
from planner.plan import Candidate, Plan
from planner.search import search
from planner.speed import Speed
from planner.verify import Expected, compare, expected_of, kv_tokens_of, load_step, planned_speed, verdict_of
from planner.verify_report import VERIFY_SCHEMA, Check, EndpointRef, LoadStep, MeasuredLoad, VerifyReport

KEY_VARIABLES: Final = ("MOEPLAN_API_KEY", "VLLM_API_KEY", "OPENAI_API_KEY")
"""Where a key may stand; it goes to the address given and nowhere else."""
KNOWN_ENGINES: Final = ("vllm", "sglang", "llama.cpp")
"""Engines whose requests take ``ignore_eos``."""
MAX_CONCURRENCY: Final = 256


@dataclass(frozen=True, slots=True)
class Limits:
    """What a verification may cost the server: seconds in all and for one request, requests, tokens of an answer."""

    total_s: float = 300.0
    request_s: float = 120.0
    requests: int = 64
    output_tokens: int = 128


def verify(
    url: str,
    plan: Plan,
    candidate: Candidate,
    *,
    model: str | None = None,
    limits: Limits | None = None,
    concurrencies: tuple[int, ...] = (),
    calibration: str = AUTO,
    progress: Callable[[int, int], None] | None = None,
) -> VerifyReport:
    """The report. Raises ``BadRequest`` for a bad address, ``Undetermined`` where no server answers as one."""
    limits = limits or Limits()
    started = time.monotonic()
    deadline = started + limits.total_s
    server = _server(url)
    try:
        endpoint = read_endpoint(server)
    except Unreachable as error:
        raise Undetermined(f"nothing answers at {printable(str(error))}") from None
    except Broken as error:
        raise Undetermined(f"{server.url}/v1/models: {printable(str(error))}") from None
    notes = [*endpoint.notes]
    asked = _model(endpoint, plan, model, notes)
    sent = itertools.count()
    lock = threading.Lock()
    steps: list[LoadStep] = []
    wanted = concurrencies or _steps(plan.workload.concurrency, limits.requests)
    shares = _requests(wanted, limits.requests)
    total = sum(shares)

    def number() -> int:
        return next(sent)

    done = 0

    def one_more() -> None:
        nonlocal done
        with lock:
            done += 1
            if progress is not None:
                progress(done, total)

    work = _work(server, asked, plan, endpoint, limits, notes)
    if work is not None:
        for concurrency, requests in zip(wanted, shares, strict=True):
            if time.monotonic() >= deadline:
                notes.append(f"the time was up before {concurrency} requests at a time were tried")
                break
            sent_step = run_step(server, work, concurrency, requests, deadline, number, one_more)
            step = load_step(sent_step)
            notes += _unseen(sent_step)
            steps.append(step)
            if step.failed == step.requests:
                notes.append(f"no request at {concurrency} at a time succeeded: larger loads were not tried")
                break
    checks = _checks(server, asked, candidate, limits, deadline)
    loads = _known_loads(plan, candidate, calibration, notes)
    pairs = [(step, _expected(plan, candidate, step, loads, notes)) for step in steps]
    rows = compare(plan, candidate, endpoint, pairs)
    kv_tokens, kv_source = kv_tokens_of(candidate, endpoint)
    verdict, differs = verdict_of(rows, steps, checks)
    report = VerifyReport(
        schema=VERIFY_SCHEMA,
        generated_by=GENERATED_BY,
        measured_at=now(),
        plan_candidate=f"{candidate.engine.name} {candidate.engine.version}, {candidate.quantization.publisher}/"
        f"{candidate.quantization.name}",
        endpoint=EndpointRef(
            url=server.url,
            models=endpoint.models,
            asked_model=asked,
            engine=endpoint.engine,
            version=endpoint.version,
            max_model_len=endpoint.max_model_len,
            kv_tokens=kv_tokens,
            kv_source=kv_source,
            answered=endpoint.answered,
        ),
        steps=tuple(steps),
        compared=rows,
        checks=checks,
        verdict=verdict,  # type: ignore[arg-type]
        differs_in=differs,
        requests=sum(step.requests for step in steps),
        wall_s=time.monotonic() - started,
        notes=tuple(dict.fromkeys(notes)),
    )
    return _stored(report, plan, candidate, calibration)


def _unseen(step: Step) -> list[str]:
    """A note where answers were counted by the server but had no visible text, and so no times."""
    unseen = sum(not sample.error and sample.ttft_s is None for sample in step.samples)
    if not unseen:
        return []
    return [
        f"{unseen} of {len(step.samples)} answers at {step.concurrency} at a time had no visible text: "
        "they count as served, without times"
    ]


def _server(url: str) -> Server:
    key = next((os.environ[name] for name in KEY_VARIABLES if os.environ.get(name)), None)
    try:
        return server_at(url, key)
    except BadAddress as error:
        raise BadRequest(f"URL: {error}") from None


def _model(endpoint: Endpoint, plan: Plan, given: str | None, notes: list[str]) -> str:
    """The name to ask for: the one given, the plan's, or the only one there is. Raises ``BadRequest``."""
    if given is not None:
        return given
    served = [name for name in endpoint.models if name in (plan.model.id, plan.model.repository, plan.model.name)]
    if served:
        return served[0]
    if not endpoint.models:
        raise Undetermined("the server lists no model")
    if len(endpoint.models) > 1:
        listed = ", ".join(printable(name) for name in endpoint.models[:5])
        raise BadRequest(f"--model: the server has several: {listed}")
    notes.append(f"the server's only model, {printable(endpoint.models[0])}, is taken for {plan.model.id}")
    return endpoint.models[0]


def _steps(concurrency: int, requests: int) -> tuple[int, ...]:
    """One request, a quarter of the plan's, and the plan's, as far as twice as many requests are allowed."""
    largest = max(1, min(concurrency, requests // 2, MAX_CONCURRENCY))
    return tuple(dict.fromkeys((1, max(1, largest // 4), largest)))


def _requests(steps: tuple[int, ...], most: int) -> list[int]:
    """Requests of each step: twice its concurrency, three at least, the last steps cut to what is left."""
    shares, left = [], most
    for number, concurrency in enumerate(steps):
        later = sum(steps[number + 1 :])
        share = max(1, min(max(3, 2 * concurrency), left - later))
        shares.append(share)
        left -= share
    return shares


def _work(server: Server, model: str, plan: Plan, endpoint: Endpoint, limits: Limits, notes: list[str]) -> Work | None:
    """What every request sends: the plan's prompt length, and its answer as far as allowed."""
    output = min(plan.workload.output_tokens, limits.output_tokens)
    if output < plan.workload.output_tokens:
        notes.append(f"answers are {output:,} tokens long, not {plan.workload.output_tokens:,}: see --output-tokens")
    prompt = plan.workload.input_tokens
    if endpoint.max_model_len is not None and prompt + output > endpoint.max_model_len:
        prompt = max(1, endpoint.max_model_len - output - 1)
        notes.append(f"prompts are cut to {prompt:,} tokens: the server takes {endpoint.max_model_len:,} in all")
    try:
        words, fixed = words_for(server, model, prompt, limits.request_s)
    except (Broken, Unreachable) as error:
        notes.append(f"no load was sent: {printable(str(error))}")
        return None
    if fixed > prompt:
        notes.append(f"the chat template alone takes {fixed:,} tokens")
    return Work(model, words, output, endpoint.engine in KNOWN_ENGINES, limits.request_s)


def _checks(server: Server, model: str, candidate: Candidate, limits: Limits, deadline: float) -> tuple[Check, ...]:
    found = []
    for mode, switches in _modes(candidate).items():
        left = min(limits.request_s, deadline - time.monotonic())
        found.append(check_mode(server, model, mode, switches, left) if left > 0 else _late(f"{mode} mode"))
    left = min(limits.request_s, deadline - time.monotonic())
    found.append(check_tools(server, model, left) if left > 0 else _late("tool calls"))
    return tuple([Check(**check._asdict()) for check in found])


def _late(name: str) -> ModeCheck:
    return ModeCheck(name, "not_run", "the time was up", "allow more with --max-time")


def _modes(candidate: Candidate) -> Mapping[str, Mapping[str, bool]]:
    """Modes that the plan names, each with what chooses it in the chat template; a plan may name none."""
    serving = candidate.launch.serving
    return {mode.mode: mode.chat_template_kwargs for mode in serving.chat} if serving is not None else {}


def _known_loads(plan: Plan, candidate: Candidate, choice: str, notes: list[str]) -> tuple[MeasuredLoad, ...]:
    """Earlier loads, where the plan rests on some: what it is held against must rest on them too."""
    if "verify" not in candidate.performance.evidence:
        return ()
    from moeplan.calibrating import measured_loads

    local = candidate.quantization.publisher == "local"
    try:
        options = Options(plan.model.id, engine=candidate.engine.name, engine_version=candidate.engine.version,
                          calibration=choice)  # fmt: skip
        spec = read_model(candidate.quantization.release if local else plan.model.id)
        # The plan's hardware is named by the file, as it is where a plan's inventory is read from one.
        loads, _ = measured_loads(options, spec, from_json(json.dumps(plan.inventory)), "file")
    except (BadRequest, Undetermined) as error:
        notes.append(f"what was verified earlier is not compared with: {printable(str(error))[:200]}")
        return ()
    if not loads:
        notes.append("the plan rests on an earlier verification that is not in --calibration: compared without it")
    return loads


def _expected(
    plan: Plan, candidate: Candidate, step: LoadStep, loads: tuple[MeasuredLoad, ...], notes: list[str]
) -> Expected | None:
    """The prediction for the measured load, by the search that made the plan; else the plan's own at its own load."""
    if step.output_tokens is None or step.failed == step.requests:
        return None
    prompt = round(step.input_tokens) if step.input_tokens else plan.workload.input_tokens
    output = max(1, round(step.output_tokens))
    try:
        speed = _priced(plan, candidate, step.concurrency, prompt, output, loads)
    except (BadRequest, Undetermined, ValueError) as error:
        notes.append(f"the measured load could not be priced: {printable(str(error))[:200]}")
        speed = None
    else:
        if speed is None:
            notes.append("the search does not find the plan's configuration again under the measured load")
    if speed is not None:
        return expected_of(speed, f"{step.concurrency} at a time of {prompt:,} + {output:,} tokens")
    if step.concurrency == plan.workload.concurrency:
        return planned_speed(candidate, "the plan's own load")
    return None


def _priced(
    plan: Plan, candidate: Candidate, concurrency: int, prompt: int, output: int, loads: tuple[MeasuredLoad, ...]
) -> Speed | None:
    """Speed of the candidate's configuration under another load; None where the search does not find it again."""
    local = candidate.quantization.publisher == "local"
    ranks: dict[str, Any] = {}
    if candidate.engine.name != "llama.cpp":
        ranks = {name: str(ways) for name, ways in candidate.parallel.model_dump().items()}
    options = Options(
        plan.model.id,
        context=str(max(plan.workload.context, prompt + output)),
        concurrency=str(concurrency),
        input_tokens=str(prompt),
        output_tokens=str(output),
        engine=candidate.engine.name,
        engine_version=candidate.engine.version,
        # A file of the user's has one quantization, its own.
        quant=None if local else f"{candidate.quantization.publisher}/{candidate.quantization.name}",
        kv_dtype=candidate.kv_cache.dtype,
        **ranks,
    )
    spec = read_model(candidate.quantization.release if local else plan.model.id)
    machine = machine_of(from_json(json.dumps(plan.inventory)), plan.hardware.source)
    wanted = candidate.offload.cpu_expert_layers, candidate.offload.gpu_experts_per_layer
    request = replace(build_request(options, spec, machine, exact=False), loads=loads)
    found = [
        one
        for one in search(request).found
        if (one.priced.config.cpu_expert_layers, one.priced.config.gpu_experts_per_layer) == wanted
    ]
    return min(found, key=lambda one: one.speed.tpot_s[1]).speed if found else None


def _other_length(report: VerifyReport, plan: Plan) -> bool:
    """Whether the server was started with another context than planned, and so with other arguments."""
    return report.endpoint.max_model_len not in (None, plan.workload.context)


def _stored(report: VerifyReport, plan: Plan, candidate: Candidate, choice: str) -> VerifyReport:
    """The measurement kept as a section of the machine's calibration. Raises ``BadRequest`` for a file given."""
    if choice == NONE or not report.steps or all(step.failed == step.requests for step in report.steps):
        return report
    running = report.endpoint.engine
    if running not in (None, candidate.engine.name):
        said = f"not kept for later plans: {running} answered, and the plan is for {candidate.engine.name}"
        return report.model_copy(update={"notes": (*report.notes, said)})
    inventory = from_json(json.dumps(plan.inventory))
    machine = fingerprint(inventory)
    path = place_of(choice, machine)
    assert path is not None
    measured = MeasuredLoad(
        measured_at=report.measured_at,
        engine=report.endpoint.engine or candidate.engine.name,
        engine_version=report.endpoint.version or candidate.engine.version,
        model=plan.model.id,
        quantization=f"{candidate.quantization.publisher}/{candidate.quantization.name}",
        parallel=candidate.parallel,
        kv_tokens=None if _other_length(report, plan) else report.endpoint.kv_tokens,
        steps=report.steps,
        planned_version=candidate.engine.version,
        served=served_as(candidate),
    )
    try:
        store_load(
            Path(path), measured, machine=machine, description=plan.hardware.description, generated_by=GENERATED_BY,
            make_folder=choice == AUTO,
        )  # fmt: skip
    except BadRequest as error:
        if choice != AUTO:
            raise
        return report.model_copy(update={"notes": (*report.notes, f"not stored: {error}")})
    notes = report.notes
    if plan.hardware.source == "flags":
        notes = (*notes, f"the plan's machine was described: plan again with --calibration {path} to use this")
    return report.model_copy(update={"calibration": str(path), "notes": notes})
