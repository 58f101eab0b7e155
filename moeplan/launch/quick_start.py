"""``ask.sh`` and ``ask.py``: first requests to the deployment, and to the hosted APIs of the same model beside it.

Every mode, a stream, a call of a tool and, where pictures are served, a picture. Keys come from the environment, and
none is written into a file or onto a command line.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from moeplan.launch.requests import ANSWER_TOKENS, QUESTION, python_text
from moeplan.text_safe import printable

if TYPE_CHECKING:
    from moeplan.launch.deployment import Deployment

SHELL: Final = "ask.sh"
PYTHON: Final = "ask.py"
LOCAL: Final = "local"
WEATHER: Final = "What is the weather in Paris now? Use the tool."
TOOL: Final[dict[str, Any]] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city now.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
LOOK: Final = "What is in this picture? One sentence."
PICTURE: Final = (
    "data:image/png;base64,"
    "iVBORw0KGgoAAAANSUhEUgAAAHAAAABwCAIAAABJgmMcAAAApUlEQVR42u3QMQ0AAAgDsEmZfzVIwgQfTaqgmZZDUSBUqFCE"
    "ChWKUKFCESpUqFCEChWKUKFCESpUKEKFChWKUKFCESpUKEKFCkWoUKFCESpUKEKFCkWoUKEIFSpUKEKFCkWoUKEIFSpUKEKF"
    "CkWoUKEIFSoUoUKFCkWoUKEIFSoUoUKFIlSoUKEIFSoUoUKFIlSoUIQKFSoUoUKFIlSoUIQKFfrbArRSEw2QafrjAAAAAElF"
    "TkSuQmCC"
)
"""A red square, large enough for a vision tower."""


class Endpoint(NamedTuple):
    """Somewhere to ask. ``needs_key``: without one nothing is sent. ``modes`` are what each adds to a request."""

    name: str
    about: str
    base_url: str
    key_variable: str
    needs_key: bool
    model: str
    images: bool
    modes: Mapping[str, Mapping[str, Any]]
    remark: str = ""

    @property
    def base_variable(self) -> str:
        """The variable that moves it elsewhere, such as to a provider's other region."""
        return f"{self.name.upper()}_BASE_URL"


def quick_start(deployment: Deployment, base: str) -> dict[str, str]:
    """Both files by name."""
    ends = endpoints(deployment, base)
    title = f"{deployment.plan.model.name} over its OpenAI-compatible API"
    return {
        SHELL: "\n".join(_shell(printable(title), ends)) + "\n",
        PYTHON: "\n".join(_python_head(printable(title), ends)) + "\n" + _PYTHON_PROGRAM,
    }


def endpoints(deployment: Deployment, base: str) -> tuple[Endpoint, ...]:
    """The deployment, then the hosted APIs of its model whose address is known."""
    from profiles.hosted import hosted_apis

    serving = deployment.serving
    modes: dict[str, dict[str, Any]] = {}
    for mode in serving.chat:
        sampling = {
            "temperature": mode.temperature,
            "top_p": mode.top_p,
            "chat_template_kwargs": mode.chat_template_kwargs,
        }
        modes[mode.mode] = {name: value for name, value in sampling.items() if value not in (None, {})}
    here = Endpoint(
        LOCAL, "this deployment", f"{base}/v1", serving.api_key_variable, False, serving.served_name, serving.images,
        modes or {"default": {}},
    )  # fmt: skip
    hosted = [
        Endpoint(
            one.name, one.provider, one.base_url, one.key_variable, True, one.asked_model, one.images,
            {mode.name: mode.extra for mode in one.modes}, _remark(one.ends, one.note),
        )
        for one in hosted_apis(deployment.plan.model.id)
    ]  # fmt: skip
    return (here, *hosted)


def _remark(ends: str | None, note: str) -> str:
    return "; ".join(text for text in (f"reported to end on {ends}" if ends else "", note) if text)


def _bodies(end: Endpoint) -> Iterator[tuple[str, dict[str, Any]]]:
    """What is asked by name; of several modes the first is the model's default."""
    first = next(iter(end.modes.values()))

    def body(question: object, extra: Mapping[str, Any], **more: object) -> dict[str, Any]:
        messages = [{"role": "user", "content": question}]
        return {"model": end.model, "messages": messages, "max_tokens": ANSWER_TOKENS, **extra, **more}

    for name, extra in end.modes.items():
        yield name, body(QUESTION, extra)
    yield "stream", body(QUESTION, first, stream=True, stream_options={"include_usage": True})
    yield "tools", body(WEATHER, first, tools=[TOOL], tool_choice="auto")
    if end.images:
        picture = {"type": "image_url", "image_url": {"url": _PLACE}}
        yield "image", body([{"type": "text", "text": LOOK}, picture], first)


