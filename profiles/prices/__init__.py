"""Prices as facts: each with its provider, kind, date and source; a user's own file goes over those shipped."""

from __future__ import annotations

import tomllib
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple

_FOLDER = Path(__file__).parent
STALE_DAYS: Final = 90
"""Prices older than this are used, with a warning."""
MAX_FILE_BYTES: Final = 4 << 20
SECTIONS: Final = ("cloud", "api", "purchase", "memory")


class BadPrices(ValueError):
    """A price file that cannot be read; the message is one line."""


class CloudPrice(NamedTuple):
    """Rent of one GPU for one hour, in US dollars. ``gpu`` is the hardware key, None where the offer leaves it open."""

    provider: str
    gpu: str | None
    usd_per_gpu_hour: float
    min_gpus: int
    kind: str
    date: str
    source: str


class ApiPrice(NamedTuple):
    """A hosted model in US dollars per million tokens; ``cached_input`` None where it is not cheaper.

    ``provider_model`` is the provider's own name for it. ``ends`` is the day on which the provider is reported to end
    this model, None where no end is announced.
    """

    provider: str
    model: str
    input: float
    output: float
    cached_input: float | None
    date: str
    source: str
    note: str
    ends: str | None = None
    ends_source: str = ""
    provider_model: str = ""


class PurchasePrice(NamedTuple):
    """Price range in US dollars of an item with ``gpus`` accelerators of hardware key ``gpu``.

    ``kind`` is ``system`` for a complete machine; every other kind (module, card, list, used) is the accelerator
    alone, without the machine around it.
    """

    item: str
    gpu: str | None
    gpus: int
    usd_low: float
    usd_high: float
    kind: str
    date: str
    source: str


class MemoryPrice(NamedTuple):
    """Main memory in US dollars per GiB. ``cpus`` are the keys of CPU families that take it; empty is every one."""

    usd_per_gib_low: float
    usd_per_gib_high: float
    date: str
    source: str
    item: str = "RAM"
    cpus: tuple[str, ...] = ()


class Prices(NamedTuple):
    """Everything that is known to cost something."""

    cloud: tuple[CloudPrice, ...]
    api: tuple[ApiPrice, ...]
    purchase: tuple[PurchasePrice, ...]
    memory: tuple[MemoryPrice, ...] = ()


def _rows(name: str) -> list[dict[str, Any]]:
    with (_FOLDER / name).open("rb") as file:
        rows: list[dict[str, Any]] = tomllib.load(file)["price"]
    return rows


def _cloud(row: dict[str, Any]) -> CloudPrice:
    return CloudPrice(
        row["provider"], row.get("gpu"), _number(row, "usd_per_gpu_hour"), int(row.get("min_gpus", 1)), row["kind"],
        row.get("date", ""), row["source"],
    )  # fmt: skip


def _api(row: dict[str, Any]) -> ApiPrice:
    cached = "usd_per_million_cached_input_tokens"
    return ApiPrice(
        row["provider"], row.get("model", ""), _number(row, "usd_per_million_input_tokens"),
        _number(row, "usd_per_million_output_tokens"), _number(row, cached) if cached in row else None,
        row.get("date", ""), row["source"], row.get("note", ""), row.get("ends"), row.get("ends_source", ""),
        row.get("provider_model", row.get("model", "")),
    )  # fmt: skip


def _purchase(row: dict[str, Any]) -> PurchasePrice:
    return PurchasePrice(
        row["item"], row.get("gpu"), int(row.get("gpus_per_item", 1)), _number(row, "usd_low"),
        _number(row, "usd_high"), row["kind"], row.get("date", ""), row["source"],
    )  # fmt: skip


def _memory(row: dict[str, Any]) -> MemoryPrice:
    return MemoryPrice(
        _number(row, "usd_per_gib_low"), _number(row, "usd_per_gib_high"), row.get("date", ""), row["source"],
        row.get("item", "RAM"), tuple(row.get("cpus", ())),
    )  # fmt: skip


