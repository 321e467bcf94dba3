"""Verbs for the requests nobody could answer: look at them, and after the fix send them again."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from continual_contract.entries import DeadLetter
from continual_contract.errors import NotFoundError, UsageError

from continual_cli import streams
from continual_cli.output import Format, OutputOption, clock, emit, note, say, shortened
from continual_cli.target import ModelOption, Target

REQUEST_WIDTH = 40
MESSAGE_WIDTH = 300
HEADS = ("Entry", "Request", "Reason", "Deliveries", "Version", "Time", "Message")

dead_app = typer.Typer(
    no_args_is_help=True, help="Requests that could not be answered: list them, replay them after the fix."
)


@dead_app.command("list")
def list_dead(
    model: ModelOption = None,
    limit: Annotated[int, typer.Option("--limit", help="At most this many, newest last.", min=1)] = 100,
    output: OutputOption = Format.table,
) -> None:
    """List dead letters with the reason.

    Examples:
      continual dead list
      continual dead list -o json | jq '.[].reason'
    """
    letters = read_dead(Target.open(model), limit)
    emit(output, list(map(document, letters)), HEADS, map(row, letters))


@dead_app.command()
def replay(
    entries: Annotated[
        list[str] | None, typer.Argument(metavar="[ENTRY]...", help="Entries as `continual dead list` shows them.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Replay every dead letter.")] = False,
    model: ModelOption = None,
    output: OutputOption = Format.table,
) -> None:
    """Put dead letters back into the stream. They are answered under their own request id, once.

    Examples:
      continual dead replay 1732200000000-0
      continual dead replay --all
    """
    target = Target.open(model)
    if everything == bool(entries):
        raise UsageError("say which", field="ENTRY", remedy="name entries of `continual dead list`, or give --all")
    letters = read_dead(target, None)
    chosen = [c for c in letters if c.request] if everything else [named(letters, entry) for entry in entries or ()]
    for letter in chosen:
        replay_one(target, letter)
    if everything and len(chosen) < len(letters):
        note(
            f"{len(letters) - len(chosen)} dead letter(s) left: labels that nobody could use, or no longer with a request"
        )
    say(
        output,
        f"{target.name}: {len(chosen)} request(s) back in the stream",
        {"model": target.name, "replayed": [c.entry_id for c in chosen]},
    )


def named(letters: list[DeadLetter], entry: str) -> DeadLetter:
    found = [letter for letter in letters if entry in {letter.entry_id, letter.request_id}]
    for letter in found:
        if letter.request:
            return letter
    if found:
        raise NotFoundError(
            f"this dead letter holds no request ({found[0].reason})",
            field="ENTRY",
            value=entry,
            remedy="send the request or the label again",
        )
    raise NotFoundError("no such dead letter", field="ENTRY", value=entry, remedy="see `continual dead list`")


def replay_one(target: Target, letter: DeadLetter) -> None:
    from continual_contract.functions import replay_call

    streams.run(target.redis, replay_call(target.keys, letter.entry_id))


def read_dead(target: Target, limit: int | None) -> list[DeadLetter]:
    """The newest dead letters, oldest first."""
    with streams.reaching(target.redis):
        newest: Any = target.redis.xrevrange(target.keys.dead, count=limit)
    return [streams.decode_dead(entry_id, fields) for entry_id, fields in reversed(newest)]


def document(letter: DeadLetter) -> dict[str, Any]:
    return {
        "entry": letter.entry_id,
        "request": letter.request_id,
        "reason": letter.reason,
        "message": letter.message,
        "deliveries": letter.deliveries,
        "version": letter.version,
        "timeMs": letter.time_ms,
        "bytes": len(letter.request.get(b"d", b"")),
    }


def row(letter: DeadLetter) -> tuple[object, ...]:
    return (
        letter.entry_id,
        shortened(letter.request_id, REQUEST_WIDTH),
        shortened(letter.reason, REQUEST_WIDTH),
        letter.deliveries,
        letter.version,
        clock(letter.time_ms),
        shortened(letter.message, MESSAGE_WIDTH),
    )