_PLACE: Final = "PICTURE-GOES-HERE"


def _usage(ends: tuple[Endpoint, ...], program: str) -> Iterator[str]:
    whats = dict.fromkeys(what for end in ends for what, _ in _bodies(end))
    yield f"#   {program} [WHERE] [WHAT] [PICTURE]"
    for end in ends:
        key = f"needs {end.key_variable}" if end.needs_key else f"sends {end.key_variable} where it is set"
        about = "; ".join(text for text in (f"{printable(end.about)}, {key}", printable(end.remark)) if text)
        yield f"# WHERE  {end.name}: {about}"
    yield f"# WHAT   {', '.join(whats)}"
    if "image" in whats:
        yield "# PICTURE is a file; a red square without one."
    yield "# NAME_BASE_URL moves an address, as LOCAL_BASE_URL does that of the deployment."


def _shell(title: str, ends: tuple[Endpoint, ...]) -> Iterator[str]:
    yield "#!/usr/bin/env bash"
    yield f"# {title}:"
    yield from _usage(ends, f"./{SHELL}")
    first = next(iter(ends[0].modes))
    yield "set -euo pipefail"
    yield ""
    yield f"where=${{1:-{LOCAL}}}"
    yield f"what=${{2:-{'' if len(ends) > 1 else first}}}"
    yield ""
    yield 'case "$where" in'
    for end in ends:
        yield f"  {end.name})"
        yield f"    base=${{{end.base_variable}:-{end.base_url}}}"
        if end.needs_key:
            yield f'    key=${{{end.key_variable}:?"set it to a key of this provider"}}'
        else:
            yield f"    key=${{{end.key_variable}:-none}}"
        if len(ends) > 1:
            yield f"    what=${{what:-{next(iter(end.modes))}}}"
        yield "    ;;"
    yield "  *)"
    yield f'    echo "ask.sh: $where is not among: {" ".join(end.name for end in ends)}" >&2'
    yield "    exit 2"
    yield "    ;;"
    yield "esac"
    yield ""
    if any(end.images for end in ends):
        yield from _picture()
    yield "# The body of the request, in two parts around a picture."
    yield "after="
    yield 'case "$where $what" in'
    for end in ends:
        for what, body in _bodies(end):
            before, place, after = json.dumps(body).partition(_PLACE)
            yield f"  {shlex.quote(f'{end.name} {what}')})"
            yield f"    before={shlex.quote(before)}"
            if place:
                yield '    before+="$picture"'
                yield f"    after={shlex.quote(after)}"
            yield "    ;;"
    yield "  *)"
    yield '    echo "ask.sh: $where has no request named $what; the head of this file lists them" >&2'
    yield "    exit 2"
    yield "    ;;"
    yield "esac"
    yield ""
    yield "# The key goes through a descriptor: arguments show in the list of processes."
    yield 'printf \'%s%s\' "$before" "$after" |'
    yield "  curl --silent --show-error --fail-with-body --no-buffer \\"
    yield "    -H 'Content-Type: application/json' -H @<(printf 'Authorization: Bearer %s\\n' \"$key\") \\"
    yield '    --data-binary @- "$base/chat/completions"'
    yield "echo"


def _picture() -> Iterator[str]:
    yield f"picture={shlex.quote(PICTURE)}"
    yield "file=${3:-}"
    yield 'if [[ -n "$file" ]]; then'
    yield '  case "$file" in'
    yield "    *.jpg | *.jpeg | *.JPG) kind=image/jpeg ;;"
    yield "    *.webp) kind=image/webp ;;"
    yield "    *) kind=image/png ;;"
    yield "  esac"
    yield '  picture="data:$kind;base64,$(base64 <"$file" | tr -d \'\\n\')"'
    yield "fi"
    yield ""


