"""Whether a server answers in the modes a model has and reads its tool calls: one short request each.

A model that stays silent or calls nothing proves nothing: only what the answer shows is judged.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final, Literal, NamedTuple

from hwdetect.serving.client import Broken, Server, Unreachable, post_json
from hwdetect.serving.load import CHAT

QUESTION: Final = "What is 17 times 3? Answer with the number."
ANSWER_TOKENS: Final = 256
RAW_MARKS: Final = ("<think>", "</think>", "<|tool_call", "<tool_call>", "<|tool_calls_section_begin|>")
"""What stands in the content when no parser took it out (chat templates of Kimi, DeepSeek and Qwen)."""
TOOL: Final[dict[str, Any]] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city now.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}

Status = Literal["pass", "warn", "fail", "not_run"]


class ModeCheck(NamedTuple):
    """What one request showed."""

    name: str
    status: Status
    evidence: str
    action: str


def check_mode(server: Server, model: str, mode: str, switches: Mapping[str, bool], timeout_s: float) -> ModeCheck:
    """Reasoning apart from the answer where the mode is ``thinking``, and none of it in every other mode."""
    body: dict[str, Any] = {
        "model": model, "messages": [{"role": "user", "content": QUESTION}], "max_tokens": ANSWER_TOKENS,
    }  # fmt: skip
    if switches:
        body["chat_template_kwargs"] = dict(switches)
    name = f"{mode} mode"
    message = _message_of(server, body, timeout_s)
    if isinstance(message, str):
        return ModeCheck(name, "fail", message, "start the server with the plan's command")
    content = message.get("content") or ""
    reasoning = message.get("reasoning_content") or message.get("reasoning") or ""
    mark = next((mark for mark in RAW_MARKS if mark in str(content)), None)
    if mark is not None:
        return ModeCheck(
            name, "fail", f"{mark} stands in the content: no parser separates the reasoning",
            "start the engine with its reasoning parser (--reasoning-parser)",
        )  # fmt: skip
    if mode == "thinking":
        if reasoning:
            return ModeCheck(name, "pass", "reasoning comes apart from the content", "")
        return ModeCheck(name, "warn", "no reasoning came: the answer does not show whether it is parsed", "")
    if reasoning:
        return ModeCheck(
            name, "fail", f"reasoning came although {json.dumps(dict(switches))} turns it off",
            "check that the engine hands chat_template_kwargs to the template",
        )  # fmt: skip
    return ModeCheck(name, "pass", "no reasoning came", "")


def check_tools(server: Server, model: str, timeout_s: float) -> ModeCheck:
    """Whether a call of a tool comes as ``tool_calls`` with arguments that are JSON."""
    name = "tool calls"
    body = {
        "model": model, "max_tokens": ANSWER_TOKENS, "tools": [TOOL], "tool_choice": "auto",
        "messages": [{"role": "user", "content": "What is the weather in Paris now? Use the tool."}],
    }  # fmt: skip
    message = _message_of(server, body, timeout_s)
    action = "start the engine with its tool-call parser (--enable-auto-tool-choice --tool-call-parser; --jinja)"
    if isinstance(message, str):
        return ModeCheck(name, "fail", message, action)
    calls = message.get("tool_calls")
    if isinstance(calls, list) and calls:
        function = calls[0].get("function") if isinstance(calls[0], dict) else None
        try:
            arguments = json.loads(function["arguments"]) if isinstance(function, dict) else None
        except (KeyError, TypeError, ValueError, RecursionError):
            arguments = None
        if isinstance(arguments, dict):
            return ModeCheck(name, "pass", "a call came with arguments that are JSON", "")
        return ModeCheck(name, "fail", "a call came whose arguments are no JSON object", action)
    content = str(message.get("content") or "")
    mark = next((mark for mark in RAW_MARKS if mark in content), None)
    if mark is not None:
        return ModeCheck(name, "fail", f"{mark} stands in the content: no parser reads the call", action)
    return ModeCheck(name, "warn", "the model called no tool: the answer does not show whether calls are read", "")


def _message_of(server: Server, body: dict[str, Any], timeout_s: float) -> dict[str, Any] | str:
    """The message of the first choice, or why there is none."""
    try:
        answer = post_json(server, CHAT, body, timeout_s)
    except (Broken, Unreachable) as error:
        return str(error)
    choices = answer.get("choices") if isinstance(answer, dict) else None
    first = choices[0] if isinstance(choices, list) and choices else None
    message = first.get("message") if isinstance(first, dict) else None
    return message if isinstance(message, dict) else "the answer holds no message"
