"""The rows of the table: what is compared with what, and the goal of each (docs/performance.md says why these)."""

from __future__ import annotations

import operator
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from loops import open_loop
from machine import Quiet, Span, span
from nets import NETS, Net, onnx_of
from stand import KEYS, Drained, Process, Stand

Measure = Callable[[], tuple[float, Span]]
SHARE = 10_000


@dataclass(frozen=True, slots=True)
class Row:
    """One line: a ratio (or a count) beside its goal."""

    goal: str
    what: str
    value: float
    sign: str
    limit: float
    samples: tuple[float, ...] = ()
    note: str = ""

    @property
    def is_met(self) -> bool:
        return {"≥": operator.ge, "≤": operator.le, "=": operator.eq}[self.sign](self.value, self.limit)


@dataclass
class Context:
    """What a row needs: the stand, how often to repeat, how much of a full run, and who disturbed."""

    stand: Stand
    rounds: int
    scale: float
    quiet: Quiet = field(default_factory=Quiet)
    tell: Callable[[str], None] = lambda _: None

    def interleave(self, measures: Mapping[str, Measure]) -> dict[str, list[float]]:
        """Each measure once a round, in turn, so that whatever the machine does hits all of them."""
        found: dict[str, list[float]] = {name: [] for name in measures}
        for number in range(self.rounds):
            for name, measure in measures.items():
                self.tell(f"{name} ({number + 1}/{self.rounds})")
                found[name].append(self.quiet.measure(measure))
        return found

    def count(self, net: Net) -> int:
        return max(640, int(net.drain * self.scale))


def ratio(found: Mapping[str, Sequence[float]], above: str, below: str) -> tuple[float, tuple[float, ...]]:
    """Median of the rounds' ratios, and each of them."""
    pairs = tuple(a / b for a, b in zip(found[above], found[below], strict=True))
    return statistics.median(pairs), pairs


# Measures -------------------------------------------------------------------------------------------------------------------------


def drained(
    context: Context,
    net: Net,
    workers: Mapping[str, int],
    shares: Sequence[tuple[str, int]],
    count: int,
    **route: object,
) -> Drained:
    """A backlog of `count` worked off by `workers` processes of each version."""
    stand = context.stand
    stand.reset()
    stand.route(shares, **route)  # type: ignore[arg-type]  # shadow and shadow_bp as they are
    for version, processes in workers.items():
        stand.start_workers(net, processes, version)
    for worker in stand.workers:
        worker.pause()
    stand.fill(net, count)
    return stand.drain(count)


def continual(context: Context, net: Net, processes: int = 2) -> Measure:
    def run() -> tuple[float, Span]:
        result = drained(context, net, {"v1": processes}, [("v1", SHARE)], context.count(net))
        return result.rate, result.span

    return run


