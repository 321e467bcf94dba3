"""Has serving become dearer? The CPU of an image beside the CPU of a message in the seeds' loop, against the ratio on record.

    python benchmarks/serving/regression.py             exit code 1 when a ratio has lost a fifth (CI runs this)
    python benchmarks/serving/regression.py --record    write the ratios of this run down as the new reference

CPU seconds, Redis' included, because they move less than rates with what else the machine does, and a ratio, because machines differ. Both
sides run in turn, and the cheapest round of each counts: neighbours only ever add.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from nets import NETS, Net
from rows import SHARE, Context, drained
from stand import Process, Stand, stand

REFERENCE = Path(__file__).with_name("reference.json")
LOST = 0.2
"""The share of the ratio whose loss is a regression."""
IMAGES = {"lenet5": 12_000, "cnn3": 6_000}
MESSAGES = 600


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="how often each side is measured (3)")
    parser.add_argument("--record", action="store_true", help="make this run the reference")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="continual-bench-") as folder, stand(Path(folder) / "stand") as server:
        ratios = {name: _ratio(Context(server, options.rounds, 1.0), NETS[name]) for name in IMAGES}
    if options.record:
        REFERENCE.write_text(json.dumps(ratios, indent=1) + "\n")
    reference: dict[str, float] = json.loads(REFERENCE.read_text())
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


def _ratio(context: Context, net: Net) -> float:
    costs = [(_seeds_cost(context.stand, net), _our_cost(context, net)) for _ in range(context.rounds)]
    seeds, ours = (min(side) for side in zip(*costs, strict=True))
    return round(seeds / ours, 2)


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
