"""What a worker owes a delivered entry: a pure question to the routing table.

Every group reads the whole stream, so most of what a canary's group is given belongs to somebody else. The answer is one of four:
publish a prediction, answer in the dark, acknowledge, or leave it alone (a table that does not know the entry decides nothing).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from continual_contract.entries import RequestEntry, Role, Why
from continual_contract.ids import GroupName
from continual_contract.routing import BASIS_POINTS, Epoch, Routing


class Duty(NamedTuple):
    """`own`: predict and publish. `shadow`: predict in the dark. `pass`: acknowledge. `unknown`: leave it pending."""

    kind: Literal["own", "shadow", "pass", "unknown"]
    role: Role = "stable"
    why: Why = "owner"


PASS = Duty("pass")
UNKNOWN = Duty("unknown")
SHADOW = Duty("shadow", "shadow", "shadow")
HEIR = Duty("own", "stable", "heir")
STABLE = Duty("own", "stable", "owner")
CANARY = Duty("own", "canary", "owner")
MOST_BATCHES_PER_READ = 8


def duty_of(routing: Routing, group: GroupName, version: str, request: RequestEntry) -> Duty:
    """Duty of a worker of `version`, working in `group`, towards one request."""
    epoch = routing.epoch_of(request.entry_id)
    return (
        UNKNOWN if epoch is None else duty_in(epoch, group, request, is_heir=routing.groups[group].version != version)
    )


def duty_in(epoch: Epoch, group: GroupName, request: RequestEntry, *, is_heir: bool) -> Duty:
    """`duty_of` where the epoch is known."""
    if epoch.owner(request.request_id, request.key) == group:
        return HEIR if is_heir else _owner(epoch, group)
    # A substitute never answers in the dark: its answers would stand as evidence of a version that is gone.
    if not is_heir and group in epoch.shadow and epoch.is_shadowed(request.request_id, request.key):
        return SHADOW
    return PASS


def duties_of(routing: Routing, group: GroupName, version: str, requests: Sequence[RequestEntry]) -> list[Duty]:
    """`duty_of` of each, in entry order. Where this group owns whatever lies between the first and the last, no hash is asked."""
    epoch = routing.epoch_of(requests[0].entry_id)
    if epoch is None or epoch is not routing.epoch_of(requests[-1].entry_id):
        return [duty_of(routing, group, version, request) for request in requests]
    is_heir = routing.groups[group].version != version
    if len(epoch.shares) == 1 and epoch.shares[0][0] == group:
        return [duty_in(epoch, group, requests[0], is_heir=is_heir)] * len(requests)
    return [duty_in(epoch, group, request, is_heir=is_heir) for request in requests]


def batches_per_read(routing: Routing, group: GroupName) -> int:
    """How many batches' worth of entries one read may bring, so that what the group owns of them is about one batch.

    Where a tenth of the stream is a canary's, a read of 64 leaves it batches of six, which cost half as much again per image.
    """
    epoch = routing.epochs[-1]
    if group in epoch.shadow or routing.groups[group].until is not None:
        return 1
    share = dict(epoch.shares).get(group, 0)
    return min(MOST_BATCHES_PER_READ, BASIS_POINTS // max(share, 1))


def _owner(epoch: Epoch, group: GroupName) -> Duty:
    """The first share of an epoch is the stable one."""
    return STABLE if epoch.shares[0][0] == group else CANARY


def served_groups(routing: Routing, version: str) -> list[GroupName]:
    """Groups this version works in: those of versions it inherits first, its own open group last (the one to wait on)."""
    groups = routing.groups_served_by(version)
    return sorted(groups, key=lambda name: (_is_own_and_open(routing, name, version), name))


def _is_own_and_open(routing: Routing, name: GroupName, version: str) -> bool:
    group = routing.groups[name]
    return group.version == version and group.until is None
