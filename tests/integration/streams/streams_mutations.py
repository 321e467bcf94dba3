"""Protections of the stream, each with the way to remove it.

A mutation of the function library replaces a text; a mutation of the worker patches a method in the forked process;
a mutation of the operator changes the plan.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from continual_contract.ids import GroupName
from continual_workers.streaming import duty, reader, writer
from continual_workers.streaming.wire import Wire


@dataclass(frozen=True)
class Mutation:
    """`lua`: (text that must be there once, what replaces it)…; `patch`: run in every worker; `plan`: changes of the ChaosPlan."""

    name: str
    finding: str
    """A word of the finding it must cause."""
    lua: tuple[tuple[str, str], ...] = ()
    patch: Callable[[], None] | None = None
    plan: dict[str, Any] = field(default_factory=dict)


def cache_routing() -> None:
    """The table is kept for a quarter of a second instead of being asked for behind every read."""
    original = reader.Reader._learn
    learnt: dict[int, float] = {}

    def learn(self: reader.Reader, raw: Any) -> bool:
        if time.monotonic() - learnt.get(id(self), 0.0) < 0.25:
            return True
        learnt[id(self)] = time.monotonic()
        return original(self, raw)

    reader.Reader._learn = learn  # type: ignore[method-assign]


def never_claim() -> None:
    """What a dead process held stays with it."""
    reader.Reader._take_claimed = lambda *_: False  # type: ignore[method-assign,assignment]


def acknowledge_at_delivery() -> None:
    """A delivered entry is nobody's any more: NOACK."""
    original = reader.Reader._read_command

    def command(self: reader.Reader, group: GroupName, *, block: bool, heirs: bool) -> tuple[str | int, ...]:
        words = original(self, group, block=block, heirs=heirs)
        at = words.index("STREAMS")
        return (*words[:at], "NOACK", *words[at:])

    reader.Reader._read_command = command  # type: ignore[method-assign]


def leave_at_once() -> None:
    """SIGTERM ends the process without finishing what it holds."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def never_renew() -> None:
    """Long work looks like dead work."""
    writer.Writer._renew = lambda *_: None  # type: ignore[method-assign,assignment]


def heirs_answer_in_the_dark() -> None:
    """A substitute gives shadow answers, which stand as evidence of the version that is gone."""

    asked = duty.duty_in

    def polluted(epoch: Any, group: Any, request: Any, *, is_heir: bool) -> duty.Duty:
        right = asked(epoch, group, request, is_heir=is_heir)
        if right is duty.PASS and group in epoch.shadow and epoch.is_shadowed(request.request_id, request.key):
            return duty.SHADOW
        return right

    duty.duty_in = polluted  # type: ignore[assignment]


def create_missing_groups() -> None:
    """The worker creates a group that is missing, at `$`."""
    original = reader.Reader._take

    def take(self: reader.Reader, group: GroupName, reply: Any) -> bool:
        if reader.has_code(reply, "NOGROUP"):
            with Wire(self._shared.connect()) as wire:
                wire.exchange(("XGROUP", "CREATE", self._shared.keys.requests, group, "$", "MKSTREAM"))
        return original(self, group, reply)

    reader.Reader._take = take  # type: ignore[method-assign]


BUSY = {"reap_every": 0.02, "per_second": 2000, "requests": 8000}
ZOMBIES = {"change_every": 1.0, "kill_every": 1.0, "stop_every": 0.1}
"""Versions that stay while their workers sleep through their leases: with the usual changes two runs in three saw no doubled answer."""

NO_SERVE_CHECK = ("if served_by == version then return nil end", "if true then return nil end")
NO_XACK_FENCE = (
    "if redis.call('XACK', keys[1], group, args[i]) == 1 then",
    "if redis.call('XACK', keys[1], group, args[i]) < 2 then",
)
NO_HSETNX_FENCE = (
    "if redis.call('HSETNX', section.bucket, request, section.kind == 'u' and UNSAMPLED or answer) == 0 then return 0 end",
    "redis.call('HSET', section.bucket, request, section.kind == 'u' and UNSAMPLED or answer)",
)
UNSAFE_DESTROY = ("local function is_drained(requests, name, info, until_id)", "local function is_drained() do return true end end\nlocal function is_drained_unused(requests, name, info, until_id)")  # fmt: skip
NO_AUDIT = ("  audit(state)\n", "  state.document.audited = low_water(state)\n")
EAGER_EPOCH_DROP = (
    "while document.audited and #document.epochs > 1 and compare(document.audited, document.epochs[2].after) >= 0 do",
    "while #document.epochs > 1 do",
)
GROUP_ELSEWHERE = (
    "redis.call('XGROUP', 'CREATE', state.requests, name, state.after, 'MKSTREAM', 'ENTRIESREAD', state.read)", "",
)  # fmt: skip
NO_REPAIR = (
    "    if not state.infos[name] then\n      redis.call('XGROUP'",
    "    if false then\n      redis.call('XGROUP'",
)

CHAOS = (
    Mutation("the table is older than the entry", "lost", lua=(NO_AUDIT,), patch=cache_routing),
    Mutation("the table is older than the entry, with the audit", "alarms", patch=cache_routing),
    Mutation("closed groups are destroyed before they are drained", "", lua=(UNSAFE_DESTROY,), plan=BUSY),
    Mutation("commits are not checked against serve", "after its heir took over", lua=(NO_SERVE_CHECK,)),
    Mutation("no fence before a publication", "duplicates", lua=(NO_XACK_FENCE, NO_HSETNX_FENCE), plan=ZOMBIES),
    Mutation("epochs are dropped while groups still need them", "", lua=(EAGER_EPOCH_DROP,)),
    Mutation("groups are created by workers, at $", "", lua=(GROUP_ELSEWHERE,), patch=create_missing_groups),
    Mutation("a version retires with lag and no heir", "", plan={"retire_without_heirs": True}),
    Mutation("nobody claims what a dead process held", "stuck", patch=never_claim),
    Mutation("an heir answers in the dark", "shadow answers of no shadow", patch=heirs_answer_in_the_dark),
)
