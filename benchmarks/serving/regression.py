"""Has serving become dearer? The CPU of an image beside the CPU of a message in the seeds' loop, against the ratio on record.

    python benchmarks/serving/regression.py             exit code 1 when a ratio has lost a fifth (CI runs this)
    python benchmarks/serving/regression.py --record    write the ratios of this run down as the new reference

CPU seconds, Redis' included, because they move less than rates with what else the machine does, and a ratio, because machines differ. Both
sides run in turn, and the cheapest round of each counts: neighbours only ever add. A ratio that looks lost is given more rounds: three on a
shared machine scatter by a quarter, and what really became dear stays dear.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from nets import NETS, Net
from rows import SHARE, Context, drained
from stand import Process, Stand, stand

REFERENCE = Path(__file__).with_name("reference.json")
LOST = 0.2
"""The share of the ratio whose loss is a regression."""
IMAGES = {"lenet5": 12_000, "cnn3": 6_000}
MESSAGES = 600
MOST_ROUNDS = 12


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="how often each side is measured (3)")
    parser.add_argument("--record", action="store_true", help="make this run the reference")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="continual-bench-") as folder, stand(Path(folder) / "stand") as server:
        reference: dict[str, float] = json.loads(REFERENCE.read_text())
        bars = dict.fromkeys(IMAGES, math.inf) if options.record else {n: (1 - LOST) * reference[n] for n in IMAGES}
        context = Context(server, 1, 1.0)
        ratios = {
            name: ratio_of(partial(_round, context, NETS[name]), bars[name], options.rounds, MOST_ROUNDS)
            for name in IMAGES
        }
    if options.record:
        reference = ratios
        REFERENCE.write_text(json.dumps(ratios, indent=1) + "\n")
    for name, ratio in ratios.items():
        print(
            f"{NETS[name].title}: an image costs a {ratio:.1f}th of the seeds' message; on record {reference[name]:.1f}"
        )
    if lost := regressions(ratios, reference):
        print(
            f"serving lost more than {LOST:.0%} of its ratio: {', '.join(lost)}. Find what became dear, or record a new reference and say why."
        )
    return 1 if lost else 0


def regressions(ratios: Mapping[str, float], reference: Mapping[str, float]) -> list[str]:
    """Networks whose ratio is below what a loss of `LOST` leaves."""
    return [name for name, ratio in ratios.items() if ratio < (1 - LOST) * reference[name]]


def ratio_of(measure: Callable[[], tuple[float, float]], bar: float, rounds: int, most: int) -> float:
    """The cheapest message ÷ the cheapest image over `rounds` rounds, or over up to `most` while that is below the bar."""
    costs = [measure() for _ in range(rounds)]
    while (ratio := _cheapest(costs)) < bar and len(costs) < most:
        costs.append(measure())
    return round(ratio, 2)


def _cheapest(costs: Sequence[tuple[float, float]]) -> float:
    seeds, ours = (min(side) for side in zip(*costs, strict=True))
    return seeds / ours


def _round(context: Context, net: Net) -> tuple[float, float]:
    return _seeds_cost(context.stand, net), _our_cost(context, net)


def _our_cost(context: Context, net: Net) -> float:
    """CPU microseconds per image, workers and Redis."""
    result = drained(context, net, {"v1": 2}, [("v1", SHARE)], IMAGES[net.name])
    return result.cpu_us + result.redis_us


def _seeds_cost(stand: Stand, net: Net) -> float:
    """CPU microseconds per message of the seeds' reading loop and its Redis."""
    stand.reset()
    stand.fill_seeds(net, MESSAGES, "seed")
    loop = Process.start("seeds.py", "S", str(stand.port), "seed", net.name, "1")
    redis_cpu = stand.redis_seconds()
    loop.go()
    count, cpu = loop.result()
    assert count == MESSAGES, f"the seeds' loop answered {count:.0f} of {MESSAGES}"
    return (cpu + stand.redis_seconds() - redis_cpu) / MESSAGES * 1e6


if __name__ == "__main__":
    sys.exit(main())
