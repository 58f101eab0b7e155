"""What can go wrong on the way to the hub, each as one line that says what to do. No line carries a token."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

from moeplan.text_safe import printable
from planner.errors import BadRequest, Undetermined

LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"
_MAX_REASON_CHARACTERS = 200


class Unreachable(Undetermined):
    """The hub gave no answer, or none worth having now: what the cache holds may do instead."""


class Offline(BadRequest):
    """The user forbids the client to use the network, and the cache lacks what was asked for."""


def plain_endpoint(endpoint: str) -> str:
    """The hub's address as it may be shown: without the user and password that a mirror may need.

    >>> plain_endpoint("https://user:secret@mirror.example:8443/hub/")
    'https://mirror.example:8443/hub'
    """
    parts = urlsplit(endpoint)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl().rstrip("/")


def refusal(status: int, headers: Mapping[str, str], repository: str, endpoint: str) -> BadRequest | Undetermined:
    """The error that an answer of ``status`` 400 or above stands for.

    The hub explains itself in ``X-Error-Code`` and ``X-Error-Message``. It answers 401 for what is private and for
    what does not exist alike. ``endpoint`` is as ``plain_endpoint`` gives it.
    """
    code, said = headers.get("X-Error-Code", ""), headers.get("X-Error-Message", "")
    if code == "GatedRepo":
        return BadRequest(f"{repository} is gated: ask for access at {endpoint}/{repository}, then {LOG_IN}")
    if code == "EntryNotFound":
        return BadRequest(f"{repository} lacks a file that it lists; try again")
    if code == "RevisionNotFound":
        return BadRequest(f"{repository} has no such revision, or is empty: a branch, a tag or a commit is allowed")
    if status == 401 and "credentials" in said.casefold():
        return BadRequest(f"{endpoint} refuses the token that is set; {LOG_IN}")
    if code == "RepoNotFound" or status in (401, 404):
        return BadRequest(f"{endpoint} has no repository {repository}, or it is private; for a private one {LOG_IN}")
    if "disabled" in said.casefold():
        return Undetermined(f"{repository} has been disabled at {endpoint}")
    if status == 403:
        return BadRequest(f"{endpoint} forbids reading {repository}; use a token that may, or {LOG_IN}")
    if status == 429:
        wait = headers.get("Retry-After", "")
        when = f"in {wait} s" if wait.isdecimal() and len(wait) < 7 else "later"
        return Unreachable(f"{endpoint} limits the rate of requests; try again {when}, or {LOG_IN} for a higher limit")
    return Unreachable(f"{endpoint} answers with error {status} when asked for {repository}")


def unreachable(endpoint: str, error: BaseException) -> Unreachable:
    """The error for a request that got no answer: refused, timed out, no such host, bad certificate."""
    kind = type(error).__name__
    if "Timeout" in kind:
        return Unreachable(f"{endpoint} cannot be reached: no answer in time")
    text = " ".join(printable(str(error)).split())[:_MAX_REASON_CHARACTERS]
    if "CERTIFICATE" in text.upper():
        return Unreachable(f"{endpoint} cannot be trusted: {text}")
    return Unreachable(f"{endpoint} cannot be reached: {text or kind}")
