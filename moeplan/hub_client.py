"""The one door to the Hugging Face hub: the client, cache, token and mirror of ``huggingface_hub``, all bounded.

Small files go through its cache. Listings and parts of weight files are streamed through its session, because its own
readers of ranges take in whatever a server sends. Needs the extra ``hub``.
"""

from __future__ import annotations

import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TypeVar
from urllib.parse import quote

from huggingface_hub import constants, hf_hub_download, hf_hub_url, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled
from huggingface_hub.utils import (  # type: ignore[attr-defined, unused-ignore]
    build_hf_headers,
    get_session,
    tqdm,
)

from moeplan import __version__
from moeplan.hub_errors import Offline, Unreachable, plain_endpoint, refusal, unreachable
from planner.errors import BadRequest, Undetermined
from profiles.headers.errors import BadModelFile, quoted
from profiles.headers.strictjson import JsonValue, load_json_object

VISIT_S = 300.0
"""All requests about one model together. The headers of Kimi K2.5 are 31 MB in 64 files."""
MAX_LISTING_BYTES = 16 << 20
MAIN = "main"
Progress = Callable[[int, int], None]

# The client is built on httpx or on its successor, by version; its errors derive from that library's.
_TRANSPORT_ERROR: type[BaseException] = HfHubHTTPError.__bases__[0]
_COMMIT = re.compile(r"[0-9a-f]{40}")
_REPOSITORY_ID = re.compile(r"\w[\w.-]{0,95}(?:/\w[\w.-]{0,95})?", re.ASCII)
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,15})-([0-9]{1,15})/([0-9]{1,18})")
_T = TypeVar("_T")
_TICK_S = 0.2


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository at one commit. ``files`` maps paths to sizes in bytes, None where the listing states none.

    ``snapshot`` is its folder in the cache when the hub could not be asked, and ``note`` says why; ``files`` are then
    those of the folder.
    """

    id: str
    commit: str
    modified: str
    license: str
    files: Mapping[str, int | None]
    snapshot: Path | None = None
    note: str = ""
    revision: str = MAIN

    @property
    def pin(self) -> str:
        """What to remember where another than the main branch was asked for."""
        if self.revision == MAIN:
            return ""
        return f"{self.id} was read at revision {self.revision}; a command that starts it must name that revision too"

    def address(self, path: str) -> str:
        """Where a person finds that file at that commit."""
        return f"{plain_endpoint(constants.ENDPOINT)}/{self.id}/blob/{self.commit}/{path}"


class Hub:
    """One visit to the hub; ``visit_s`` bounds it.

    ``progress`` is called with the steps done and the steps known so far, a few times a second while one takes long.

    Every method raises ``BadRequest`` for what the user can mend (no such repository, gated, wrong token) and
    ``Undetermined`` for what not: ``Unreachable`` where the hub gave no answer.
    """

    def __init__(self, progress: Progress, visit_s: float = VISIT_S) -> None:
        self.endpoint = plain_endpoint(constants.ENDPOINT)
        self._progress = progress
        self._steps_done = self._steps = 0
        self._visit_s = visit_s
        self._deadline = time.monotonic() + visit_s

    def expect(self, steps: int) -> None:
        """Say that so many steps are still to be done."""
        self._steps += steps

    def step_done(self) -> None:
        """Say that one is."""
        self._steps_done += 1
        self._progress(self._steps_done, self._steps)

    def repository(self, repo_id: str, revision: str = MAIN) -> Repository:
        """A revision as it is now, or as the cache holds it where the hub cannot be asked."""
        try:
            return self._current(repo_id, revision)
        except (Unreachable, Offline) as error:
            reason = "HF_HUB_OFFLINE is set" if isinstance(error, Offline) else str(error)
            cached = _cached(repo_id, revision, f"read from the cache: {reason}")
            if cached is None:
                raise
            return cached

    def _current(self, repo_id: str, revision: str) -> Repository:
        at_revision = "" if revision == MAIN else f"/revision/{quote(revision, safe='')}"
        url = f"{constants.ENDPOINT}/api/models/{repo_id}{at_revision}?blobs=true"
        body = self._within_deadline(lambda: self._get(url, repo_id, MAX_LISTING_BYTES)[0])
        try:
            return _listed(load_json_object(body, MAX_LISTING_BYTES, "listing"), repo_id, revision)
        except BadModelFile as bad:
            raise Undetermined(f"{self.endpoint} does not answer as the hub does: {bad}") from None

    def small_file(self, repository: Repository, path: str, max_bytes: int) -> Path:
        """A whole file, in the cache. Raises ``BadRequest`` for one of more than ``max_bytes``, too."""
        if repository.snapshot is not None:
            return repository.snapshot / path
        size = repository.files.get(path)
        too_large = BadRequest(f"{repository.id}: {quoted(path)} has more than the {max_bytes:,} bytes allowed")
        if size is not None and size > max_bytes:
            raise too_large

        def download() -> Path:
            watch = _watch(max_bytes, too_large)
            # By branch first: only so does the cache find it again without a network.
            found = Path(hf_hub_download(repository.id, path, revision=repository.revision, tqdm_class=watch))
            if repository.commit in found.parts:
                return found
            return Path(hf_hub_download(repository.id, path, revision=repository.commit, tqdm_class=watch))

        with self._translated(repository.id), _client_quiet():
            return self._within_deadline(download)

    def part(self, repository: Repository, path: str, start: int, end: int) -> tuple[bytes, int]:
        """Bytes ``start`` to ``end`` (not included) of a file, fewer only at its end, and the size of the file."""
        url = hf_hub_url(repository.id, path, revision=repository.commit)
        wanted = {"Range": f"bytes={start}-{end - 1}"}
        body, headers = self._within_deadline(lambda: self._get(url, repository.id, end - start, wanted))
        place = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", ""))
        if place is None:
            raise Undetermined(f"{self.endpoint} sends whole files where a part of {quoted(path)} was asked for")
        size = int(place[3])
        if repository.files.get(path) not in (None, size):
            raise Undetermined(f"{quoted(path)} of {repository.id} is not of the size that is listed; try again")
        expected = min(end, size) - start
        if int(place[1]) != start or len(body) != expected:
            raise Undetermined(
                f"{self.endpoint} sends {len(body):,} of the {expected:,} bytes of {quoted(path)} that were asked for"
            )
        return body, size

    def _get(
        self, url: str, repo_id: str, max_bytes: int, extra: Mapping[str, str] | None = None
    ) -> tuple[bytes, Mapping[str, str]]:
        """The body of an answer, uncompressed, and its headers. An answer to a range must be that range."""
        headers = build_hf_headers(library_name="moeplan", library_version=__version__)
        headers |= {"Accept-Encoding": "identity", **(extra or {})}
        body = bytearray()
        with (
            self._translated(repo_id),
            get_session().stream("GET", url, headers=headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT) as response,
        ):
            answered: Mapping[str, str] = response.headers
            if response.status_code >= 400:
                raise refusal(response.status_code, answered, repo_id, self.endpoint)
            if extra and response.status_code != 206:
                return b"", {}
            for part in response.iter_raw():
                body += part
                if len(body) > max_bytes:
                    raise Undetermined(f"{self.endpoint} sends more than the {max_bytes:,} bytes that were asked for")
                self._refuse_after_deadline()
        return bytes(body), answered

    @contextmanager
    def _translated(self, repo_id: str) -> Iterator[None]:
        try:
            yield
        except OfflineModeIsEnabled:
            raise self._offline(repo_id) from None
        except HfHubHTTPError as error:
            raise refusal(error.response.status_code, error.response.headers, repo_id, self.endpoint) from None
        except LocalEntryNotFoundError as error:
            cause = error.__cause__
            if isinstance(cause, OfflineModeIsEnabled):
                raise self._offline(repo_id) from None
            if isinstance(cause, HfHubHTTPError):
                raise refusal(cause.response.status_code, cause.response.headers, repo_id, self.endpoint) from None
            raise unreachable(self.endpoint, cause or error) from None
        except (OSError, RuntimeError, _TRANSPORT_ERROR) as error:
            if isinstance(error, Undetermined):
                raise
            raise unreachable(self.endpoint, error) from None

    def _offline(self, repo_id: str) -> Offline:
        return Offline(f"HF_HUB_OFFLINE is set, and {repo_id} is not in the cache at {constants.HF_HUB_CACHE}")

    def _within_deadline(self, work: Callable[[], _T]) -> _T:
        """Run ``work`` in a thread that is left to itself when time is up.

        A server that sends a byte now and then keeps every timeout of the client from striking.
        """
        done: list[_T] = []
        failed: list[BaseException] = []

        def run() -> None:
            try:
                done.append(work())
            except BaseException as error:
                failed.append(error)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        while thread.is_alive() and time.monotonic() < self._deadline:
            thread.join(_TICK_S)
            self._progress(self._steps_done, self._steps)
        if failed:
            raise failed[0]
        if not done:
            self._refuse_after_deadline()
        return done[0]

    def _refuse_after_deadline(self) -> None:
        if time.monotonic() >= self._deadline:
            raise Unreachable(f"{self.endpoint} takes more than the {self._visit_s:,.0f} s that a model may take")


def _listed(listing: Mapping[str, JsonValue], repo_id: str, revision: str) -> Repository:
    """The repository that a listing describes. Raises ``BadModelFile``."""
    commit, siblings = listing.get("sha"), listing.get("siblings")
    name = listing.get("id", repo_id)
    if not isinstance(commit, str) or not _COMMIT.fullmatch(commit) or not isinstance(siblings, list):
        raise BadModelFile("listing", "has no sha and no siblings, which are needed")
    if not isinstance(name, str) or not _REPOSITORY_ID.fullmatch(name):
        raise BadModelFile("listing", f"id is {quoted(str(name))}; org/name is allowed")
    files: dict[str, int | None] = {}
    for sibling in siblings:
        path, size = (sibling.get("rfilename"), sibling.get("size")) if isinstance(sibling, dict) else (None, None)
        if not isinstance(path, str) or not _is_plain(path):
            raise BadModelFile("listing", f"names the file {quoted(str(path))}; relative paths are allowed")
        files[path] = size if isinstance(size, int) and size >= 0 else None
    card = listing.get("cardData")
    license_name = card.get("license_name", card.get("license")) if isinstance(card, dict) else None
    modified = listing.get("lastModified")
    return Repository(
        id=name,
        commit=commit,
        modified=modified[:10] if isinstance(modified, str) else "",
        license=license_name if isinstance(license_name, str) else "",
        files=files,
        revision=revision,
    )


def _cached(repo_id: str, revision: str, note: str) -> Repository | None:
    """What the cache holds of a revision."""
    try:
        # With no pattern at all the client refuses a snapshot that lacks any file, such as all of the weights.
        snapshot = Path(snapshot_download(repo_id, revision=revision, local_files_only=True, allow_patterns=[]))
    except LocalEntryNotFoundError:
        return None
    found = (Path(folder, name) for folder, _, names in os.walk(snapshot) for name in names)
    files = {path.relative_to(snapshot).as_posix(): path.stat().st_size for path in found if path.is_file()}
    return Repository(repo_id, snapshot.name, "", "", files, snapshot, note, revision)


def _is_plain(path: str) -> bool:
    parts = PurePosixPath(path).parts
    return path.isprintable() and bool(parts) and not {"..", "/"} & set(parts) and not {"\\", ":"} & set(path)


def _watch(max_bytes: int, too_large: BadRequest) -> type[tqdm]:
    """A progress bar that draws nothing and stops a download past ``max_bytes``."""

    class Watch(tqdm):  # type: ignore[misc, unused-ignore]
        def __init__(self, *args: object, **kwargs: object) -> None:
            super().__init__(*args, **{**kwargs, "disable": True})  # type: ignore[no-untyped-call, unused-ignore]
            self.taken = 0

        def update(self, n: float | None = 1) -> bool | None:
            self.taken += int(n or 0)
            if self.taken > max_bytes:
                raise too_large
            return None

    return Watch


@contextmanager
def _client_quiet() -> Iterator[None]:
    """Without the client's warnings, whose addresses may be signed: errors are told in one line of our own."""
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
