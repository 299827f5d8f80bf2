"""Rounds for as long as asked: `python -m tests.differential --seconds 300 --seed 1` (as root)."""

from __future__ import annotations

import argparse
import random
import sys
import time

from tests.differential.compare import Round, run_round

SHOWN = 5


def failures(result: Round) -> list[str]:
    """What is wrong with a round, the first differences in full."""
    found = [str(difference) for difference in result.differences[:SHOWN]]
    if len(result.differences) > SHOWN:
        found.append(f"and {len(result.differences) - SHOWN} more differences")
    if result.share < result.wanted_share:
        found.append(f"XDP forwarded {result.share:.0%} only: {result.reasons}")
    return found


def command(seed: int, frames: int) -> str:
    """What makes one round again."""
    return f"python -m tests.differential --seed {seed} --rounds 1 --frames {frames}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.differential", description=__doc__)
    parser.add_argument("--seconds", type=float, default=300, help="begin no round after these")
    parser.add_argument("--seed", type=int, help="of the first round; each next one adds 1")
    parser.add_argument("--frames", type=int, default=10_000, help="per round")
    parser.add_argument("--rounds", type=int, default=sys.maxsize, help="at most")
    arguments = parser.parse_args()
    seed = random.randrange(1 << 32) if arguments.seed is None else arguments.seed
    print(f"seed {seed}", flush=True)
    end, frames = time.monotonic() + arguments.seconds, 0
    for number in range(arguments.rounds):
        if number and time.monotonic() > end:
            break
        again = f"again: {command(seed + number, arguments.frames)}"
        try:
            result = run_round(seed + number, arguments.frames)
        except BaseException:
            print(again, flush=True)
            raise
        print(result, flush=True)
        if wrong := failures(result):
            print(*wrong, f"router: {result.design}", again, sep="\n")
            return 1
        frames += result.frames
    print(f"{frames} frames, no difference")
    return 0


if __name__ == "__main__":
    sys.exit(main())
