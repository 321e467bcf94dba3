"""One operator process and hundreds of models: what idling costs, and how soon a change is applied (G17).

    python benchmarks/operator/run.py                  500 models (`make bench-operator`)
    python benchmarks/operator/run.py --models 2000

Prints a table with goals, writes operator.json and a plot of requests per second and memory. Exit code 1 if a goal is missed.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import psutil
import urllib3
from fleet import NAMESPACE, Fleet, Request, fleet
from rich.console import Console
from rich.table import Table

GOAL_REQUESTS, GOAL_MEMORY_MB, GOAL_SECONDS = 5.0, 300.0, 2.0
START_SECONDS = 900.0
CHANGES_PER_SECOND = 4.0


@dataclass(frozen=True, slots=True)
class Row:
    what: str
    value: float
    limit: float | None = None
    """At most; None: only told."""

    @property
    def is_met(self) -> bool:
        return self.limit is None or self.value <= self.limit


def main() -> int:
    options = _options()
    console = Console(stderr=True)
    with console.status("starting") as status, fleet(Path(tempfile.mkdtemp(prefix="continual-bench-"))) as stage:
        status.update(f"creating {options.models} models")
        started = _fill(stage, options.models)
        status.update(f"waiting for silence after {started:.0f} s")
        silent = _silence(stage)
        status.update(f"idle for {options.idle:.0f} s")
        idle = _idle(stage, options.idle)
        status.update(f"{options.changes} changes")
        lags = _changes(stage, options.changes)
        rows = _rows(stage, options, started, silent, idle, lags)
        requests, samples = stage.audit.read(), stage.samples
    Console(width=110).print(_table(rows, options.models))
    print("requests while idle:", dict(Counter(f"{r.verb} {r.resource}" for r in idle.requests).most_common()))
    options.out.mkdir(parents=True, exist_ok=True)
    document = {
        "machine": {"cores": psutil.cpu_count(), "python": platform.python_version()}, "models": options.models,
        "rows": [asdict(row) | {"met": row.is_met} for row in rows], "lags": sorted(lags),
        "idle": Counter(f"{r.verb} {r.resource}" for r in idle.requests),
    }  # fmt: skip
    (options.out / "operator.json").write_text(json.dumps(document, indent=1) + "\n")
    _plot(requests, samples, idle, options)
    print(f"written: {options.out}/operator.json, {options.out}/operator.png")
    return 0 if all(row.is_met for row in rows) else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=500)
    parser.add_argument("--idle", type=float, default=120.0, help="seconds of the idle window")
    parser.add_argument("--changes", type=int, default=200, help="how many models are changed, one after the other")
    parser.add_argument("--out", type=Path, default=Path("out/bench"), help="folder for the JSON and the plot")
    return parser.parse_args()


# Measures -------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Idle:
    """What the operator did in a window in which nothing happened."""

    began: float
    seconds: float
    requests: list[Request]
    cpu_share: float


def _fill(stage: Fleet, count: int) -> float:
    """Seconds until all models are Ready."""
    began = time.time()
    stage.create(count)
    while stage.ready() < count:
        assert time.time() - began < START_SECONDS, (
            f"{stage.ready()} of {count} are Ready\n{stage.operator.log()[-3000:]}"
        )
        time.sleep(1)
    return time.time() - began


def _silence(stage: Fleet) -> float:
    """Seconds until nothing was written for ten."""
    began = time.time()
    while time.time() - began < START_SECONDS:
        last = max((r.at for r in stage.audit.read() if r.changes and r.resource != "leases"), default=began)
        if time.time() - max(last, began) > 10:
            break
        time.sleep(1)
    return time.time() - began


def _idle(stage: Fleet, seconds: float) -> Idle:
    began, before = time.time(), stage.samples[-1].cpu_seconds
    time.sleep(seconds)
    used = stage.samples[-1].cpu_seconds - before
    return Idle(began, seconds, [r for r in stage.audit.read() if r.at >= began], used / seconds)


def _changes(stage: Fleet, count: int) -> list[float]:
    """Seconds from the answer to a change until the Deployment has it, of each; a watch tells when."""
    chosen = random.Random(7).sample(stage.names, min(count, len(stage.names)))
    seen: dict[str, float] = {}
    watching = threading.Thread(target=_watch, args=(stage, len(chosen), seen))
    watching.start()
    changed = {}
    for name in chosen:
        changed[name] = stage.resize(name, 2)
        time.sleep(1 / CHANGES_PER_SECOND)
    watching.join()
    missing = sorted(changed.keys() - seen.keys())
    assert not missing, f"never applied: {missing}"
    return [max(0.0, seen[name] - at) for name, at in changed.items()]


def _watch(stage: Fleet, count: int, seen: dict[str, float]) -> None:
    """When which Deployment of a first version wanted two pods."""
    plane = stage.plane
    url = f"{plane.url}/apis/apps/v1/namespaces/{NAMESPACE}/deployments?watch=1&timeoutSeconds={60 + count}"
    with urllib3.PoolManager(ca_certs=str(plane.ca)) as pool:
        headers = {"Authorization": "Bearer admin-of-the-tests"}
        answer = pool.request("GET", url, headers=headers, preload_content=False, timeout=120)
        rest = b""
        for chunk in answer.stream(1 << 16):
            *lines, rest = (rest + chunk).split(b"\n")
            for found in (json.loads(line)["object"] for line in lines if line):
                name = found["metadata"]["name"]
                if name.endswith("-v1") and found["spec"]["replicas"] == 2:
                    seen.setdefault(name.removesuffix("-v1"), time.time())
            if len(seen) >= count:
                return


# Showing --------------------------------------------------------------------------------------------------------------------


def _rows(
    stage: Fleet, options: argparse.Namespace, started: float, silent: float, idle: Idle, lags: Sequence[float]
) -> list[Row]:
    writes = sum(r.changes and r.resource != "leases" for r in idle.requests)
    return [
        Row("requests/s while idle", len(idle.requests) / idle.seconds, GOAL_REQUESTS),
        Row("writes while idle, but for the Lease", writes, 0),
        Row("memory, MB", max(s.rss_mb for s in stage.samples), GOAL_MEMORY_MB),
        Row("change seen and applied, p50 s", float(np.quantile(lags, 0.5))),
        Row("change seen and applied, p99 s", float(np.quantile(lags, 0.99)), GOAL_SECONDS),
        Row("CPU while idle, cores", idle.cpu_share),
        Row("operator processes", stage.starts, 1),
        Row(f"{options.models} models Ready after, s", started),
        Row("silent after, s more", silent),
    ]


def _table(rows: Sequence[Row], models: int) -> Table:
    table = Table("what", "figure", "goal", "", title=f"One operator, {models} models")
    for row in rows:
        goal = "" if row.limit is None else f"≤ {row.limit:g}"
        verdict = "" if row.limit is None else "[green]met[/]" if row.is_met else "[red]MISSED[/]"
        table.add_row(row.what, f"{row.value:.2f}", goal, verdict)
    return table


def _plot(requests: Sequence[Request], samples: Sequence[Any], idle: Idle, options: argparse.Namespace) -> None:
    """Requests per second and memory over the whole run; the idle window is shaded."""
    mpl.use("Agg")
    zero = samples[0].at
    figure, above = plt.subplots(figsize=(10, 4.5), constrained_layout=True)
    edges = np.arange(0, samples[-1].at - zero + 1, 1.0)
    for changes, label in ((False, "reads and watches"), (True, "writes")):
        counts, _ = np.histogram([r.at - zero for r in requests if r.changes is changes], edges)
        above.plot(edges[:-1], np.maximum(counts, 0.5), label=label, linewidth=1)
    above.set(
        xlabel="seconds", ylabel="requests per second", yscale="log", title=f"{options.models} models, one operator"
    )
    above.axvspan(idle.began - zero, idle.began - zero + idle.seconds, alpha=0.12, label="idle window")
    below = above.twinx()
    below.plot([s.at - zero for s in samples], [s.rss_mb for s in samples], color="black", label="memory, MB")
    below.set(ylabel="memory, MB", ylim=(0, None))
    figure.legend(loc="outside lower center", ncols=4)
    figure.savefig(options.out / "operator.png", dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    sys.exit(main())
