"""Debian's Chromium, driven through chromedriver by the W3C's WebDriver protocol, and cut off from every network."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

WAIT_S: Final = 120
ARGUMENTS: Final = (
    "--headless=new", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars", "--no-first-run",
    "--no-default-browser-check", "--disable-background-networking", "--disable-component-update",
    "--disable-default-apps", "--disable-domain-reliability", "--disable-extensions", "--disable-sync",
    "--metrics-recording-only", "--no-pings", "--force-device-scale-factor=1",
    "--host-resolver-rules=MAP * ~NOTFOUND",
)  # fmt: skip
LISTENS: Final = """
window.seen = { violations: [], errors: [], hit: 0 };
addEventListener("securitypolicyviolation", (one) => {
  seen.violations.push(`${one.violatedDirective}: ${one.blockedURI}`);
});
addEventListener("error", (one) => seen.errors.push(String(one.message)));
addEventListener("unhandledrejection", (one) => seen.errors.push(String(one.reason)));
"""
"""Runs before anything of a page does."""
_LISTENING: Final = re.compile(r"started successfully on port (\d+)")


class Drawn(NamedTuple):
    """What Chromium said while a page was open: requests that the policy let through, messages on its console."""

    requests: tuple[str, ...]
    messages: tuple[str, ...]


class Browser:
    """One window of one browser."""

    def __init__(self, port: int, profile: Path) -> None:
        self._address = f"http://127.0.0.1:{port}"
        self._opener = build_opener(ProxyHandler({}))
        arguments = [*ARGUMENTS, f"--user-data-dir={profile}", *(["--no-sandbox"] if os.geteuid() == 0 else [])]
        options = {"args": arguments, "binary": shutil.which("chromium")}
        wanted = {
            "browserName": "chrome",
            "goog:chromeOptions": options,
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
            "timeouts": {"script": WAIT_S * 1000, "pageLoad": WAIT_S * 1000},
        }
        self._session = ""
        self._session = f"/session/{self._ask('/session', {'capabilities': {'alwaysMatch': wanted}})['sessionId']}"
        self.cdp("Page.addScriptToEvaluateOnNewDocument", source=LISTENS)

    def _ask(self, path: str, body: dict[str, Any] | None, method: str = "POST") -> Any:  # noqa: ANN401
        data = json.dumps(body).encode() if body is not None else None
        url, headers = f"{self._address}{self._session}{path}", {"Content-Type": "application/json"}
        request = Request(url, data, headers, method=method)
        try:
            with self._opener.open(request, timeout=WAIT_S + 30) as answer:
                return json.load(answer)["value"]
        except HTTPError as error:
            raise AssertionError(f"{path}: {error.read().decode(errors='replace')[:2000]}") from None

    def cdp(self, command: str, **parameters: Any) -> Any:  # noqa: ANN401
        """A command of Chromium's own protocol."""
        return self._ask("/goog/cdp/execute", {"cmd": command, "params": parameters})

    def run(self, script: str, *arguments: Any) -> Any:  # noqa: ANN401
        """What a script returns, or what the promise that it returns becomes."""
        wrapped = (
            f"const [done] = [...arguments].slice(-1); (async (...arguments) => {{ {script} }})"
            "(...[...arguments].slice(0, -1)).then((value) => done([value]), (error) => done([null, String(error)]));"
        )
        value, *error = self._ask("/execute/async", {"script": wrapped, "args": list(arguments)})
        assert not error, error
        return value

    def wait(self, condition: str, *arguments: Any) -> Any:  # noqa: ANN401
        """The first true value of an expression."""
        end = time.monotonic() + WAIT_S
        while not (value := self.run(f"return {condition};", *arguments)):
            assert time.monotonic() < end, f"never true: {condition}"
            time.sleep(0.1)
        return value

    def open(self, path: Path, *, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        """A page, in a window of that size; what was said before is forgotten."""
        self._ask("/url", {"url": "about:blank"})
        self.said()
        self.resize(width, height)
        self.emulate(dark=dark)
        self._ask("/url", {"url": path.resolve().as_uri()})

    def resize(self, width: int, height: int) -> None:
        """The window's inside; below 500 pixels it is a phone's."""
        self.cdp(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500
        )

    def emulate(self, *, dark: bool = False, paper: bool = False) -> None:
        """The colours that the reader likes, or the page as it is printed."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.cdp("Emulation.setEmulatedMedia", media="print" if paper else "", features=[scheme])

    def press(self, key: str) -> None:
        """A key, down and up."""
        keys = [{"type": kind, "value": key} for kind in ("keyDown", "keyUp")]
        self._ask("/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": keys}]})

    def printed(self, width_in: float, height_in: float) -> bytes:
        """The page as PDF on paper of that size."""
        answer = self.cdp("Page.printToPDF", paperWidth=width_in, paperHeight=height_in, printBackground=False)
        return b64decode(answer["data"])

    def said(self) -> Drawn:
        """Everything since the last question."""
        events = [json.loads(one["message"])["message"] for one in self._ask("/se/log", {"type": "performance"})]
        failed = [one["params"] for one in events if one["method"] == "Network.loadingFailed"]
        blocked = {one["requestId"] for one in failed if one.get("blockedReason") == "csp"}
        sent = [one["params"] for one in events if one["method"] == "Network.requestWillBeSent"]
        urls = [one["request"]["url"] for one in sent if one["requestId"] not in blocked]
        messages = [f"{one['level']} {one['message']}" for one in self._ask("/se/log", {"type": "browser"})]
        return Drawn(tuple(urls), tuple(messages))

    def close(self) -> None:
        """End the session and the browser with it."""
        self._ask("", None, "DELETE")


@contextmanager
def chromium(folder: Path) -> Iterator[Browser]:
    """A browser with a new profile in ``folder``."""
    log = (folder / "chromedriver.log").open("w+")
    with log, subprocess.Popen(["chromedriver", "--port=0"], stdout=log, stderr=log) as driver:
        try:
            browser = Browser(_port(folder / "chromedriver.log", driver), folder / "profile")
            try:
                yield browser
            finally:
                browser.close()
        finally:
            driver.terminate()


def _port(log: Path, driver: subprocess.Popen[bytes]) -> int:
    end = time.monotonic() + WAIT_S
    while (found := _LISTENING.search(log.read_text(errors="replace"))) is None:
        assert driver.poll() is None and time.monotonic() < end, log.read_text(errors="replace")
        time.sleep(0.05)
    return int(found[1])
