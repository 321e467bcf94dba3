"""Continual beside its peers: the same ONNX file, the same images, 64 requests outstanding, one machine, one run.

    python benchmarks/peers/run.py                      sweep, five rounds, table (`make bench-peers`, under 15 minutes)
    python benchmarks/peers/run.py --only mlserver ray  beside some peers only
    python benchmarks/peers/run.py --part sweep         the parts one by one, on machines that are quiet for minutes only;
    python benchmarks/peers/run.py --part rounds --rounds 1    rounds add up in <out>/rounds.json until it is removed
    python benchmarks/peers/run.py --part table

Each peer is taken at its fastest setting of a small sweep. Rounds are interleaved; a measure during which strangers used more than 8 % of the
cores is taken again. Peers answer HTTP, Continual is measured through Redis Streams and, beside it, through its own gateway: the protocols are
not equal, and the table has both. Exit code 1 if a goal is missed or a peer could not be measured.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "serving"))

from contestants import PEERS, Loop, Setting, Stage
from environments import MissingPeerError, python_of, trim, version_of
from load import OUTSTANDING, FailedRequestError
from machine import FOREIGN_LIMIT, cpu_seconds, family, span
from nets import NETS
from rich.console import Console
from rich.table import Table
from rows import Row
from stand import stand
from sweep import GATEWAY, TITLES, settings_of

TRIES = 3
SWEEP_SECONDS, WARM_SECONDS, ROUND_SECONDS = 2.0, 1.0, 4.0
GOALS = (
    ("G8", "mlserver", "rps", "≥", 4.0),
    ("G8", "mlserver", "p50_ms", "≤", 0.3),
    ("G8", "mlserver", "p99_ms", "≤", 0.4),
    ("G9", "litserve", "rps", "≥", 5.0),
    ("G9", "bentoml", "rps", "≥", 12.0),
    ("G9", "ray", "rps", "≥", 20.0),
    ("G10", "fastapi", "rps", "≥", 2.5),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Measured:
    """One closed loop at one setting."""

    rps: float
    p50_ms: float
    p99_ms: float
    server_us: float
    """CPU of everything but the client, microseconds per request."""
    client_us: float
    foreign: float
    """Share of all cores that strangers used."""


def measure(loop: Loop, seconds: float, tries_at_most: int = TRIES) -> Measured:
    """The least disturbed of some tries; the first undisturbed one ends them."""
    tries: list[Measured] = []
    for _ in range(tries_at_most):
        servers = [pid for pid in family() if pid != os.getpid()]
        with span() as taken:
            before = cpu_seconds(servers)
            load = loop(seconds)
            used = cpu_seconds(servers) - before
        count = len(load.took)
        tries.append(
            Measured(
                load.rps, load.quantile_ms(0.5), load.quantile_ms(0.99), used / count * 1e6,
                load.cpu_seconds / count * 1e6, taken.foreign,
            )
        )  # fmt: skip
        if taken.foreign <= FOREIGN_LIMIT:
            break
    return min(tries, key=lambda one: one.foreign)


def run_setting(setting: Setting, stage: Stage, seconds: float) -> Measured:
    with setting.start(stage) as loop:
        loop(WARM_SECONDS)
        return measure(loop, seconds, stage.tries)


# Parts --------------------------------------------------------------------------------------------------------------------------


def sweep(stage: Stage, chosen: Sequence[str], out: Path, tell: Callable[[str], None]) -> None:
    """Every setting once; sweep.json then holds the figures, and who could not be measured."""
    document = _read(out / "sweep.json")
    for who in chosen:
        found = []
        for setting in settings_of(who):
            tell(f"sweep: {who} {setting.title}")
            try:
                found.append({"options": setting.options, **asdict(run_setting(setting, stage, SWEEP_SECONDS))})
            except MissingPeerError as error:
                document[who] = {"missing": str(error)}
                break
            except FailedRequestError as error:
                found.append({"options": setting.options, "failed": str(error)[-1000:]})
        if found:
            document[who] = {"settings": found}
        _write(out / "sweep.json", document)


def best_of(document: Mapping[str, object], who: str) -> Setting | None:
    """The fastest setting that the sweep found; None if there is none."""
    entry = document.get(who)
    settings = entry.get("settings", []) if isinstance(entry, dict) else []
    measured = [found for found in settings if "rps" in found]
    return Setting(who, max(measured, key=lambda found: found["rps"])["options"]) if measured else None


def rounds(stage: Stage, chosen: Sequence[str], out: Path, count: int, tell: Callable[[str], None]) -> None:
    """Everybody at the best setting, in turn; each finished round is added to rounds.json."""
    swept = _read(out / "sweep.json")
    settings = [setting for who in chosen if (setting := best_of(swept, who))]
    if not settings:
        sys.exit(f"{out / 'sweep.json'} has no setting of {', '.join(chosen)}: run --part sweep first")
    document = _read(out / "rounds.json")
    done = document.setdefault("rounds", [])
    assert isinstance(done, list)
    for number in range(count):
        one = {}
        for setting in settings:
            tell(f"round {number + 1} of {count}: {setting.who}")
            one[setting.who] = asdict(run_setting(setting, stage, ROUND_SECONDS))
        done.append(one)
        _write(out / "rounds.json", document)


def table(chosen: Sequence[str], out: Path) -> bool:
    """Print and write what was found; whether every goal is met."""
    swept, done = _read(out / "sweep.json"), _read(out / "rounds.json")["rounds"]
    assert isinstance(done, list)
    complete = [one for one in done if all(who in one for who in chosen if best_of(swept, who))]
    assert complete, "no round holds all contestants: run --part rounds"
    rows = [row for goal in GOALS if goal[1] in chosen for row in _rows(goal, complete)]
    missing = [who for who in chosen if best_of(swept, who) is None]
    contestants = {who: _contestant(who, swept, complete) for who in chosen if who not in missing}
    document = {
        "machine": {"cores": os.cpu_count(), "python": platform.python_version()}, "outstanding": OUTSTANDING,
        "net": NETS["cnn3"].title, "rounds": len(complete), "missing": {who: swept.get(who) for who in missing},
        "contestants": contestants,
        "rows": [
            {"goal": r.goal, "what": r.what, "value": r.value, "wanted": f"{r.sign} {r.limit:g}", "met": r.is_met,
             "samples": r.samples, "note": r.note} for r in rows
        ],
    }  # fmt: skip
    _write(out / "peers.json", document)
    _show(rows, contestants, missing)
    _plot(contestants, out / "peers.png")
    print(f"written: {out}/peers.json, {out}/peers.png, {out}/sweep.json")
    return all(row.is_met for row in rows) and not missing


def _rows(goal: tuple[str, str, str, str, float], done: Sequence[Mapping[str, Mapping[str, float]]]) -> list[Row]:
    """The goal's line, and beside it the same ratio of our gateway, which is only told."""
    name, peer, figure, sign, limit = goal
    what = {"rps": "requests/s", "p50_ms": "p50", "p99_ms": "p99"}[figure]
    if not all(peer in one for one in done):
        return []
    pairs = tuple(one["Continual"][figure] / one[peer][figure] for one in done)
    beside = median(one[GATEWAY][figure] / one[peer][figure] for one in done)
    return [
        Row(name, f"{what} ÷ {TITLES[peer]}", median(pairs), sign, limit, pairs, f"through our gateway: {beside:.2f}")
    ]


