"""Five questions and the program's answers, as the pages of this folder.

Run: ``python -m examples.make [NAME ...]``. Every page is the output of the commands that stand in it, headed by what
their JSON says in one sentence; nothing is written by hand but the question.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final, NamedTuple

ROOT: Final = Path(__file__).parents[1]
PLAN: Final = "plan.json"
WORTH: Final = 1.02
"""Times the rate from which on an upgrade is one."""


class Page(NamedTuple):
    """A question and the commands that answer it, without the program's name."""

    name: str
    title: str
    question: str
    commands: tuple[str, ...]


PAGES: Final = (
    Page(
        "hobbyist", "One 24 GB card and 256 GiB of RAM",
        "I have an RTX 4090 in a desktop with 256 GiB of RAM and a fast SSD. Can I run Kimi K2.5 for myself, in which "
        "quantization, how fast, what does that quantization cost in quality, and what should I buy next?",
        (
            "plan kimi-k2.5 --gpu 1xRTX4090 --ram 256GiB --cpu desktop-ddr5-am5 --cores 16 --disk 2TB@7GB/s "
            f"--context 32k --concurrency 1 --output {PLAN}",
            "recommend kimi-k2.5 --context 32k --concurrency 1 "
            "--have '1xRTX4090 --ram 256GiB --cpu desktop-ddr5-am5 --cores 16 --disk 2TB@7GB/s'",
            f"cost {PLAN} --tokens-per-month 10e6 --hardware-usd 6000 --electricity 0.30",
        ),
    ),
    Page(
        "workstation", "A workstation with four RTX PRO 6000",
        "Four RTX PRO 6000 with 96 GB each in a Threadripper PRO with 512 GiB: what is the best way to serve four "
        "developers, and is a fifth card or more RAM worth its price?",
        (
            "plan kimi-k2.5 --gpu 4xRTX-PRO-6000 --ram 512GiB --cpu tr-pro-9000 --cores 64 --context 64k "
            f"--concurrency 4 --output {PLAN}",
            "recommend kimi-k2.5 --context 64k --concurrency 4 "
            "--have '4xRTX-PRO-6000 --ram 512GiB --cpu tr-pro-9000 --cores 64'",
            f"cost {PLAN} --tokens-per-month 300e6 --hardware-usd 75000 --electricity 0.30",
        ),
    ),
    Page(
        "team", "One node of eight H200 for a team of fifty",
        "Fifty people code with Kimi K2.5 at 128k context on one 8x H200 node. Does it hold them all at once, how fast "
        "is it for each, what does it cost against the API, and would something else be cheaper?",
        (
            "plan kimi-k2.5 --gpu 8xH200 --ram 2TiB --cpu 2xepyc-9004 --cores 128 --context 128k --concurrency 50 "
            f"--output {PLAN}",
            f"cost {PLAN} --utilization 0.3 --cached-share 0.5 --electricity 0.15",
            "recommend kimi-k2.5 --context 128k --concurrency 50 --tpot 50ms --hours-per-day 10",
        ),
    ),
    Page(
        "swarm", "An agent swarm with a hundred parallel sub-agents",
        "An agent sends a hundred sub-agents at a time, with long shared prompts. Which hardware keeps them all busy?",
        (
            "plan kimi-k2.5 --gpu 8xB200 --ram 2TiB --cpu 2xepyc-9004 --cores 128 --workload agent-swarm "
            f"--concurrency 100 --output {PLAN}",
            "recommend kimi-k2.5 --workload agent-swarm --concurrency 100 --tpot 60ms",
            f"cost {PLAN} --cached-share 0.8",
        ),
    ),
    Page(
        "company", "API or own nodes at two billion tokens a month",
        "A company uses two billion tokens a month, three input tokens for each output token. Should it rent or "
        "buy nodes, or stay with an API?",
        (
            "plan kimi-k2.5 --gpu 8xH200 --ram 2TiB --cpu 2xepyc-9004 --cores 128 --context 64k --concurrency 32 "
            "--input-tokens 3072 "
            f"--output-tokens 1024 --output {PLAN}",
            f"cost {PLAN} --tokens-per-month 2e9 --cached-share 0.5 --electricity 0.15 --operations 3000",
            f"cost {PLAN} --tokens-per-month 2e9 --cached-share 0.5 --electricity 0.15 --operations 3000 "
            "--hardware-usd 350000",
        ),
    ),
)  # fmt: skip


def ran(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """A command as a user types it, in a folder of its own."""
    words = [sys.executable, "-m", "moeplan", *shlex.split(command)]
    environment = {"PYTHONPATH": str(ROOT), "COLUMNS": "100", "NO_COLOR": "1", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1):
        raise SystemExit(f"moeplan {command}: {done.stderr}")
    return done


def sentence(value: dict[str, Any]) -> str:
    """What a command's JSON comes down to."""
    kind = value["schema"].partition(".")[2].partition("/")[0]
    if kind == "recommend" and value["have"] is not None:
        return f"{at_hand(value['have'])}; {value['why']}"
    if kind != "plan":
        return str(value["why"])
    if not value["candidates"]:
        return "Nothing fits."
    best = value["candidates"][0]
    rate, quality = best["performance"]["decode_tokens_per_s_per_request"], best["quantization"]
    return (
        f"{best['engine']['name']} with {quality['publisher']}/{quality['name']} {best['verdict']}: "
        f"{rate['low']:.3g}-{rate['high']:.3g} tokens/s for each request; {best['why']}"
    )


def at_hand(have: dict[str, Any]) -> str:
    """The machine at hand and the upgrade with the most gain for its price."""
    met = "meets the target" if have["meets_target"] else f"does not meet the target ({have['why'] or have['verdict']})"
    paid = [one for one in have["upgrades"] if one["gain_per_1000_usd"] is not None and one["gain"] > WORTH]
    if not paid:
        return f"the machine at hand {met}, and no upgrade with a known price makes it faster"
    best = paid[0]
    gain = f"{best['what']}, {best['gain']:.2f} times the rate with {best['candidate']}"
    return f"the machine at hand {met}; most gain for the money: {gain}"


def page(one: Page) -> str:
    """The page as Markdown."""
    answers, parts = [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for command in one.commands:
            done = ran(command, folder)
            value = json.loads(ran(f"{command} --json", folder).stdout)
            answers.append(f"- `moeplan {command.split()[0]}`: {sentence(value)}")
            parts += ["```console", f"$ moeplan {command}", done.stdout.rstrip(), "```", ""]
    head = [f"# {one.title}", "", f"> {one.question}", "", "Made by `python -m examples.make`.", "", *answers, ""]
    return "\n".join([*head, *parts])


def main() -> int:
    """Write the pages that are named, or all."""
    wanted = sys.argv[1:] or [one.name for one in PAGES]
    for one in PAGES:
        if one.name in wanted:
            text = page(one)
            (ROOT / "examples" / f"{one.name}.md").write_text(text, encoding="utf-8")
            print(f"examples/{one.name}.md", file=sys.stderr)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
