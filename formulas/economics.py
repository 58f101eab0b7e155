"""Money: what tokens cost by price list and by machine, and where the two meet. US dollars, months of 730 hours."""

from __future__ import annotations

HOURS_PER_MONTH = 730.0
"""8,760 hours of a year over twelve months."""


def requests_per_s(concurrency: float, ttft_s: float, tpot_s: float, output_tokens: int) -> float:
    """Rate at which a server finishes requests when ``concurrency`` of them are always there.

    Little's law: ``concurrency / (ttft_s + output_tokens * tpot_s)``. Raises ``ValueError`` without positive times.

    >>> round(requests_per_s(16, 2.0, 0.025, 1024), 3)      # K2.5, 16 streams at 40 tokens/s
    0.58
    """
    seconds = ttft_s + output_tokens * tpot_s
    if concurrency <= 0 or seconds <= 0:
        raise ValueError("concurrency and times must be positive")
    return concurrency / seconds


def usd_per_million_tokens(
    input_tokens: float,
    output_tokens: float,
    cached_share: float,
    usd_input: float,
    usd_cached: float,
    usd_output: float,
) -> float:
    """Price of a million tokens, input and output together, at a mix of the two.

    ``(i (1 - c) p_i + i c p_c + o p_o) / (i + o)`` with prices per million tokens and ``c`` the share of the input that
    is found in the provider's cache. Raises ``ValueError`` for an empty mix or a share outside 0..1.

    >>> usd_per_million_tokens(3, 1, 0.0, 0.60, 0.10, 3.00)                  # K2.5 offer of 0.60 / 3.00, 3:1
    1.2
    >>> round(usd_per_million_tokens(10, 1, 0.8, 0.60, 0.10, 3.00), 4)       # 10:1, 80 % from the cache
    0.4545
    """
    if input_tokens < 0 or output_tokens < 0 or input_tokens + output_tokens <= 0 or not 0 <= cached_share <= 1:
        raise ValueError("a mix needs tokens and a cached share from 0 to 1")
    fresh, cached = input_tokens * (1 - cached_share), input_tokens * cached_share
    return (fresh * usd_input + cached * usd_cached + output_tokens * usd_output) / (input_tokens + output_tokens)


def break_even_tokens(usd_local: float, usd_api_per_million: float) -> float:
    """Tokens at which an API costs as much as a machine does in the same time.

    Raises ``ValueError`` for a price of zero: a free API never costs as much.

    >>> round(break_even_tokens(36.72, 1.20) / 1e6, 1)       # K2.5, 8 H200 at 4.59 an hour: millions an hour
    30.6
    """
    if usd_api_per_million <= 0:
        raise ValueError("the API's price must be positive")
    return usd_local / usd_api_per_million * 1e6


def usd_per_month_owned(usd_price: float, years: float) -> float:
    """Straight-line depreciation to nothing over ``years``. Raises ``ValueError`` without a positive time.

    >>> usd_per_month_owned(36_000, 3)
    1000.0
    """
    if years <= 0:
        raise ValueError("years must be positive")
    return usd_price / (12 * years)


def usd_per_month_electricity(watts: float, usd_per_kwh: float) -> float:
    """Electricity of ``watts`` drawn all month.

    >>> usd_per_month_electricity(8 * 700, 0.10)        # eight H200 at their power limit
    408.8
    """
    return round(watts / 1000 * HOURS_PER_MONTH * usd_per_kwh, 6)
