"""Measure Google Research Football where it is installed, for the pages of a book that is built where it is not.

    python workflow/measure_football.py

Writes `football_<what>.parquet` and a rendered frame of each scenario to `data/measurements/`; takes about an hour on
two cores. The page `environments/football` shows these, or measures anew if the package is there.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import platform
import sys
import time
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from inconcert import provenance, records, runs
from inconcert.config import InputError
from inconcert.envs import football
from inconcert.envs import football_players as players
from inconcert.exhibits import ROOT

FOLDER = ROOT / "data" / "measurements"
WHAT = ("hands", "repeats", "track", "pace", "returns")
FRAME_WIDTH = 480
GAMMA = 0.6
"""The software renderer's pictures are dark."""
FRAME_STEP = 15
"""Step of the scripted attack that is rendered."""
ODDS = 7
"""Seed of the attack that is drawn."""


def returns(episodes: int) -> pd.DataFrame:
    """Episodes of the scripted players in all scenarios."""
    parts = [
        players.play(name, player, episodes).assign(scenario=name, player=player, share="each")
        for name, player in product(football.TASKS, players.PLAYERS)
    ]
    first = football.TASKS[0]
    parts.append(
        players.play(first, "attack", episodes, share="first").assign(scenario=first, player="attack", share="first")
    )
    return pd.concat(parts, ignore_index=True)


def hands() -> pd.DataFrame:
    """Who plays whom, with the cure and without."""
    options: tuple[football.Players, ...] = ("fixed", "switching")
    return pd.concat([players.hands(football.TASKS[0], one, 160) for one in options], ignore_index=True)


def pace(seconds: float) -> pd.DataFrame:
    """Speed of random stepping, by scenario and number of workers."""
    rows: list[dict[str, Any]] = []
    for name, workers in product(football.TASKS, (1, 2)):
        load = os.getloadavg()[0]
        rows.append({"scenario": name, "workers": workers, "load": load, **players.pace(name, workers, seconds)})
    return pd.DataFrame(rows)


def frame(name: str, path: Path) -> None:
    """Render one moment of a scripted attack, off screen (software rendering: half a minute), and write it as PNG."""
    from PIL import Image

    football.check_installed()
    match = football.Match(name, "scoring", "each", "fixed")
    moment = match.reset(ODDS)
    actions = np.full(len(moment.obs), football.ACTIONS.index("right"))
    for _ in range(FRAME_STEP):
        moment, *_ = match.step(actions)
    bright = 255 * (match.picture() / 255) ** GAMMA
    picture = Image.fromarray(bright.astype(np.uint8))
    height = round(FRAME_WIDTH * picture.height / picture.width)
    small = picture.resize((FRAME_WIDTH, height), Image.Resampling.LANCZOS)
    small.quantize(96, dither=Image.Dither.NONE).save(path, optimize=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=100, help="episodes of each player in each scenario")
    parser.add_argument("--seconds", type=float, default=20, help="of every measurement of speed")
    parser.add_argument(
        "--only", nargs="+", choices=[*WHAT, "frames"], default=[*WHAT, "frames"], help="what to measure"
    )
    arguments = parser.parse_args()
    try:
        football.check_installed()
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    meta = {
        "date": datetime.now(UTC).date().isoformat(),
        "commit": runs.commit(),
        "hardware": f"{provenance.processor()}, {os.cpu_count()} cores",
        "versions": {name: version(name) for name in ("gfootball", "gym", "numpy", "torch", "inconcert")}
        | {"python": platform.python_version()},
    }
    tables = {
        "hands": hands,
        "repeats": lambda: players.repeats(football.TASKS[0], 20),
        "track": lambda: players.track(football.TASKS[0], "attack", ODDS),
        "pace": lambda: pace(arguments.seconds),
        "returns": lambda: returns(arguments.episodes),
    }
    for what in [what for what in WHAT if what in arguments.only]:
        path = FOLDER / f"football_{what}.parquet"
        start = time.perf_counter()
        table = tables[what]()
        seconds = round(time.perf_counter() - start, 1)
        records.write_atomic(path, records.to_bytes(table.assign(wall_s=seconds), meta))
        print(f"{path}: {len(table)} rows in {seconds} s", flush=True)
    context = multiprocessing.get_context("spawn")  # a process renders for one engine only
    for name in football.TASKS if "frames" in arguments.only else ():
        process = context.Process(target=frame, args=(name, FOLDER / f"football_{name}.png"))
        process.start()
        process.join()
        if process.exitcode:
            return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
