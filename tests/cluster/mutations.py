"""The operator with one protection removed, as a process: `python mutations.py <name>`. Tests that stay green with it prove nothing."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

from continual_operator import __main__ as operator
from continual_operator import reconcile
from continual_operator.converge import converge
from continual_operator.decide import Plan, decide
from continual_operator.observation import Observation


def acting_before_recording() -> None:
    """A pass acts on what it has just decided, before that is the recorded truth."""

    def hasty(obs: Observation, now: Any, settings: Any) -> Plan:
        plan = decide(obs, now, settings)
        return replace(plan, actions=converge(replace(obs, status=plan.status), settings))

    reconcile.decide = hasty  # type: ignore[attr-defined]  # what the loop calls


MUTATIONS = {mutation.__name__: mutation for mutation in (acting_before_recording,)}

if __name__ == "__main__":
    MUTATIONS[sys.argv[1]]()
    sys.exit(operator.main())
