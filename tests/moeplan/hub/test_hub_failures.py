"""Every way in which the hub says no, or what it should not: one line and the right exit code."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from tests.moeplan.hub.conftest import Moeplan, assert_refused
from tests.moeplan.hub.models import checkpoint
from tests.moeplan.hub.server import Answer, File, HubServer

LISTING = "/api/models/acme/Big-Llama"
LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"
HTML = b"<!DOCTYPE html><html><body>Please sign in to the guest network</body></html>"


@pytest.mark.parametrize(
    ("answer", "code", "line"),
    [
        (
            Answer(401, {"X-Error-Code": "RepoNotFound"}),
            2,
            f"HUB has no repository acme/Big-Llama, or it is private; for a private one {LOG_IN}",
        ),
        (
            Answer(401, {"X-Error-Message": "Invalid credentials in Authorization header"}),
            2,
            f"HUB refuses the token that is set; {LOG_IN}",
        ),
        (
            Answer(403, {"X-Error-Message": "Access to this resource is disabled."}),
            3,
            "acme/Big-Llama has been disabled at HUB",
        ),
        (Answer(403), 2, f"HUB forbids reading acme/Big-Llama; use a token that may, or {LOG_IN}"),
        (
            Answer(429, {"Retry-After": "17"}),
            3,
            f"HUB limits the rate of requests; try again in 17 s, or {LOG_IN} for a higher limit",
        ),
        (Answer(500, {}, HTML), 3, "HUB answers with error 500 when asked for acme/Big-Llama"),
        (
            Answer(200, {"Content-Type": "text/html"}, HTML),
            3,
            "HUB does not answer as the hub does: listing: not JSON: Expecting value (line 1 column 1)",
        ),
        (
            Answer(200, {}, b'{"id": "acme/Big-Llama", "siblings": []}'),
            3,
            "HUB does not answer as the hub does: listing: has no sha and no siblings, which are needed",
        ),
        (
            Answer(200, {}, b'{"sha": "%s", "siblings": [{"rfilename": "../../etc/x"}]}' % (b"0" * 40)),
            3,
            "HUB does not answer as the hub does: listing: names the file '../../etc/x'; relative paths are allowed",
        ),
        (
            Answer(200, {}, b'{"id": "../x", "sha": "%s", "siblings": []}' % (b"0" * 40)),
            3,
            "HUB does not answer as the hub does: listing: id is '../x'; org/name is allowed",
        ),
        (
            Answer(200, {}, b"[" * (17 << 20)),
            3,
            "HUB sends more than the 16,777,216 bytes that were asked for",
        ),
    ],
    ids=lambda value: str(value)[:40],
)
def test_listing(hub: HubServer, moeplan: Moeplan, answer: Answer, code: int, line: str) -> None:
    hub.answers[LISTING] = answer
    assert_refused(moeplan("memory", "acme/Big-Llama"), code, line.replace("HUB", hub.url))


@pytest.mark.parametrize(
    ("refused", "code", "line"),
    [
        (
            (403, {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access to model acme/Big-Llama is restricted"}),
            2,
            f"acme/Big-Llama is gated: ask for access at HUB/acme/Big-Llama, then {LOG_IN}",
        ),
        (
            (401, {"X-Error-Code": "GatedRepo"}),
            2,
            f"acme/Big-Llama is gated: ask for access at HUB/acme/Big-Llama, then {LOG_IN}",
        ),
        ((410, {}), 3, "HUB answers with error 410 when asked for acme/Big-Llama"),
    ],
)
def test_file(hub: HubServer, moeplan: Moeplan, refused: tuple[int, Mapping[str, str]], code: int, line: str) -> None:
    hub.repos["acme/Big-Llama"] = checkpoint()
    hub.repos["acme/Big-Llama"].refused = refused
    assert_refused(moeplan("memory", "acme/Big-Llama"), code, line.replace("HUB", hub.url))


def test_page_in_place_of_a_configuration(hub: HubServer, moeplan: Moeplan) -> None:
    hub.repos["acme/Big-Llama"] = checkpoint()
    hub.repos["acme/Big-Llama"].files["config.json"] = File(HTML)
    line = "acme/Big-Llama/config.json: model configuration: not JSON: Expecting value (line 1 column 1)"
    assert_refused(moeplan("memory", "acme/Big-Llama"), 2, line)


def test_architecture_without_a_reader(hub: HubServer, moeplan: Moeplan) -> None:
    hub.repos["acme/Big-Llama"] = checkpoint()
    hub.repos["acme/Big-Llama"].files["config.json"] = File(b'{"model_type": "frobnicator"}')
    done = moeplan("memory", "acme/Big-Llama")
    assert (done.returncode, done.stderr.count("\n")) == (3, 1)
    assert "frobnicator" in done.stderr


def test_repository_of_something_else(hub: HubServer, moeplan: Moeplan) -> None:
    hub.repos["acme/Big-Llama"] = checkpoint()
    del hub.repos["acme/Big-Llama"].files["config.json"]
    line = "acme/Big-Llama has no config.json and no GGUF files; one of them is needed"
    assert_refused(moeplan("memory", "acme/Big-Llama"), 2, line)
