"""Write the tables of docs/performance.md from what the benchmarks left in out/, so that no figure is typed by hand.

    python -m benchmarks.report            (`make bench-report`)
    python -m benchmarks.report --check    exit code 1 if a table is not what the JSON files say

A table stands between `<!-- figures: NAME -->` and `<!-- end -->`. One whose JSON is not there is left as it is: a machine that ran a part
of the benchmarks renews that part.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

PAGE = Path("docs/performance.md")
SECTION = re.compile(r"(<!-- figures: ([a-z0-9-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
Document = Mapping[str, Any]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "/") for cell in line) + " |\n" for line in lines)


def number(value: float) -> str:
    """Three digits that matter, thousands apart."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _goals(document: Document, what: str = "what") -> str:
    rows = [
        [row["goal"], row["what"], f"{row['value']:.2f}", row["wanted"], "met" if row["met"] else "**missed**", row["note"]]
        for row in document["rows"]
    ]  # fmt: skip
    return table(["goal", what, "figure", "wanted", "", ""], rows)


def serving(document: Document) -> str:
    return _goals(document)


def gateway(document: Document) -> str:
    figures = ("rate", "p50_ms", "p99_ms", "cpu_us")
    rows = [
        [name, *(number(median(one[figure] for one in each)) for figure in figures)]
        for name, each in document["samples"].items()
    ]
    text = table(["setting", "requests/s", "p50 ms", "p99 ms", "CPU µs per request, client included"], rows)
    return text + f"\nGateway ÷ plain FastAPI at the better setting of each: **{document['ratio']:.2f}** (wanted ≥ 1)\n"


def peers(document: Document) -> str:
    return _goals(document, "Continual over Redis Streams")


def contestants(document: Document) -> str:
    rows = [
        [one["title"], one["version"], one["setting"], number(one["rps"]), number(one["p50_ms"]), number(one["p99_ms"]),
         number(one["server_us"]), number(one["client_us"]), f"{one['foreign']:.0%}"]
        for one in document["contestants"].values()
    ]  # fmt: skip
    rows += [[who, "", f"not measured: {why}", "", "", "", "", "", ""] for who, why in document["missing"].items()]
    head = ["who", "version", "best setting", "requests/s", "p50 ms", "p99 ms", "CPU µs, servers", "CPU µs, client"]
    return (
        table(head, rows)
        + f"\nMedians of {document['rounds']} interleaved rounds, {document['outstanding']} requests outstanding.\n"
    )


def training(document: Document) -> str:
    return _goals(document, "one epoch ÷ a bare torch loop")


def cores(document: Document) -> str:
    rows = [[name, number(at["alone"]), number(at["beside"])] for name, at in document["threads"].items()]
    return table(["CIFAR net, samples/s", "alone on two cores", "beside one busy process"], rows)


def operator(document: Document) -> str:
    rows = []
    for row in document["rows"]:
        limit = row["limit"]
        verdict = "" if limit is None else "met" if row["met"] else "**missed**"
        rows.append([row["what"], f"{row['value']:.2f}", "" if limit is None else f"≤ {limit:g}", verdict])
    return table([f"one operator, {document['models']} models", "figure", "goal", ""], rows)


HEADS = {
    "batch": "batch cap", "kilobytes": "image, kB", "models": "models", "rate": "images/s", "worker_us": "CPU µs, workers", "runtime_us": "CPU µs, bare runtime",
    "redis_us": "CPU µs, Redis", "worker_mb": "MB per worker", "foreign": "strangers", "net": "network",
    "image_bytes": "image, bytes", "bytes_per_request": "bytes in Redis per request",
    "requests_stream": "requests stream alone", "gb_per_million": "GB per million requests",
}  # fmt: skip


def growth(part: str) -> Callable[[Document], str]:
    def write(document: Document) -> str:
        points = document[part]
        rows = [[f"{p[k]:.0%}" if k == "foreign" else number(p[k]) for k in points[0]] for p in points]
        return table([HEADS[name] for name in points[0]], rows)

    return write


def int8(document: Document) -> str:
    rows = [
        [p["net"], number(p["float32_rate"]), number(p["int8_rate"]), number(p["float32_worker_us"]),
         number(p["int8_worker_us"]), f"{p['float32_worker_us'] / p['int8_worker_us']:.2f}"]
        for p in document["int8"]
    ]  # fmt: skip
    head = [
        "network, one worker",
        "float32 images/s",
        "int8 images/s",
        "float32 CPU µs",
        "int8 CPU µs",
        "CPU, float32 ÷ int8",
    ]
    return table(head, rows)


SOURCES: Mapping[str, tuple[str, Callable[[Document], str]]] = {
    "serving": ("out/bench/serving.json", serving),
    "gateway": ("out/bench/gateway.json", gateway),
    "peers": ("out/bench-peers/peers.json", peers),
    "contestants": ("out/bench-peers/peers.json", contestants),
    "training": ("out/bench-training/training.json", training),
    "cores": ("out/bench-training/training.json", cores),
    "operator": ("out/bench/operator.json", operator),
    "operator-2000": ("out/bench-operator-2000/operator.json", operator),
    "batch": ("out/bench-growth/growth.json", growth("batch")),
    "payload": ("out/bench-growth/growth.json", growth("payload")),
    "models": ("out/bench-growth/growth.json", growth("models")),
    "memory": ("out/bench-growth/growth.json", growth("memory")),
    "int8": ("out/bench-growth/growth.json", int8),
}


def renewed(page: str, read: Callable[[str], Document | None]) -> str:
    """The page with every table anew whose file `read` finds. Raises KeyError for a section that nobody knows."""

    def section(found: re.Match[str]) -> str:
        path, write = SOURCES[found[2]]
        document = read(path)
        try:
            return found[0] if document is None else f"{found[1]}\n{write(document)}\n{found[3]}"
        except KeyError:  # a part of the benchmark has not run here
            return found[0]

    return SECTION.sub(section, page)


def _read(path: str) -> Document | None:
    file = Path(path)
    return json.loads(file.read_text()) if file.exists() else None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    before = PAGE.read_text()
    after = renewed(before, _read)
    if options.check:
        return int(before != after)
    PAGE.write_text(after)
    print(f"{PAGE}: {'renewed' if before != after else 'as it was'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