def _number(row: dict[str, Any], name: str) -> float:
    value = row[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e12:
        raise BadPrices(f"{name} is no price: {str(value)[:40]!r}")
    return float(value)


@cache
def cloud_prices() -> tuple[CloudPrice, ...]:
    """Every known rent."""
    return tuple([_cloud(row) for row in _rows("cloud.toml")])


@cache
def api_prices() -> tuple[ApiPrice, ...]:
    """Every known price of a hosted model."""
    return tuple([_api(row) for row in _rows("api.toml")])


@cache
def purchase_prices() -> tuple[PurchasePrice, ...]:
    """Every known price of hardware."""
    return tuple([_purchase(row) for row in _rows("purchase.toml")])


@cache
def memory_prices() -> tuple[MemoryPrice, ...]:
    """Every known price of main memory."""
    return tuple([_memory(row) for row in _rows("memory.toml")])


def known_prices() -> Prices:
    """What the project ships."""
    return Prices(cloud_prices(), api_prices(), purchase_prices(), memory_prices())


def prices_with(path: str) -> Prices:
    """The shipped prices with those of a TOML file over them.

    The file has the tables ``[[cloud]]``, ``[[api]]``, ``[[purchase]]`` with the fields of ``profiles/prices/*.toml``,
    and ``[[memory]]`` with ``usd_per_gib_low`` and ``usd_per_gib_high``. A row replaces shipped ones of the same
    provider and GPU, provider and model, or GPU, and memory all of it; others stay. Raises ``BadPrices`` with one line.
    """
    try:
        with Path(path).open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise BadPrices(f"larger than {MAX_FILE_BYTES >> 20} MiB")
        tables = tomllib.loads(data.decode("utf-8"))
        return _over(known_prices(), tables)
    except OSError as error:
        raise BadPrices(f"{path}: {error.strerror or error}") from None
    except BadPrices as error:
        raise BadPrices(f"{path}: {error}") from None
    except UnicodeDecodeError:
        raise BadPrices(f"{path}: not UTF-8 text") from None
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise BadPrices(f"{path}: not TOML: {str(error)[:120]}") from None
    except KeyError as error:
        raise BadPrices(f"{path}: a row lacks {error.args[0]}") from None
    except (TypeError, ValueError, AttributeError):
        raise BadPrices(f"{path}: a row has a value of the wrong type") from None


def _over(base: Prices, tables: dict[str, Any]) -> Prices:
    unknown = [name for name in tables if name not in SECTIONS]
    if unknown or not tables:
        raise BadPrices(f"{unknown[0][:40]!r} is no section; {', '.join(SECTIONS)} are" if unknown else "no prices")
    for name, rows in tables.items():
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise BadPrices(f"{name}: write it as [[{name}]]")
        for row in rows:
            for key, value in row.items():
                if isinstance(value, date):
                    row[key] = value.isoformat()
    cloud = [_cloud(row) for row in tables.get("cloud", ())]
    api = [_api(row) for row in tables.get("api", ())]
    bought = [_purchase(row) for row in tables.get("purchase", ())]
    memory = [_memory(row) for row in tables.get("memory", ())]
    if any(one.min_gpus < 1 for one in cloud) or any(one.gpus < 1 for one in bought):
        raise BadPrices("min_gpus and gpus_per_item are at least 1")
    if any(one.usd_low > one.usd_high for one in bought):
        raise BadPrices("usd_low exceeds usd_high")
    rented, hosted, owned = (
        {(one.provider, one.gpu) for one in cloud},
        {(one.provider, one.model) for one in api},
        {one.gpu for one in bought},
    )
    return Prices(
        (*[one for one in base.cloud if (one.provider, one.gpu) not in rented], *cloud),
        (*[one for one in base.api if (one.provider, one.model) not in hosted], *api),
        (*[one for one in base.purchase if one.gpu not in owned], *bought),
        tuple(memory) or base.memory,
    )


def age_days(stated: str, today: date) -> int | None:
    """Days since a price's date; the first day of a year or month where no more is stated, None without a date.

    >>> age_days("2026-11-09", date(2026, 11, 26)), age_days("2026", date(2026, 11, 26)), age_days("", date.max)
    (17, 329, None)
    """
    parts = stated.split("-")
    try:
        year, month, day = [int(part) for part in (*parts, "1", "1")[:3]]
        return (today - date(year, month, day)).days
    except ValueError:
        return None


def staleness(what: str, stated: str, today: date) -> str | None:
    """The warning about a price that is old or of unknown age; None for a fresh one."""
    age = age_days(stated, today)
    if age is None:
        return f"{what}: the price has no date"
    if age > STALE_DAYS:
        return f"{what}: the price of {stated} is {age} days old"
    return None
