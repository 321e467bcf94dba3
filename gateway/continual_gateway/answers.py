"""Who waits for which answer: one reader per model over `predictions` and `dead`, however many requests wait.

A request is added by the function `enqueue`; its id is the name under which its prediction appears. The reader begins where the streams
end before the first request is sent, so an answer cannot slip between sending and waiting; one that comes before its own
id has been heard of is kept for a moment. When Redis goes away the reader comes back to where it was: nothing accepted is lost
by a broken socket, only late, and who has waited too long is told the id.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass

from continual_contract.entries import PredictionEntry, decode_prediction
from continual_contract.errors import BacklogFullError, InvalidImageError, RedisUnavailableError
from continual_contract.functions import enqueue_call
from continual_contract.keys import ModelKeys

from continual_gateway.deadlines import Deadlines
from continual_gateway.errors import AnswerLateError
from continual_gateway.settings import Limits
from continual_gateway.wire import RedisAddress, Wire

log = logging.getLogger("continual.gateway.answers")

Fields = Mapping[str | bytes, str | bytes | int | float]

BLOCK_MS = 500
PAGE = 1000
LINGER_SECONDS = 5.0
"""How long the reader goes on when nobody waits."""
GONE_SECONDS = 1.5
"""Redis away for longer: who waits is told (D4)."""
EARLY_KEPT_SECONDS = 3.0
"""An answer whose id has not been heard of yet is kept at least this long; longer than any enqueue may take."""


@dataclass(frozen=True, slots=True)
class Refused:
    """A dead letter: nobody could answer the request."""

    request_id: str
    reason: str
    message: str

    def error(self) -> InvalidImageError:
        return InvalidImageError(
            f"the request was refused: {self.reason}: {self.message}", field="image", value=self.request_id,
            remedy="send an image that the model takes; see `continual dead list`",
        )  # fmt: skip


Found = PredictionEntry | Refused


@dataclass(frozen=True, slots=True)
class Pending:
    """An accepted request."""

    request_id: str
    answer: asyncio.Future[Found]


class Answers:
    """One model's questions and answers."""

    def __init__(
        self, keys: ModelKeys, address: RedisAddress, sender: Wire, limits: Limits, deadlines: Deadlines
    ) -> None:
        self._keys, self._limits, self._deadlines = keys, limits, deadlines
        self._sender, self._receiver = sender, Wire(address, deadlines)
        self._waiting: dict[bytes, asyncio.Future[Found]] = {}
        self._early: dict[bytes, Found] = {}
        self._earlier: dict[bytes, Found] = {}
        self._turned = 0.0
        self._positions: tuple[bytes, bytes] | None = None
        self._asking = 0
        self._reader: asyncio.Task[None] | None = None
        self._ready: asyncio.Event = asyncio.Event()

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    async def ask(
        self, fields: Fields, *, caller_key: str | None = None, window_seconds: float = 86_400.0
    ) -> PredictionEntry:
        """Send one request and wait for its answer.

        Errors: BacklogFullError, RedisUnavailableError before it was accepted; afterwards AnswerLateError with its id, and
        InvalidImageError when it became a dead letter.
        """
        return await self.wait(await self.send(fields, caller_key=caller_key, window_seconds=window_seconds))

    async def send(self, fields: Fields, *, caller_key: str | None = None, window_seconds: float = 86_400.0) -> Pending:
        """Accepted: its answer is caught for `wait`, which must follow. Errors: BacklogFullError, RedisUnavailableError."""
        if len(self._waiting) + self._asking >= self._limits.waiting:
            raise BacklogFullError(
                "too many requests wait here",
                field="backlog",
                value=self._limits.waiting,
                remedy="retry a little later",
            )
        self._asking += 1
        try:
            await self._listening()
            call = enqueue_call(self._keys, fields, caller_key, self._limits.backlog, int(window_seconds) + 3600)
            reply = await self._sender.call(*call.command(), seconds=self._limits.redis_seconds)
            request_id: bytes = reply[0]
            if not reply[1]:
                await self._look_up(request_id)
            return Pending(request_id.decode(), self._expect(request_id))
        finally:
            self._asking -= 1

    async def add(self, fields: Fields, caller_key: str, window_seconds: float) -> str:
        """The id of a request that nobody here waits for. Errors: BacklogFullError, RedisUnavailableError."""
        call = enqueue_call(self._keys, fields, caller_key, self._limits.backlog, int(window_seconds) + 3600)
        reply = await self._sender.call(*call.command(), seconds=self._limits.redis_seconds)
        return str(reply[0].decode())

    async def wait(self, pending: Pending) -> PredictionEntry:
        """The answer of a request that `send` accepted. Errors: AnswerLateError, RedisUnavailableError, InvalidImageError."""
        try:
            found = await self._deadlines.within(self._limits.answer_seconds, pending.answer)
        except TimeoutError as error:
            raise late(pending.request_id, self._limits.answer_seconds) from error
        finally:
            self._waiting.pop(pending.request_id.encode(), None)
        if isinstance(found, Refused):
            raise found.error()
        return found

    def forget(self, pending: Pending) -> None:
        """Nobody waits for this one after all; it is answered nevertheless."""
        self._waiting.pop(pending.request_id.encode(), None)

    async def close(self) -> None:
        if self._reader is not None:
            self._reader.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._reader
        self._receiver.close()

    # -- sending

    def _expect(self, request_id: bytes) -> asyncio.Future[Found]:
        """The future of an answer; two callers of one key have one each."""
        future: asyncio.Future[Found] = asyncio.get_running_loop().create_future()
        first = self._waiting.get(request_id)
        if first is not None:
            first.add_done_callback(lambda done: _copy(done, future))
            return future
        self._waiting[request_id] = future
        early = self._early.pop(request_id, None) or self._earlier.pop(request_id, None)
        if early is not None:
            future.set_result(early)
        return future

    async def _look_up(self, request_id: bytes) -> None:
        """A request sent before under the same key may have been answered long ago: its prediction is searched from its own time on."""
        found = await self._sender.call(
            "XRANGE", self._keys.predictions, request_id, "+", "COUNT", PAGE, seconds=self._limits.redis_seconds
        )
        for _, flat in found:
            self._note(flat, keep=flat[1::2][flat[::2].index(b"r")] == request_id if b"r" in flat[::2] else False)

    # -- receiving

    async def _listening(self) -> None:
        if self._reader is None or self._reader.done():
            self._ready = asyncio.Event()
            self._reader = asyncio.create_task(self._read(), name=f"answers {self._keys.model}")
        if not self._ready.is_set():
            try:
                async with asyncio.timeout(self._limits.redis_seconds):
                    await self._ready.wait()
            except TimeoutError as error:
                raise RedisUnavailableError("no answer from Redis", field="redis", remedy="try again") from error

    async def _read(self) -> None:
        """Until nobody has waited for a while."""
        loop = asyncio.get_running_loop()
        idle_since = gone_since = loop.time()
        while self._waiting or self._asking or loop.time() - idle_since < LINGER_SECONDS:
            try:
                await self._turn()
                gone_since = loop.time()
            except RedisUnavailableError as error:
                if loop.time() - gone_since > GONE_SECONDS:
                    self._tell_all(error)
                await asyncio.sleep(0.1)
            if self._waiting or self._asking:
                idle_since = loop.time()
        self._positions = None

    async def _turn(self) -> None:
        if self._positions is None:
            self._positions = await self._ends()
        self._ready.set()
        predictions, dead = self._positions
        found = await self._receiver.call(
            "XREAD", "COUNT", PAGE, "BLOCK", BLOCK_MS, "STREAMS", self._keys.predictions, self._keys.dead, predictions, dead,
            seconds=BLOCK_MS / 1000 + GONE_SECONDS,
        )  # fmt: skip
        for name, entries in found or ():
            if name == self._keys.predictions.encode():
                predictions = entries[-1][0]
            else:
                dead = entries[-1][0]
            for _, flat in entries:
                self._note(flat, keep=self._asking > 0)
        self._positions = predictions, dead
        self._forget_early()

    async def _ends(self) -> tuple[bytes, bytes]:
        ends = [
            await self._receiver.call("XREVRANGE", stream, "+", "-", "COUNT", 1, seconds=GONE_SECONDS)
            for stream in (self._keys.predictions, self._keys.dead)
        ]
        first, second = (found[0][0] if found else b"0-0" for found in ends)
        return first, second

    def _note(self, flat: list[bytes], *, keep: bool) -> None:
        """One entry of either stream: for who waits, or kept for who is about to."""
        try:
            request_id = flat[flat[::2].index(b"r") * 2 + 1]
        except (ValueError, IndexError):
            return
        future = self._waiting.get(request_id)
        if future is None and not keep:
            return
        answer = read_answer(request_id, flat)
        if answer is None:
            return
        if future is None:
            self._early[request_id] = answer
        elif not future.done():
            future.set_result(answer)

    def _forget_early(self) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._turned > EARLY_KEPT_SECONDS:
            self._early, self._earlier, self._turned = {}, self._early, now

    def _tell_all(self, error: RedisUnavailableError) -> None:
        for request_id, future in list(self._waiting.items()):
            if not future.done():
                future.set_exception(_gone(request_id.decode(), error))


