"""The family tree of everything that can go wrong and be told to a person.

    ContinualError
    ├── UsageError                 the caller asked for something that cannot be (exit 2)
    │   ├── InvalidSpecError       a ContinualModel field is wrong
    │   ├── InvalidImageError      an image of the wrong size, type or length
    │   ├── UnknownClassError      a label names a class the model does not have
    │   ├── ClusterRefusedError    the Kubernetes API server says no: rights, quota, policy
    │   └── NotFoundError          a file, folder, model, version or request id that is not there (exit 3)
    │       └── MissingDatasetError
    ├── UnavailableError           the other side is not there or not able now; try again (exit 4)
    │   ├── RedisUnavailableError
    │   ├── StoreUnavailableError
    │   ├── ClusterUnavailableError
    │   ├── BacklogFullError
    │   └── AddressInUseError
    ├── ConflictError              somebody else changed it first, or a fence refused us (exit 5)
    │   ├── StaleRoutingError
    │   ├── FencedError
    │   └── ForeignOwnerError
    ├── IntegrityError             bytes that are not what their digest says (exit 6)
    │   └── UnsafeModelError       an ONNX file outside the allowed domains or sizes
    └── TrainingError              a training that ended without a checkpoint (exit 7)
        ├── DivergedError
        └── ParityError

Every message names the field, the value and the remedy; `exit_code` is what the command line returns.
"""

from __future__ import annotations


class ContinualError(Exception):
    """Something a person should read. `field` and `value` say where, `remedy` says what to do."""

    exit_code = 1
    reason = "Error"

    def __init__(self, message: str, *, field: str = "", value: object = None, remedy: str = "") -> None:
        self.message, self.field, self.value, self.remedy = message, field, value, remedy
        super().__init__(self.describe())

    def describe(self) -> str:
        """One line: `field: message (got value); remedy`."""
        head = f"{self.field}: {self.message}" if self.field else self.message
        got = "" if self.value is None else f" (got {_short(self.value)})"
        return f"{head}{got}" + (f"; {self.remedy}" if self.remedy else "")


def _short(value: object, limit: int = 80) -> str:
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"


class UsageError(ContinualError):
    exit_code = 2
    reason = "Usage"


class InvalidSpecError(UsageError):
    reason = "InvalidSpec"


class InvalidImageError(UsageError):
    reason = "InvalidImage"


class UnknownClassError(UsageError):
    reason = "UnknownClass"


class ClusterRefusedError(UsageError):
    reason = "ClusterRefused"


class NotFoundError(UsageError):
    exit_code = 3
    reason = "NotFound"


class MissingDatasetError(NotFoundError):
    reason = "MissingDataset"


class UnavailableError(ContinualError):
    exit_code = 4
    reason = "Unavailable"


class RedisUnavailableError(UnavailableError):
    reason = "RedisUnavailable"


class StoreUnavailableError(UnavailableError):
    reason = "StoreUnavailable"


class ClusterUnavailableError(UnavailableError):
    reason = "ClusterUnavailable"


class BacklogFullError(UnavailableError):
    reason = "BacklogFull"


class AddressInUseError(UnavailableError):
    reason = "AddressInUse"


class ConflictError(ContinualError):
    exit_code = 5
    reason = "Conflict"


class StaleRoutingError(ConflictError):
    reason = "StaleRouting"


class FencedError(ConflictError):
    reason = "Fenced"


class ForeignOwnerError(ConflictError):
    reason = "ForeignOwner"


class IntegrityError(ContinualError):
    exit_code = 6
    reason = "Integrity"


class UnsafeModelError(IntegrityError):
    reason = "UnsafeModel"


class TrainingError(ContinualError):
    exit_code = 7
    reason = "TrainingFailed"


class DivergedError(TrainingError):
    reason = "Diverged"


class ParityError(TrainingError):
    reason = "ParityFailed"
