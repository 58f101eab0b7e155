"""A bounded load on a running server: streamed chat completions, so many at a time, and what they took.

A prompt begins with its own number, so that no prefix cache answers for an earlier one. Tokens are those that the
server counts; where it counts none, the pieces of the stream.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from math import ceil
from typing import Any, Final, NamedTuple, TypeGuard

from hwdetect.serving.client import Broken, Server, Unreachable, post_events, post_json

CHAT: Final = "/v1/chat/completions"
WORD: Final = "alpha "
PROBE_SHARE: Final = 8
"""A word has one to some tokens: an eighth as many words as tokens are wanted is within the context."""
MOST_PROBE_WORDS: Final = 200
LEAST_GAPS: Final = 2
"""A time per token needs so many gaps between tokens."""


class Sample(NamedTuple):
    """One request: seconds to the first visible token and to the last, tokens in and out; ``error`` where it failed.

    ``ttft_s`` is None too where the server counted tokens of which none has a visible text (control tokens, bytes that
    make no character): the request was served, only its times are not known.
    """

    started_s: float
    ttft_s: float | None
    total_s: float
    input_tokens: int | None
    output_tokens: int
    counted: bool
    error: str

    @property
    def tpot_s(self) -> float | None:
        """Time between tokens, from the first to the last."""
        if self.error or self.ttft_s is None or self.output_tokens <= LEAST_GAPS:
            return None
        return (self.total_s - self.ttft_s) / (self.output_tokens - 1)


class Work(NamedTuple):
    """What a request sends. ``words`` make about ``input_tokens``."""

    model: str
    words: int
    output_tokens: int
    ignore_end: bool
    timeout_s: float


class Step(NamedTuple):
    """All requests at one concurrency. ``wall_s`` from the first start to the last end."""

    concurrency: int
    samples: tuple[Sample, ...]
    wall_s: float


def words_for(server: Server, model: str, input_tokens: int, timeout_s: float) -> tuple[int, int]:
    """How many words make so many tokens, and how many tokens the template adds, by two prompts that the server counts.

    Raises ``Broken`` where it does not count, ``Unreachable`` where it does not answer.
    """
    counts = []
    more = max(2, min(MOST_PROBE_WORDS, input_tokens // PROBE_SHARE))
    for words in (1, more + 1):
        body = {"model": model, "messages": [_message(0, words)], "max_tokens": 1}
        answer = post_json(server, CHAT, body, timeout_s)
        usage = answer.get("usage") if isinstance(answer, dict) else None
        tokens = usage.get("prompt_tokens") if isinstance(usage, dict) else None
        if not isinstance(tokens, int) or isinstance(tokens, bool) or tokens < 1:
            raise Broken("wrong JSON", "the answer does not say how many tokens the prompt had (usage.prompt_tokens)")
        counts.append(tokens)
    each = (counts[1] - counts[0]) / more
    if each <= 0:
        raise Broken("wrong JSON", "usage.prompt_tokens does not grow with the prompt")
    fixed = counts[0] - each
    return max(1, round((input_tokens - fixed) / each)), ceil(fixed)


def run_step(
    server: Server,
    work: Work,
    concurrency: int,
    requests: int,
    deadline: float,
    number: Callable[[], int],
    progress: Callable[[], None],
) -> Step:
    """``requests`` requests, ``concurrency`` at a time, none started after ``deadline`` (of ``time.monotonic``)."""
    lock = threading.Lock()
    left = requests
    samples: list[Sample] = []
    started = time.monotonic()

    def worker() -> None:
        nonlocal left
        while True:
            with lock:
                if left <= 0 or time.monotonic() >= deadline:
                    return
                left -= 1
                mine = number()
            sample = ask(server, work, mine, deadline, started)
            with lock:
                samples.append(sample)
                progress()

    with ThreadPoolExecutor(concurrency) as pool:
        for future in [pool.submit(worker) for _ in range(concurrency)]:
            future.result()
    return Step(concurrency, tuple(samples), time.monotonic() - started)


def ask(server: Server, work: Work, number: int, deadline: float, epoch: float) -> Sample:
    """One streamed request; whatever goes wrong with it is in the sample."""
    body: dict[str, Any] = {
        "model": work.model,
        "messages": [_message(number, work.words)],
        "max_tokens": work.output_tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if work.ignore_end:
        body["ignore_eos"] = True
    begun = time.monotonic()
    first: float | None = None
    last = begun
    pieces, counted, prompt, finished = 0, None, None, False
    error = ""
    try:
        allowed = max(0.1, min(work.timeout_s, deadline - begun))
        with closing(post_events(server, CHAT, body, allowed)) as events:
            for text in events:
                if text == "[DONE]":
                    finished = True
                    break
                event = _event(text)
                if _has_token(event):
                    last = time.monotonic()
                    first = first if first is not None else last
                    pieces += 1
                usage = event.get("usage")
                if isinstance(usage, dict):
                    counted, prompt = usage.get("completion_tokens"), usage.get("prompt_tokens")
        if not finished:
            error = "cut off"
        elif first is None:
            last = time.monotonic()
            error = "" if _is_count(counted) else "no token"
    except Broken as broken:
        error = broken.kind
    except Unreachable:
        error = "unreachable"
    known = _is_count(counted)
    return Sample(
        begun - epoch,
        None if first is None else first - begun,
        last - begun,
        prompt if isinstance(prompt, int) else None,
        counted if _is_count(counted) else pieces,
        known,
        error,
    )


def percentile(values: list[float], share: float) -> float:
    """The value below which ``share`` of them lie, by the nearest rank. Raises ``ValueError`` for none.

    >>> percentile([4.0, 1.0, 3.0, 2.0], 0.5), percentile([4.0, 1.0, 3.0, 2.0], 0.95)
    (2.0, 4.0)
    """
    if not values:
        raise ValueError("no values")
    return sorted(values)[max(0, ceil(share * len(values)) - 1)]


def errors_of(step: Step) -> dict[str, int]:
    """How many requests failed in which way."""
    return dict(Counter(sample.error for sample in step.samples if sample.error))


def _is_count(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _message(number: int, words: int) -> dict[str, str]:
    return {"role": "user", "content": f"{number:08d} {WORD * words}"}


def _event(text: str) -> dict[str, Any]:
    try:
        value: Any = json.loads(text)
    except (ValueError, RecursionError):
        raise Broken("wrong JSON", "an event of the stream is not JSON") from None
    if not isinstance(value, dict):
        raise Broken("wrong JSON", "an event of the stream is no object")
    if "error" in value:
        raise Broken("error event", str(value["error"])[:160])
    return value


def _has_token(event: dict[str, Any]) -> bool:
    choices = event.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    delta = first.get("delta") if isinstance(first, dict) else None
    if not isinstance(delta, dict):
        return False
    return any(delta.get(name) for name in ("content", "reasoning_content", "reasoning", "tool_calls"))
