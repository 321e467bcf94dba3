"""The operator with one protection removed, as a process: `python mutations.py <name>`. Tests that stay green with it prove nothing.

One of them, `impatient`, removes nothing: it only shortens a wait of ten minutes to what a test can wait for.
"""

from __future__ import annotations

import asyncio
import sys
import time
from dataclasses import replace
from datetime import timedelta
from typing import Any

from continual_operator import __main__ as operator
from continual_operator import conditions, converge, loop, observe, reasons, reconcile, rollout
from continual_operator.children import training_job
from continual_operator.cluster import Manifest, ModelRef
from continual_operator.decide import Plan, decide
from continual_operator.deps import Deps
from continual_operator.kubernetes import installed
from continual_operator.kubernetes.api import MODEL
from continual_operator.kubernetes.lease import Lease
from continual_operator.kubernetes.pace import Pace
from continual_operator.observation import Observation
from continual_operator.status import Training
from continual_operator.sweeper import roll_key


def acting_before_recording() -> None:
    """A pass acts on what it has just decided, before that is the recorded truth."""

    def hasty(obs: Observation, now: Any, settings: Any) -> Plan:
        plan = decide(obs, now, settings)
        return replace(plan, actions=converge.converge(replace(obs, status=plan.status), settings))

    reconcile.decide = hasty  # type: ignore[attr-defined]  # what the loop calls


def telling_the_time() -> None:
    """The status holds a number that changes by itself."""

    def ticking(obs: Observation, now: Any, settings: Any) -> Plan:
        plan = decide(obs, now, settings)
        return replace(plan, status=plan.status.replaced(backlog=int(time.time())), moving=True)

    reconcile.decide = ticking  # type: ignore[attr-defined]  # what the loop calls


def leading_for_ever() -> None:
    """A leader that does not end, and does not stop writing, when its Lease is lost."""
    Lease.assert_held = lambda _: None  # type: ignore[method-assign]  # the fence
    Lease._watchdog = lambda _: None  # type: ignore[method-assign]  # the watchdog

    async def keep(_: Lease) -> None:
        await asyncio.Event().wait()

    Lease.keep = keep  # type: ignore[method-assign]


def rushing() -> None:
    """No common pace, and hardly a pause between two looks at a model."""

    async def at_once(_: Pace) -> None:
        return None

    Pace.turn = at_once  # type: ignore[method-assign]
    loop.back_off = lambda *_: timedelta(seconds=0.1)


def listing_once() -> None:
    """Everything is listed at the start, and never again."""
    loop.RESYNC_EVERY = timedelta(hours=1)


def adopting() -> None:
    """Whatever has the right name is ours."""
    observe._is_ours = lambda *_: True


def impatient() -> None:
    """A version's pods have eight seconds to become Ready."""
    rollout.START_LIMIT = timedelta(seconds=8)


def ignoring_the_installed_crd() -> None:
    """Whatever the API server would drop, it goes on."""
    installed.missing_fields = lambda _: ()  # type: ignore[attr-defined]  # what the check calls


def tidying_up_before_leaving() -> None:
    """A finalizer holds a deleted model until Redis has answered."""
    look = loop.reconcile  # type: ignore[attr-defined]  # what the loop calls

    async def holding(ref: ModelRef, deps: Deps) -> timedelta | None:
        known = await deps.cluster.get_model(ref)
        if known is not None:
            leaves = "deletionTimestamp" in known["metadata"]
            if leaves:
                await deps.redis.hlen(roll_key(deps.settings.installation))
            held = {"metadata": {"finalizers": None if leaves else ["continual.dev/tidy"]}}
            await deps.cluster._api.merge(MODEL, ref.namespace, ref.name, held)  # type: ignore[attr-defined]
        return await look(ref, deps)

    loop.reconcile = holding  # type: ignore[attr-defined]


def ready_as_wished() -> None:
    """Ready is what the spec asks for, whatever pods, Redis and store say."""
    conditions._ready = lambda *_: ("True", reasons.ALL_GOOD, "")


def blaming_trainings_for_evictions() -> None:
    """A pod that its node took away is a failed try."""

    def strict(*inputs: Any) -> Manifest:
        job = training_job(*inputs)
        del job["spec"]["podFailurePolicy"]
        return job

    converge.training_job = strict  # type: ignore[attr-defined]  # what the plan calls


def forgetting_tries() -> None:
    """What deleted Jobs used up is not remembered: only living children count."""
    Training.tries_used = 0  # type: ignore[assignment,method-assign]


ALL = (
    acting_before_recording, telling_the_time, leading_for_ever, rushing, listing_once, adopting, impatient,
    ignoring_the_installed_crd, tidying_up_before_leaving, ready_as_wished, blaming_trainings_for_evictions,
    forgetting_tries,
)  # fmt: skip
MUTATIONS = {mutation.__name__: mutation for mutation in ALL}

if __name__ == "__main__":
    MUTATIONS[sys.argv[1]]()
    sys.exit(operator.main())