def read_answer(request_id: bytes, flat: list[bytes]) -> Found | None:
    """A prediction or a dead letter; None for what nobody can read, and for the dead letter of a label."""
    fields = dict(zip(flat[::2], flat[1::2], strict=False))
    if b"c" in fields:
        try:
            return decode_prediction(fields)
        except (KeyError, ValueError):
            return None
    if b"reason" in fields and fields.get(b"kind") != b"label":
        reason, message = (fields.get(name, b"").decode("utf-8", "replace") for name in (b"reason", b"message"))
        return Refused(request_id.decode(), reason, message)
    return None


def late(request_id: str, seconds: float) -> AnswerLateError:
    return AnswerLateError(
        f"no answer within {seconds:g} s; the request stays in the stream and will be answered", field="request",
        value=request_id, remedy="ask for it later at …/predictions/{id}",
    )  # fmt: skip


def _gone(request_id: str, error: RedisUnavailableError) -> RedisUnavailableError:
    return RedisUnavailableError(
        f"{error.message}; the request was accepted and will be answered", field="request", value=request_id,
        remedy="ask for it later at …/predictions/{id}",
    )  # fmt: skip


def _copy(done: asyncio.Future[Found], to: asyncio.Future[Found]) -> None:
    """What the first caller of a key got, or that it gave up waiting."""
    if to.done():
        return
    if done.cancelled():
        to.cancel()
    elif (error := done.exception()) is not None:
        to.set_exception(error)
    else:
        to.set_result(done.result())