def _python_head(title: str, ends: tuple[Endpoint, ...]) -> Iterator[str]:
    yield f"# {title}; needs `pip install openai`:"
    yield from _usage(ends, f"python3 {PYTHON}")
    yield "import base64"
    yield "import json"
    yield "import mimetypes"
    yield "import os"
    yield "import sys"
    yield ""
    yield "from openai import OpenAI, OpenAIError"
    yield ""
    yield "ENDPOINTS = {"
    for end in ends:
        yield f"    {python_text(end.name)}: {{"
        for name in ("base_variable", "base_url", "key_variable", "needs_key", "model", "images"):
            yield f"        {python_text(name)}: {python_text(getattr(end, name))},"
        yield '        "modes": {'
        for mode, extra in end.modes.items():
            yield f"            {python_text(mode)}: {python_text(dict(extra))},"
        yield "        },"
        yield "    },"
    yield "}"
    yield f"QUESTION = {python_text(QUESTION)}"
    yield f"WEATHER = {python_text(WEATHER)}"
    yield f"LOOK = {python_text(LOOK)}"
    yield f"ANSWER_TOKENS = {ANSWER_TOKENS}"
    yield f"TOOLS = [{python_text(TOOL)}]"
    yield f"PICTURE = {python_text(PICTURE)}"


_PYTHON_PROGRAM: Final = '''

def ask(client, about, mode, messages, **more):
    """A chat completion; what the package has no fields for goes into extra_body."""
    return client.chat.completions.create(
        model=about["model"],
        messages=messages,
        max_tokens=ANSWER_TOKENS,
        extra_body=about["modes"][mode],
        **more,
    )


def thoughts(message):
    """`reasoning_content`, which newer engines call `reasoning`; the package has a field for neither."""
    return getattr(message, "reasoning_content", None) or getattr(message, "reasoning", None) or ""


def show(message):
    if thoughts(message):
        print(f"thoughts: {thoughts(message)}")
    print(f"answer: {message.content or ''}")


def stream(client, about, mode):
    """Thoughts come before the answer, piece by piece; the last piece has the counts and no choice."""
    options = {"include_usage": True}
    usage = None
    for piece in ask(client, about, mode, [user(QUESTION)], stream=True, stream_options=options):
        usage = piece.usage or usage
        for choice in piece.choices:
            print(thoughts(choice.delta) or choice.delta.content or "", end="", flush=True)
    print()
    if usage:
        print(f"tokens: {usage.prompt_tokens} in, {usage.completion_tokens} out")


def tools(client, about, mode):
    """The model calls a tool, this program answers, the model goes on. The thoughts are sent back with the call."""
    messages = [user(WEATHER)]
    message = ask(client, about, mode, messages, tools=TOOLS, tool_choice="auto").choices[0].message
    messages.append(message.model_dump(exclude_none=True))
    for call in message.tool_calls or ():
        print(f"call: {call.function.name}({call.function.arguments})")
        city = json.loads(call.function.arguments).get("city")
        result = json.dumps({"city": city, "weather": "sunny", "celsius": 21})
        messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
    if message.tool_calls:
        message = ask(client, about, mode, messages, tools=TOOLS).choices[0].message
    show(message)


def image(client, about, mode, file):
    url = PICTURE
    if file:
        kind = mimetypes.guess_type(file)[0] or "image/png"
        with open(file, "rb") as opened:
            url = f"data:{kind};base64,{base64.b64encode(opened.read()).decode()}"
    parts = [{"type": "text", "text": LOOK}, {"type": "image_url", "image_url": {"url": url}}]
    show(ask(client, about, mode, [user(parts)]).choices[0].message)


def user(content):
    return {"role": "user", "content": content}


def main(where="local", what=None, file=None):
    if where not in ENDPOINTS:
        sys.exit(f"ask.py: {where} is not among: {' '.join(ENDPOINTS)}")
    about = ENDPOINTS[where]
    default = next(iter(about["modes"]))
    what = what or default
    known = [*about["modes"], "stream", "tools", *(["image"] if about["images"] else [])]
    if what not in known:
        sys.exit(f"ask.py: {where} has no request named {what}; it has {' '.join(known)}")
    key = os.environ.get(about["key_variable"])
    if about["needs_key"] and not key:
        sys.exit(f"ask.py: set {about['key_variable']} to a key of this provider")
    base = os.environ.get(about["base_variable"]) or about["base_url"]
    client = OpenAI(base_url=base, api_key=key or "none", max_retries=0)
    try:
        if what == "stream":
            stream(client, about, default)
        elif what == "tools":
            tools(client, about, default)
        elif what == "image":
            image(client, about, default, file)
        else:
            show(ask(client, about, what, [user(QUESTION)]).choices[0].message)
    except (OpenAIError, OSError) as error:
        sys.exit(f"ask.py: {error}")


if __name__ == "__main__":
    main(*sys.argv[1:4])
'''
