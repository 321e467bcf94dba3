"""What the buttons write into the resource."""

from __future__ import annotations

import pytest
from continual_contract.errors import UsageError
from continual_gateway.pages.steering import wish

FIRST, SECOND = 1_800_000_000_000, 1_800_000_060_000


@pytest.mark.parametrize("verb", ["retrain", "rollback", "cancel", "promote", "approve", "reject", "readmit"])
def test_asking_again_is_a_new_wish(verb: str) -> None:
    """The operator does once what an annotation says: the same button a minute later must say something else, or nothing happens."""
    assert wish(verb, "v2", FIRST).annotations != wish(verb, "v2", SECOND).annotations


def test_what_is_no_verb_is_refused_with_those_there_are() -> None:
    with pytest.raises(UsageError, match="is not a verb"):
        wish("explode", "v2", FIRST)
