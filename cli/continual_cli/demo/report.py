"""The page a run leaves behind: one file, no hosts, readable in light and dark. Drawn from the recording alone.

`python -m continual_cli.demo.report out/demo` draws it again.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from continual_cli.demo import figures, picture
from continual_cli.demo.recording import Check, Happening, Recording, load

STYLE = """
:root{--bg:#fbfbf9;--card:#fff;--ink:#1d1f21;--soft:#6b6f76;--rule:#e4e4df;--good:#1e7d4c;--bad:#c0392b;--warn:#a06a00;
--c0:#4269d0;--c1:#e08a00;--c2:#d6455d;--c3:#2a9d6f;--c4:#8a63d2;--c5:#0f93a8}
@media(prefers-color-scheme:dark){:root{--bg:#141618;--card:#1d2023;--ink:#e9e9e4;--soft:#9aa0a8;--rule:#33373c;--good:#56c98c;
--bad:#ff7b6e;--warn:#e5b04c;--c0:#7f9df2;--c1:#f2a93b;--c2:#f0708a;--c3:#58c69a;--c4:#b195ee;--c5:#4fbfd1}}
*{box-sizing:border-box}body{margin:0;background:var(--bg);color:var(--ink);font:15px/1.5 system-ui,sans-serif}
main{max-width:1120px;margin:0 auto;padding:32px 20px 64px}h1{font-size:26px;margin:0 0 4px}h2{font-size:17px;margin:36px 0 4px}
p{margin:4px 0 10px;max-width:76ch}.soft{color:var(--soft)}.good{color:var(--good)}.bad{color:var(--bad)}
.tiles{display:grid;grid-template-columns:repeat(auto-fill,minmax(158px,1fr));gap:10px;margin:20px 0}
.tile{background:var(--card);border:1px solid var(--rule);border-radius:10px;padding:10px 14px}.tile b{display:block;font-size:22px;
font-variant-numeric:tabular-nums}.tile span{color:var(--soft);font-size:13px}
.card{background:var(--card);border:1px solid var(--rule);border-radius:10px;padding:8px 10px;overflow-x:auto}
svg{display:block;width:100%;min-width:680px;height:auto}svg text{fill:var(--ink);font-size:11.5px}svg .tick{fill:var(--soft);font-size:11px}
svg .small{fill:var(--soft);font-size:10.5px}.grid{stroke:var(--rule)}.line{fill:none;stroke-width:2}.area{opacity:.75}
.level{stroke:var(--bad);stroke-dasharray:6 4}.band{opacity:.10}.band.s-canary{opacity:.22}.band.s-shadow{opacity:.07}
.moment line{stroke:var(--soft);stroke-dasharray:3 4}.moment circle{fill:var(--soft)}
.k-fault circle{fill:var(--bad)}.k-fault line{stroke:var(--bad)}.k-world circle{fill:var(--warn)}.k-world line{stroke:var(--warn)}
.k-correction circle{fill:var(--good)}.k-correction line{stroke:var(--good)}
table{border-collapse:collapse;width:100%;font-size:14px}th{text-align:left;color:var(--soft);font-weight:500}
td,th{padding:5px 10px 5px 0;border-bottom:1px solid var(--rule);vertical-align:top;font-variant-numeric:tabular-nums}
.legend span{margin-right:16px}.legend i{display:inline-block;width:11px;height:11px;border-radius:3px;margin-right:5px}
""" + "".join(
    f".line.c{n}{{stroke:var(--c{n})}}.dot.c{n},.area.c{n},.band.c{n}{{fill:var(--c{n})}}.legend .c{n}{{background:var(--c{n})}}"
    for n in range(6)
) + ".line.ink{stroke:var(--ink);stroke-width:1.5}.area.ink{fill:var(--soft)}.dot.alarm{fill:var(--bad);r:5px}"  # fmt: skip

ACCURACY_TOLD = (
    "Share of right answers as consumers saw them, on score-only digits: no label of them ever enters the system. "
    "Shaded: a version in shadow, canary (darker) or probation. Dashed: what happened (hover)."
)


def render(recording: Recording) -> str:
    """The whole page."""
    passed = not any(check.failed for check in recording.checks)
    verdict = (
        '<b class="good">everything reached</b>' if passed else '<b class="bad">something missed: see the checks</b>'
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>Continual: the whole loop on real digits</title><style>{STYLE}</style></head><body><main>"
        "<h1>The whole loop on real digits</h1>"
        f'<p class="soft">One run of <code>make demo</code>, seed {recording.seed}: {verdict}.</p>'
        f"{_tiles(recording.summary)}{_charts(recording)}{_checks(recording.checks)}"
        f"{_story(recording.happenings)}{_decisions(recording.decisions)}{_books(recording.summary)}{_notes(recording.notes)}"
        "</main></body></html>"
    )


def _tiles(summary: dict[str, Any]) -> str:
    tiles = [
        ("requests, each answered once", f"{summary['predictions']:,} / {summary['requests']:,}"),
        ("lost, duplicates", f"{summary['lost']}, {summary['duplicates']}"),
        ("right before the drift", percent(summary["accuracy_before_drift"])),
        ("right after it", percent(summary["accuracy_after_drift"])),
        ("right after recovery", percent(summary["accuracy_after_recovery"])),
        ("labels to detect the drift", number(summary["labels_to_detect_drift"])),
        ("labels to promote", number(summary["labels_to_promote"])),
        ("labels to roll back", number(summary["labels_to_roll_back"])),
        ("canary share, expected", percent(summary["canary_share_expected"])),
        ("canary share, observed", percent(summary["canary_share_observed"])),
        ("correction learned", "yes" if summary["correction_fixed"] else "no"),
        ("seconds", number(summary["seconds"])),
    ]
    cells = "".join(
        f'<div class="tile"><b>{escape(value)}</b><span>{escape(name)}</span></div>' for name, value in tiles
    )
    return f'<div class="tiles">{cells}</div>'


def _charts(recording: Recording) -> str:
    legend = "".join(f'<span><i class="{figures.css_of(v)}"></i>{v}</span>' for v in figures.versions_of(recording))
    charts = [
        (
            "Accuracy over time",
            ACCURACY_TOLD,
            f'<p class="legend">{legend}</p>' + figures.accuracy_chart(recording),
        ),
        ("Who answers", "Share of the stream each version owns, exact by hash.", figures.share_chart(recording)),
        (
            "Drift",
            "The label-based detector's statistic, in powers of ten. It starts anew after an alarm (red) and with every stable version.",
            figures.drift_chart(recording),
        ),
        ("Delay", "Accepted requests without an answer yet; red: a process was killed.", figures.lag_chart(recording)),
    ]
    return "".join(
        f'<h2>{title}</h2><p class="soft">{told}</p><div class="card">{drawn}</div>' for title, told, drawn in charts
    )


def _checks(checks: Sequence[Check]) -> str:
    rows = [(c.name, c.value, c.bound, c.word, "bad" if c.failed else "good") for c in checks]
    body = "".join(
        f"<tr><td>{escape(n)}</td><td>{escape(v)}</td><td>{escape(b)}</td><td class={css}>{word}</td></tr>"
        for n, v, b, word, css in rows
    )
    return _section("What the run had to reach", ("", "value", "bound", ""), body)


def _story(happenings: Sequence[Happening]) -> str:
    body = "".join(
        f"<tr><td>{h.second:.1f} s</td><td>{escape(h.kind)}</td><td>{escape(h.text)}</td></tr>" for h in happenings
    )
    return _section("What happened", ("time", "kind", ""), body)


def _decisions(decisions: Sequence[dict[str, Any]]) -> str:
    columns = ("sequence", "action", "version", "reason", "message")
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(str(decision.get(c, '')))}</td>" for c in columns) + "</tr>"
        for decision in decisions
    )
    return _section("The operator's ledger", columns, body) if decisions else ""


def _books(summary: dict[str, Any]) -> str:
    body = "".join(
        f"<tr><td>{escape(name)}</td><td>{escape(json.dumps(value))}</td></tr>"
        for name, value in sorted(summary.items())
    )
    return _section("The books", ("figure", "value"), body)


def _notes(notes: Sequence[str]) -> str:
    return "<h2>How to read it</h2>" + "".join(f"<p>{escape(note)}</p>" for note in notes) if notes else ""


def _section(title: str, columns: Sequence[str], body: str) -> str:
    head = "".join(f"<th>{escape(c)}</th>" for c in columns)
    return f'<h2>{escape(title)}</h2><div class="card"><table><tr>{head}</tr>{body}</table></div>'


def percent(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{100 * value:.1f} %"


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"


def write(recording: Recording, folder: Path) -> None:
    """report.html, report.png and summary.json into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.html").write_text(render(recording), encoding="utf-8")
    picture.write_png(recording, folder / "report.png")
    (folder / "summary.json").write_text(json.dumps(recording.summary, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write(load(Path(sys.argv[1])), Path(sys.argv[1]))
