"""What went wrong, as HTTP says it: one table from the family tree of errors to status codes, one JSON shape for all of them.

ContinualError (continual_contract.errors)
├── UnauthenticatedError       nobody, or nobody we know (401)
├── ForbiddenError             somebody, but not allowed, or sent by a foreign page (403)
├── TooLargeError              a body above its limit (413)
├── TooSlowError               a body that does not arrive in time (408)
├── MediaTypeError             a body of a type that this address does not take (415)
└── AnswerLateError            accepted, but not answered in time: the request id can be asked later (504)
"""

from __future__ import annotations

from typing import Any

from continual_contract import errors as base
from continual_contract.errors import ContinualError


class UnauthenticatedError(base.UsageError):
    reason = "Unauthenticated"


class ForbiddenError(base.UsageError):
    reason = "Forbidden"


class TooLargeError(base.UsageError):
    reason = "TooLarge"


class TooSlowError(base.UsageError):
    reason = "TooSlow"


class MediaTypeError(base.UsageError):
    reason = "UnsupportedMediaType"


class AnswerLateError(base.UnavailableError):
    """`value` is the request id: the request stays in the stream and will be answered."""

    reason = "AnswerLate"


STATUSES: tuple[tuple[type[ContinualError], int], ...] = (
    (UnauthenticatedError, 401),
    (ForbiddenError, 403),
    (TooLargeError, 413),
    (TooSlowError, 408),
    (MediaTypeError, 415),
    (AnswerLateError, 504),
    (base.NotFoundError, 404),
    (base.ClusterRefusedError, 403),
    (base.BacklogFullError, 429),
    (base.UsageError, 400),
    (base.UnavailableError, 503),
    (base.ConflictError, 409),
)
"""The first class that fits says the status; anything else is ours to mend: 500."""

RETRY_AFTER_SECONDS = {429: "1", 503: "2", 504: "5"}


def status_of(error: ContinualError) -> int:
    return next((status for kind, status in STATUSES if isinstance(error, kind)), 500)


def body_of(error: ContinualError) -> dict[str, Any]:
    """`{error, reason, field, remedy}`; `error` is the sentence that Open Inference Protocol clients show."""
    body: dict[str, Any] = {"error": error.describe(), "reason": error.reason, "message": error.message}
    body |= {name: text for name, text in (("field", error.field), ("remedy", error.remedy)) if text}
    if isinstance(error, AnswerLateError):
        body["id"] = error.value
    return body


def headers_of(status: int) -> dict[str, str]:
    headers = {"Retry-After": RETRY_AFTER_SECONDS[status]} if status in RETRY_AFTER_SECONDS else {}
    return headers | ({"WWW-Authenticate": "Bearer"} if status == 401 else {})
