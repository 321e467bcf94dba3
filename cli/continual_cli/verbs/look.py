"""Verbs that look: what the operator wrote into the status, shown as kubectl would show it. Redis and the store may be down."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from continual_contract.errors import NotFoundError, UsageError

from continual_cli.document import condition, dig
from continual_cli.output import Format, OutputOption, age, cell, dump, emit, json_line, note, print_table
from continual_cli.target import ModelArgument, ModelOption, Target, choose, complete_version, note_remark
from continual_cli.verbs.steer import versions_of
from continual_cli.world import World, open_world

GET_HEADS = ("Name", "Ready", "Stable", "Canary", "Weight", "Accuracy", "Labels", "Lag", "Training", "Age")
HISTORY_HEADS = ("Version", "Phase", "Trigger", "Parent", "Holdout", "Accuracy", "Labels", "Digest", "Age", "Reason")
LIVE_ROLES = ("stable", "canary", "probation")
Row = tuple[object, ...]


def get(
    model: ModelArgument = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Go on, and print what changes.")] = False,
    interval: Annotated[float, typer.Option(help="Seconds between two looks with --watch.", min=0.1)] = 1.0,
    all_namespaces: Annotated[
        bool, typer.Option("--all-namespaces", "-A", help="Of the whole cluster, with a column for the namespace.")
    ] = False,
    output: OutputOption = Format.table,
) -> None:
    """List the models: one line each, the same columns as `kubectl get continualmodels`.

    Ready: whether requests are answered. Weight: the canary's share in percent. Accuracy and Labels: of the stable version, on live labels. Lag: requests not yet answered.

    Examples:
      continual get
      continual get --watch
      continual get digits -o json | jq .status.stable
    """
    view = View(open_world(), model, everywhere=all_namespaces)
    if model is not None and all_namespaces:
        raise UsageError("names one model", field="MODEL", value=model, remedy="leave out the name or --all-namespaces")
    if watch:
        watch_models(view, output, interval)
        return
    documents = view.documents()
    if documents:
        note_remark(view.world)
    emit(output, documents if model is None else documents[0], view.heads, map(view.row, documents))


@dataclass(frozen=True, slots=True)
class View:
    """What `get` looks at: all models of a namespace, one of them, or those of the whole cluster."""

    world: World
    model: str | None
    everywhere: bool

    def documents(self) -> list[dict[str, Any]]:
        if self.everywhere:
            return self.world.read_all_namespaces()
        return self.world.read_models() if self.model is None else [choose(self.world, self.model)]

    @property
    def heads(self) -> tuple[str, ...]:
        return ("Namespace", *GET_HEADS) if self.everywhere else GET_HEADS

    def row(self, document: dict[str, Any]) -> Row:
        found = get_row(document)
        return (dig(document, "metadata.namespace"), *found) if self.everywhere else found


def get_row(document: dict[str, Any]) -> Row:
    canary = dig(document, "status.canary", {})
    return (
        dig(document, "metadata.name"),
        condition(document, "Ready").get("status"),
        dig(document, "status.stable.version"),
        canary.get("version"),
        canary.get("weight"),
        accuracy(dig(document, "status.stable", {})),
        dig(document, "status.stable.labels"),
        dig(document, "status.backlog"),
        dig(document, "status.training.state"),
        age(dig(document, "metadata.creationTimestamp")),
    )


def accuracy(block: dict[str, Any]) -> str | None:
    """The printed accuracy of a status block: `{value: "0.953"}`, or the bare value."""
    value = block.get("accuracy")
    if isinstance(value, dict):
        value = value.get("value")
    return f"{value:.3f}" if isinstance(value, float) else value


def watch_models(view: View, output: Format, interval: float) -> None:
    """Print rows as they change, until interrupted; a dashboard that redraws where there is a terminal."""
    if output is Format.table and sys.stdout.isatty():
        watch_live(view, interval)
    if output is Format.table:
        print("  ".join(view.heads).upper(), flush=True)
    for document in changes(view, interval):
        print(watched(view, output, document), flush=True)


def watched(view: View, output: Format, document: dict[str, Any]) -> str:
    if output is Format.table:
        return "  ".join(map(cell, view.row(document)))
    return json_line(document) if output is Format.json else f"---\n{dump(output, document)}"


def watch_live(view: View, interval: float) -> None:
    from rich.live import Live

    from continual_cli.output import console, table

    with Live(console=console(), auto_refresh=False) as live:
        while True:
            live.update(table(view.heads, map(view.row, view.documents())), refresh=True)
            time.sleep(interval)


def changes(view: View, interval: float) -> Iterator[dict[str, Any]]:
    """Each model as it is, then again whenever its resourceVersion changes."""
    seen: dict[tuple[str, str], str] = {}
    while True:
        for document in view.documents():
            namespace, name, version = (
                str(dig(document, f"metadata.{key}")) for key in ("namespace", "name", "resourceVersion")
            )
            if seen.get((namespace, name)) != version:
                seen[namespace, name] = version
                yield document
        time.sleep(interval)


def describe(model: ModelArgument = None, output: OutputOption = Format.table) -> None:
    """Show one model whole: versions, conditions, training, evidence, last decisions, events.

    Examples:
      continual describe
      continual describe digits -o yaml
    """
    target = Target.open(model)
    note_remark(target.world)
    events = target.world.events(target.name)
    if output is not Format.table:
        print(dump(output, {**target.document, "events": events}))
        return
    for title, lines in sections(target, events):
        print(title)
        print("\n".join(f"  {line}" for line in lines) or "  -")


def sections(target: Target, events: list[dict[str, Any]]) -> Iterator[tuple[str, list[str]]]:
    document = target.document
    yield f"Name: {target.name}", facts(target)
    yield "Conditions:", [condition_line(c) for c in dig(document, "status.conditions", [])]
    for role in LIVE_ROLES:
        if block := dig(document, f"status.{role}"):
            yield f"{role.capitalize()}:", flat(block)
    if training := dig(document, "status.training"):
        yield "Training:", flat({name: value for name, value in training.items() if name != "inputs"})
    yield "Decisions (newest last):", [decision_line(d) for d in dig(document, "status.decisions", [])[-10:]]
    yield "Events (newest last):", [event_line(e) for e in events[-15:]]


def facts(target: Target) -> list[str]:
    spec = target.document.get("spec") or {}
    shape = target.input
    return [
        f"architecture: {dig(spec, 'model.architecture')}",
        f"input: {shape.height} x {shape.width} x {shape.channels}, {target.fit}",
        f"classes: {', '.join(target.classes)}",
        f"suspended: {cell(bool(spec.get('suspend', False)))}",
        f"pinned: {cell(dig(spec, 'rollout.pinnedVersion'))}",
        f"age: {age(dig(target.document, 'metadata.creationTimestamp'))}",
    ]


def condition_line(entry: dict[str, Any]) -> str:
    message = f": {entry['message']}" if entry.get("message") else ""
    return f"{entry.get('type')}={entry.get('status')} {entry.get('reason', '')}{message}".rstrip()


def decision_line(entry: dict[str, Any]) -> str:
    parts = (entry.get(name) for name in ("time", "version", "action", "reason", "message"))
    return "  ".join(str(part) for part in parts if part)


def event_line(event: dict[str, Any]) -> str:
    count = f" (x{event['count']})" if event.get("count", 1) > 1 else ""
    return f"{event.get('lastTimestamp')}  {event.get('reason')}  {event.get('message')}{count}"


def flat(block: dict[str, Any], prefix: str = "") -> list[str]:
    """A nested block as `a.b: value` lines."""
    lines: list[str] = []
    for key, value in block.items():
        if isinstance(value, dict):
            lines += flat(value, f"{prefix}{key}.")
        else:
            lines.append(f"{prefix}{key}: {cell(value)}")
    return lines


def history(model: ModelArgument = None, output: OutputOption = Format.table) -> None:
    """List the versions: where each came from, how it scored, what became of it.

    Holdout: accuracy on samples that never trained. Accuracy: on live labels, where it served.

    Examples:
      continual history
      continual history -o json | jq '.[].digest'
    """
    target = Target.open(model)
    versions = dig(target.document, "status.versions", [])
    if not versions:
        note(f"{target.name}: no versions yet; `continual get --watch` shows the first training")
    emit(output, versions, HISTORY_HEADS, [history_row(target.document, entry) for entry in versions])


def history_row(document: dict[str, Any], entry: dict[str, Any]) -> Row:
    live = live_block(document, str(entry.get("version")))
    return (
        entry.get("version"),
        entry.get("phase"),
        entry.get("trigger"),
        short(entry.get("parent")),
        entry.get("accuracy"),
        accuracy(live),
        live.get("labels"),
        short(entry.get("digest")),
        age(entry.get("created")),
        entry.get("reason"),
    )


def live_block(document: dict[str, Any], version: str) -> dict[str, Any]:
    """The status block of a version that is in the stream; empty for any other."""
    blocks = (dig(document, f"status.{role}", {}) for role in LIVE_ROLES)
    return next((block for block in blocks if block.get("version") == version), {})


def short(digest: str | None) -> str | None:
    return digest.removeprefix("sha256:")[:12] if digest else None


def compare(
    one: Annotated[
        str, typer.Argument(metavar="VERSION", help="The older version: v6.", autocompletion=complete_version)
    ],
    other: Annotated[
        str, typer.Argument(metavar="VERSION", help="The newer version: v7.", autocompletion=complete_version)
    ],
    model: ModelOption = None,
    output: OutputOption = Format.table,
) -> None:
    """Compare two versions: holdout and live accuracy, per class, and what they were made of.

    Examples:
      continual compare v6 v7
      continual compare v6 v7 -o json
    """
    target = Target.open(model)
    left, right = (comparable(target, version) for version in (one, other))
    rows = comparison(left, right)
    data = {one: left, other: right}
    if output is Format.table:
        print_table(("", one, other, "Difference"), rows)
    else:
        print(dump(output, data))


def comparable(target: Target, version: str) -> dict[str, Any]:
    """What is known of a version: its status entry and its manifest's scores, as one flat document."""
    entry = version_entry(target, version)
    live = live_block(target.document, version)
    manifest = target.registry.manifest(str(entry["digest"]))
    return {
        "version": version,
        "phase": entry.get("phase"),
        "digest": entry["digest"],
        "parent": manifest.parent,
        "trigger": manifest.trigger,
        "strategy": manifest.strategy,
        "trainAccuracy": manifest.train_accuracy,
        "holdoutAccuracy": manifest.scores.accuracy,
        "holdoutSamples": manifest.scores.samples,
        "negativeFlips": manifest.scores.negative_flips,
        "liveAccuracy": number(accuracy(live)),
        "liveLabels": live.get("labels"),
        "perClass": manifest.scores.per_class,
    }


def number(text: str | None) -> float | None:
    return float(text) if text not in {None, "", "-"} else None


def version_entry(target: Target, version: str) -> dict[str, Any]:
    """Errors: NotFoundError naming the versions there are."""
    for entry in dig(target.document, "status.versions", []):
        if entry.get("version") == version:
            return dict(entry)
    if block := live_block(target.document, version):
        return block
    listed = ", ".join(versions_of(target)) or "none yet"
    raise NotFoundError("no such version", field="version", value=version, remedy=f"known: {listed}")


def comparison(left: dict[str, Any], right: dict[str, Any]) -> Iterator[Row]:
    for key, value in left.items():
        if key not in {"version", "perClass"}:
            yield (key, shown(value), shown(right[key]), difference(value, right[key]))
    for name in dict.fromkeys((*left["perClass"], *right["perClass"])):
        one, other = left["perClass"].get(name), right["perClass"].get(name)
        yield (f"class {name}", one, other, difference(one, other))


def shown(value: Any) -> Any:
    return short(value) if isinstance(value, str) and value.startswith("sha256:") else value


def difference(one: Any, other: Any) -> str | None:
    if isinstance(one, float) and isinstance(other, float):
        return f"{other - one:+.3f}"
    return None