def seeds(context: Context, net: Net, mode: str, processes: int, threads: int) -> Measure:
    """Messages per second of the seeds' loop; a fraction of the backlog is enough for a loop this slow."""
    count = max(400, context.count(net) // 16)

    def run() -> tuple[float, Span]:
        stand = context.stand
        stand.reset()
        stand.fill_seeds(net, count, "seed")
        args = (mode, str(stand.port), "seed", net.name, str(threads))
        loops = [Process.start("seeds.py", *args) for _ in range(processes)]
        with span() as taken:
            for loop in loops:
                loop.go()
            done = sum(loop.result()[0] for loop in loops)
        assert done == count, f"the seeds' loop answered {done} of {count}"
        return count / taken.seconds, taken

    return run


def ceiling(context: Context, net: Net, cores: Sequence[Sequence[int]], *, cpu: bool = False) -> Measure:
    """Images per second of the bare runtime, one process per entry of `cores`; or its CPU microseconds per image."""
    path = context.stand.folder.parent / "nets" / f"{net.name}.onnx"
    onnx_of(net, path.parent)
    seconds = max(1.0, 3 * context.scale)

    def run() -> tuple[float, Span]:
        context.stand.reset()
        processes = [Process.start("ceiling.py", str(path), net.name, str(seconds), cores=own) for own in cores]
        with span() as taken:
            for process in processes:
                process.go()
            results = [process.result() for process in processes]
        if cpu:
            return sum(r[1] for r in results) / sum(r[0] for r in results) * 1e6, taken
        return sum(images / lasted for images, _, lasted in results), taken

    return run


# Rows -----------------------------------------------------------------------------------------------------------------------------

SEED_GOALS = {"cnn3": ("G1", 8.0, "G2", 11.0), "lenet5": ("G3", 15.0, "G3", 30.0)}
CEILING_GOALS = {"cnn3": 0.75, "lenet5": 0.45, "resnet18": 0.95}


def against_seeds(context: Context) -> list[Row]:
    """G1–G4: a drained stream against the seeds' loop at its better setting, and against the bare runtime on the same cores."""
    rows = []
    for net in NETS.values():
        measures = {"Continual": continual(context, net), "C": ceiling(context, net, ((), ()))}
        if net.name in SEED_GOALS:
            for mode in ("S", "S2"):
                measures |= {
                    f"{mode} 2x1": seeds(context, net, mode, 2, 1),
                    f"{mode} 1x2": seeds(context, net, mode, 1, 2),
                }
        found = context.interleave(measures)
        rows += _seed_rows(net, found)
        share, pairs = ratio(found, "Continual", "C")
        rate = statistics.median(found["Continual"])
        rows.append(
            Row(
                "G4",
                f"{net.title}, share of the runtime's ceiling",
                share,
                "≥",
                CEILING_GOALS[net.name],
                pairs,
                f"{rate:,.0f} images/s",
            )
        )
    return rows


def _seed_rows(net: Net, found: dict[str, list[float]]) -> list[Row]:
    if net.name not in SEED_GOALS:
        return []
    first, limit, second, flushed_limit = SEED_GOALS[net.name]
    rows = []
    for goal, mode, title, at_least in ((first, "S", "S", limit), (second, "S2", "S′", flushed_limit)):
        best = max((f"{mode} 2x1", f"{mode} 1x2"), key=lambda name: statistics.median(found[name]))
        value, pairs = ratio(found, "Continual", best)
        note = f"{title} {statistics.median(found[best]):,.0f}/s with {best[-3:]} processes x threads"
        rows.append(Row(goal, f"{net.title}, drained, times {title}", value, "≥", at_least, pairs, note))
    return rows


def one_worker(context: Context) -> list[Row]:
    """G5, G6: one worker on a core of its own, Redis on the other; what it costs beyond the runtime."""
    net, stand = NETS["cnn3"], context.stand
    costs: list[float] = []

    def alone() -> tuple[float, Span]:
        stand.reset()
        stand.route([("v1", SHARE)])
        (worker,) = stand.start_workers(net, 1, cores=(0,))
        worker.pause()
        stand.fill(net, context.count(net))
        result = stand.drain(context.count(net))
        costs.append(result.cpu_us)
        return result.rate, result.span

    found = context.interleave(
        {"worker": alone, "ORT": ceiling(context, net, ((0,),)), "ORT CPU": ceiling(context, net, ((0,),), cpu=True)}
    )
    share, pairs = ratio(found, "worker", "ORT")
    runtime, cost = statistics.median(found["ORT CPU"]), statistics.median(costs)
    note = f"{cost:.0f} µs per image, {runtime:.0f} µs of them in the runtime"
    return [
        Row("G5", "one worker, Redis on the other core, share of the one-thread runtime", share, "≥", 0.90, pairs),
        Row("G6", "worker CPU beyond the runtime ÷ the runtime's CPU", (cost - runtime) / runtime, "≤", 0.15, (), note),
    ]


CANARY_GOALS = {"lenet5": 0.6, "cnn3": 0.85, "resnet18": 0.97}


def canaries(context: Context) -> list[Row]:
    """G14: what a canary of a tenth costs the whole, without and with every request answered twice."""
    rows = []
    for net in NETS.values():
        count = context.count(net)

        def run(
            workers: dict[str, int], shares: list[tuple[str, int]], net: Net = net, count: int = count, **route: object
        ) -> Measure:
            def measure() -> tuple[float, Span]:
                result = drained(context, net, workers, shares, count, **route)
                return result.rate, result.span

            return measure

        tenth = [("v1", 9 * SHARE // 10), ("v2", SHARE // 10)]
        measures = {"alone": run({"v1": 2}, [("v1", SHARE)]), "canary": run({"v1": 2, "v2": 1}, tenth)}
        found = context.interleave(measures)
        value, pairs = ratio(found, "canary", "alone")
        rows.append(Row("G14", f"{net.title}, canary of a tenth ÷ none", value, "≥", CANARY_GOALS[net.name], pairs))
    return rows


def shadows(context: Context) -> list[Row]:
    """G14: every request answered by both versions; half of the rate is what the doubled work leaves. Timed until both have answered."""
    net = NETS["cnn3"]
    count = context.count(net)

    def shadowed() -> tuple[float, Span]:
        tenth = [("v1", 9 * SHARE // 10), ("v2", SHARE // 10)]
        stand = context.stand
        stand.reset()
        stand.route(tenth, shadow=["v1", "v2"], shadow_bp=SHARE)
        for version in ("v1", "v2"):
            stand.start_workers(net, 1, version)
        for worker in stand.workers:
            worker.pause()
        stand.fill(net, count)
        with span() as taken:
            stand.drain(count)
            while any(group["pending"] or group["lag"] for group in stand.client.xinfo_groups(KEYS.requests)):
                pass
        return count / taken.seconds, taken

    found = context.interleave({"alone": continual(context, net), "shadowed": shadowed})
    value, pairs = ratio(found, "shadowed", "alone")
    return [
        Row(
            "G14",
            f"{net.title}, every request answered twice ÷ half the rate",
            2 * value,
            "≥",
            0.85,
            tuple(2 * p for p in pairs),
        )
    ]


def foreign(context: Context) -> list[Row]:
    """G15: the share of what the runtime reaches, beside one busy stranger, against the same share without it."""
    net = NETS["cnn3"]

    def beside(measure: Measure) -> Measure:
        def run() -> tuple[float, Span]:
            busy = Process.start("busy.py")
            try:
                return measure()
            finally:
                busy.close()

        return run

    ours, bare = continual(context, net), ceiling(context, net, ((), ()))
    found = context.interleave({"alone": ours, "C": bare, "beside": beside(ours), "C beside": beside(bare)})
    pairs = tuple(
        (b / cb) / (a / c)
        for a, c, b, cb in zip(found["alone"], found["C"], found["beside"], found["C beside"], strict=True)
    )
    return [
        Row("G15", "share of the ceiling beside one busy process ÷ alone", statistics.median(pairs), "≥", 0.85, pairs)
    ]


def capacity(context: Context, net: Net) -> float:
    """Answers per second of two workers while the client that will measure them sends more than they can take, on the same cores."""
    drain = drained(context, net, {"v1": 2}, [("v1", SHARE)], context.count(net)).rate
    context.stand.reset()
    context.stand.route([("v1", SHARE)])
    context.stand.start_workers(net, 2)
    seen = open_loop(context.stand, net, drain, max(2.0, 5 * context.scale))
    return float((~np.isnan(seen.took)).sum()) / seen.until


def latency(context: Context) -> list[Row]:
    """G11, G13: requests at 0.65 of what two workers can do beside the client, and at half of it while the version changes."""
    net, stand = NETS["cnn3"], context.stand
    rate = capacity(context, net)
    full_batch = 64 * ceiling(context, net, ((0,),), cpu=True)()[0] / 1e6
    tails, changes, lost = [], [], 0
    for number in range(context.rounds):
        context.tell(f"open loop ({number + 1}/{context.rounds})")
        stand.reset()
        stand.route([("v1", SHARE)])
        stand.start_workers(net, 2)
        seen = open_loop(stand, net, 0.65 * rate, max(2.0, 8 * context.scale))
        tails.append(seen.quantile(0.99) / full_batch)
        stand.reset()
        stand.route([("v1", SHARE), ("v2", 0)])  # as a canary that is about to be promoted: v2 has a group and reads
        stand.start_workers(net, 2)
        stand.start_workers(net, 2, "v2")
        seconds = max(4.0, 12 * context.scale)
        moved = open_loop(stand, net, 0.5 * rate, seconds, at_half=lambda: stand.route([("v2", SHARE), ("v1", 0)]))
        steady, during = moved.window(0, seconds / 2 - 0.5), moved.window(seconds / 2 - 0.5, seconds / 2 + 0.5)
        changes.append(during.quantile(0.99) / steady.quantile(0.99))
        lost += seen.lost + moved.lost
    return [
        Row(
            "G11",
            "open loop at 0.65 of capacity: p99 ÷ one full batch's inference",
            statistics.median(tails),
            "≤",
            1.0,
            tuple(tails),
            f"one full batch takes {full_batch * 1000:.1f} ms",
        ),
        Row("G13", "version change under load: requests without an answer", lost, "=", 0),
        Row("G13", "… p99 within ±0.5 s of it ÷ p99 before", statistics.median(changes), "≤", 1.3, tuple(changes)),
    ]


PARTS: dict[str, Callable[[Context], list[Row]]] = {
    "seeds": against_seeds,
    "worker": one_worker,
    "latency": latency,
    "canary": canaries,
    "shadow": shadows,
    "foreign": foreign,
}
