"""What a healthy machine shows: limits, minimum drivers, bandwidths, what the driver's errors mean. All from data."""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from profiles.engines import version_tuple

_FOLDER = Path(__file__).parent


class Limit(NamedTuple):
    """A number and where it comes from."""

    value: float
    source: str


class XidMeaning(NamedTuple):
    """What an Xid means and what to do about it."""

    meaning: str
    status: Literal["fail", "warn"]
    action: str
    source: str


class DriverNeed(NamedTuple):
    """The CUDA major release an engine is built with, and the oldest driver that runs it."""

    cuda_major: int
    minimum: str
    source: str


class Bandwidths(NamedTuple):
    """Least bandwidths of a kind of GPU in bytes per second, by what was measured; a missing one is not known."""

    least: Mapping[str, float]
    source: str


class Thresholds(NamedTuple):
    """Everything a machine is held to."""

    limits: Mapping[str, Limit]
    xids: Mapping[int, XidMeaning]
    unknown_xid: XidMeaning
    drivers: Mapping[int, tuple[str, str]]
    engines: tuple[Mapping[str, Any], ...]
    bandwidths: Mapping[str, Bandwidths]
    memory_read: Limit
    least_all_reduce: Limit

    def limit(self, key: str) -> Limit:
        """The limit of this key. Raises KeyError."""
        return self.limits[key]

    def xid(self, code: int) -> XidMeaning:
        """What a code means; one that is not in the catalogue is `unknown_xid`."""
        return self.xids.get(code, self.unknown_xid)

    def driver_need(self, engine: str, version: str) -> DriverNeed | None:
        """The driver that a release of an engine needs; None where that is not known.

        Raises UnknownVersion for a version that is not dotted numbers.
        """
        number = version_tuple(version)
        rows = [row for row in self.engines if row["name"] == engine and number >= version_tuple(row["since"])]
        if not rows:
            return None
        row = max(rows, key=lambda each: version_tuple(each["since"]))
        minimum, source = self.drivers[row["cuda_major"]]
        return DriverNeed(row["cuda_major"], minimum, f"{row['source']}; {source}")


@functools.cache
def load_thresholds() -> Thresholds:
    """The thresholds and the catalogue that come with the program."""
    table = _table("thresholds")
    xids = _table("xid")
    return Thresholds(
        limits={row["key"]: Limit(float(row["value"]), row["source"]) for row in table["limit"]},
        xids={
            row["code"]: XidMeaning(row["meaning"], row["status"], row["action"], row["source"]) for row in xids["xid"]
        },
        unknown_xid=XidMeaning(
            "not in the catalogue", xids["unknown_status"], xids["unknown_action"], "profiles/health/xid.toml"
        ),
        drivers={row["cuda_major"]: (row["minimum"], row["source"]) for row in table["driver"]},
        engines=tuple(table["engine"]),
        bandwidths={
            row["gpu"]: Bandwidths(
                {key.removesuffix("_bytes_per_s"): float(rate) for key, rate in row.items() if key.endswith("_per_s")},
                row["source"],
            )
            for row in table["bandwidth"]
        },
        memory_read=Limit(table["memory_read"]["fraction"], table["memory_read"]["source"]),
        least_all_reduce=Limit(table["all_reduce"]["least_message_bytes"], table["all_reduce"]["source"]),
    )


def _table(name: str) -> dict[str, Any]:
    return tomllib.loads((_FOLDER / f"{name}.toml").read_text(encoding="utf-8"))