def _contestant(who: str, swept: Mapping[str, object], done: Sequence[Mapping[str, Mapping[str, float]]]) -> dict[str, object]:  # fmt: skip
    setting = best_of(swept, who)
    assert setting is not None
    version = ""
    if who in PEERS:
        with suppress(MissingPeerError):
            version = version_of(python_of(who), PEERS[who].package)
    figures = {name: median(one[who][name] for one in done) for name in done[0][who]}
    return {"title": TITLES[who], "version": version, "setting": setting.title, **figures}


def _show(rows: Sequence[Row], contestants: Mapping[str, Mapping[str, object]], missing: Sequence[str]) -> None:
    console = Console(width=170)
    figures = Table(
        "who", "version", "best setting", "requests/s", "p50 ms", "p99 ms", "CPU µs: servers", "client", "strangers"
    )
    for one in contestants.values():
        numbers = [f"{one[name]:,.0f}" for name in ("rps",)] + [f"{one[name]:.1f}" for name in ("p50_ms", "p99_ms")]
        costs = [f"{one[name]:,.0f}" for name in ("server_us", "client_us")]
        figures.add_row(
            str(one["title"]), str(one["version"]), str(one["setting"]), *numbers, *costs, f"{one['foreign']:.1%}"
        )
    console.print(figures)
    goals = Table("goal", "Continual over Redis Streams", "figure", "wanted", "", "rounds (min … max)", "note")
    for row in rows:
        verdict = "[green]met[/]" if row.is_met else "[red]MISSED[/]"
        spread = f"{min(row.samples):.2f} … {max(row.samples):.2f}"
        goals.add_row(row.goal, row.what, f"{row.value:.2f}", f"{row.sign} {row.limit:g}", verdict, spread, row.note)
    console.print(goals)
    for who in missing:
        console.print(f"{TITLES[who]} was not measured: {who} in sweep.json says why")


