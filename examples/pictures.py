"""Draws the pictures of the README, as the screens are now: ``python -m examples.pictures``."""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path
from typing import Final, NamedTuple

from textual.widgets import DataTable

from moeplan.screens import program
from tui.app import MoeplanApp
from tui.curves_pane import CurvesPane
from tui.plan_screen import PlanScreen

FOLDER: Final = Path(__file__).parents[1] / "docs" / "pictures"
WAIT_S: Final = 60


class Picture(NamedTuple):
    """A plan on the first screen, with the keys that are pressed before it is drawn."""

    name: str
    knobs: dict[str, str]
    size: tuple[int, int] = (120, 40)
    keys: tuple[str, ...] = ()


PICTURES: Final = (
    Picture("plan", {"model": "kimi-k2.5", "gpu": "8xH200"}),
    Picture(
        "offload",
        {"model": "kimi-k2.5", "gpu": "2xrtx-pro-6000", "ram": "512GiB", "cpu": "2xepyc-9004", "context": "64k"},
        keys=("f8",),
    ),
)


async def draw(picture: Picture) -> str:
    """The screen as SVG. Raises ``TimeoutError``."""
    app = MoeplanApp(program(), picture.knobs)
    async with app.run_test(size=picture.size) as pilot:
        screen = app.screen
        while not isinstance(screen, PlanScreen):
            await pilot.pause()
            screen = app.screen
        screen.query_one(DataTable).focus()
        await pilot.press(*picture.keys)
        async with asyncio.timeout(WAIT_S):
            while not (screen.is_up_to_date and screen.query_one(CurvesPane).curves):
                await pilot.pause(0.05)
        # Drawn one after the other, the second once the first has its size.
        await pilot.pause(0.5)
        return plain(app.export_screenshot(title="moeplan tui"))


def plain(svg: str) -> str:
    """The picture with the reader's own font: it loads nothing from the network."""
    svg = re.sub(r"\s*@font-face \{.*?\}\n", "\n", svg, flags=re.DOTALL)
    svg = svg.replace("Fira Code, monospace", "monospace")
    return re.sub(r"terminal-\d+", "t", svg)


def main() -> int:
    """Write them all."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for picture in PICTURES:
        path = FOLDER / f"{picture.name}.svg"
        path.write_text(asyncio.run(draw(picture)) + "\n", encoding="utf-8")
        print(f"{path.name}: {path.stat().st_size:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
