"""Bodies of requests, of which only so many and so much is held at once."""

import asyncio

from fastapi import Request

BODY_SECONDS = 10.0  # in which a body must be here
DRAINED = 4  # times the allowed length that is read, and let go, before a refusal


class Refused(Exception):  # noqa: N818  # a status
    """A request that gets no answer; `status` says why."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Intake:
    """Reads bodies.

    A refused one is read all the same, and let go: a connection that is closed while the other side
    still writes is reset, and whoever wrote never sees why.

    Args:
        max_bytes: of one body.
        max_at_once: bodies being read.
    """

    def __init__(self, *, max_bytes: int, max_at_once: int) -> None:
        self._max_bytes, self._max_at_once, self._reading = max_bytes, max_at_once, 0

    async def body_of(self, request: Request) -> bytes:
        """The body of a request.

        Raises:
            Refused: it is too long or too slow, or too many come at once.
        """
        full = self._reading >= self._max_at_once
        self._reading += 1
        try:
            async with asyncio.timeout(BODY_SECONDS):
                body = await self._read(request, 0 if full else self._max_bytes)
        except TimeoutError:
            raise Refused(408, f"the body was not here in {BODY_SECONDS:.0f} seconds") from None
        finally:
            self._reading -= 1
        if full:
            raise Refused(503, "too many requests at once; try again later")
        if body is None:
            raise Refused(413, f"a request may have {self._max_bytes} bytes")
        return body

    async def _read(self, request: Request, most: int) -> bytes | None:
        """The body, or None where it is longer than it may be."""
        body, length = bytearray(), 0
        async for chunk in request.stream():
            length += len(chunk)
            if length <= most:
                body += chunk
            elif length > DRAINED * self._max_bytes:
                break
        return None if length > most else bytes(body)