def _plot(contestants: Mapping[str, Mapping[str, object]], path: Path) -> None:
    import matplotlib as mpl  # noqa: PLC0415 -- slow to import, wanted at the end only

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    names = [str(one["title"]) for one in contestants.values()]
    colours = ["#27a" if who in ("Continual", GATEWAY) else "#999" for who in contestants]
    shown = (("rps", "requests per second"), ("p99_ms", "p99, ms"), ("server_us", "CPU µs per request, all servers"))
    figure, all_axes = plt.subplots(1, 3, figsize=(13, 3.2), sharey=True, layout="constrained")
    for axes, (figure_name, label) in zip(all_axes, shown, strict=True):
        values = [float(str(one[figure_name])) for one in contestants.values()]
        axes.bar_label(axes.barh(names, values, color=colours), fmt="{:,.0f}", padding=2)
        axes.set(xlabel=label)
        axes.margins(x=0.18)
    all_axes[0].invert_yaxis()
    figure.savefig(path, dpi=110)


def _read(path: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads(path.read_text()) if path.exists() else {}
    return found


def _write(path: Path, document: Mapping[str, object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("all", "install", "sweep", "rounds", "table"), default="all")
    parser.add_argument("--only", nargs="+", choices=list(TITLES), metavar="WHO", help=", ".join(TITLES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tries", type=int, default=TRIES, help="how often a disturbed measure is taken at most")
    parser.add_argument("--out", type=Path, default=Path("out/bench-peers"))
    return parser.parse_args()


def _install(chosen: Sequence[str], tell: Callable[[str], None]) -> None:
    """Before anything is timed. Who cannot be installed is named by the sweep."""
    for who in chosen:
        if who in PEERS:
            tell(f"installing {who}")
            with suppress(MissingPeerError):
                python_of(who)


def main() -> int:
    options = _options()
    chosen = [who for who in TITLES if not options.only or who in {*options.only, "Continual", GATEWAY}]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # blocks end as they do at Ctrl-C
    began = time.monotonic()
    if options.part == "all":
        for file in ("sweep.json", "rounds.json"):
            (options.out / file).unlink(missing_ok=True)
    with Console(stderr=True).status("starting") as status:
        tell = status.update
        if options.part in ("all", "install"):
            _install(chosen, tell)
        if options.part in ("all", "sweep", "rounds"):
            with (
                tempfile.TemporaryDirectory(prefix="continual-bench-") as folder,
                stand(Path(folder) / "stand") as server,
            ):
                stage = Stage(NETS["cnn3"], server, Path(folder), options.tries)
                if options.part != "rounds":
                    sweep(stage, [who for who in chosen if not options.only or who in options.only], options.out, tell)
                if options.part != "sweep":
                    rounds(stage, chosen, options.out, options.rounds, tell)
    is_met = table(chosen, options.out) if options.part in ("all", "table") else True
    if options.part == "all":
        print(f"the peers' environments take {trim() / 2**30:.1f} GiB; the run took {time.monotonic() - began:.0f} s")
    return 0 if is_met else 1


if __name__ == "__main__":
    sys.exit(main())
