"""Who may do what: a viewer looks and asks, a labeler also teaches, an admin also steers. Each role holds those before it."""

from __future__ import annotations

from enum import IntEnum

from continual_contract.errors import UsageError


class Role(IntEnum):
    """Ordered: `role >= Role.LABELER` reads as it should."""

    VIEWER = 1
    LABELER = 2
    ADMIN = 3

    @property
    def label(self) -> str:
        return self.name.lower()


def role_named(text: str) -> Role:
    """Errors: UsageError naming the roles there are."""
    try:
        return Role[text.upper()]
    except KeyError:
        raise UsageError("is not a role", field="role", value=text, remedy="use viewer, labeler or admin") from None
