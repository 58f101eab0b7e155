"""First requests to a started server, for curl and for Python, one for each mode of the model."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from moeplan.launch.deployment import Deployment
    from planner.plan import ChatMode

QUESTION: Final = "Why is the sky blue? Two sentences."
ANSWER_TOKENS: Final = 1024


def request_body(deployment: Deployment, mode: ChatMode | None) -> dict[str, Any]:
    """The body of a chat completion; what chooses the mode goes to the model's chat template."""
    body: dict[str, Any] = {
        "model": deployment.serving.served_name,
        "messages": [{"role": "user", "content": QUESTION}],
        "max_tokens": ANSWER_TOKENS,
    }
    if mode is not None:
        body["temperature"] = mode.temperature
        if mode.top_p is not None:
            body["top_p"] = mode.top_p
        if mode.chat_template_kwargs:
            body["chat_template_kwargs"] = mode.chat_template_kwargs
    return body


def curl_lines(deployment: Deployment, mode: ChatMode | None, base: str) -> Iterator[str]:
    """A request as shell text. The key, if any, comes from the variable that the server reads it from."""
    yield f"curl --silent --show-error {base}/v1/chat/completions \\"
    yield "  -H 'Content-Type: application/json' \\"
    yield f'  -H "Authorization: Bearer ${{{deployment.serving.api_key_variable}:-none}}" \\'
    yield f"  -d {shlex.quote(json.dumps(request_body(deployment, mode)))}"


def python_lines(deployment: Deployment, mode: ChatMode | None, base: str) -> Iterator[str]:
    """The same with the `openai` package, whose own fields do not hold the template's."""
    body = request_body(deployment, mode)
    extra = {name: body.pop(name) for name in ("chat_template_kwargs",) if name in body}
    yield "import os"
    yield ""
    yield "from openai import OpenAI"
    yield ""
    yield "client = OpenAI("
    yield f'    base_url="{base}/v1",'
    yield f'    api_key=os.environ.get("{deployment.serving.api_key_variable}", "none"),'
    yield ")"
    yield "answer = client.chat.completions.create("
    for name, value in body.items():
        yield f"    {name}={python_text(value)},"
    if extra:
        yield f"    extra_body={python_text(extra)},"
    yield ")"
    yield "message = answer.choices[0].message"
    yield "print(message.content)"


def python_text(value: object) -> str:
    """The value as Python text, in double quotes.

    >>> print(python_text({"thinking": [True, "it's"]}))
    {"thinking": [True, "it's"]}
    """
    if isinstance(value, dict):
        return "{" + ", ".join(f"{python_text(key)}: {python_text(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(python_text(each) for each in value) + "]"
    return json.dumps(value) if isinstance(value, str) else repr(value)
