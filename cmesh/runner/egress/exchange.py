"""The requests that come over one connection of a task, and the model's answers. No buffering.

Each request is judged, recorded and made anew. What is not whole is not sent on as if it were: a
broken answer breaks the task's connection off. Redirects are the task's to read; nobody follows.
"""

import asyncio
import contextlib
import json

import h11

from cmesh.runner.egress.gate import answer_headers, judge
from cmesh.runner.egress.gateway import REQUEST_HEAD_BYTES, Gateway, Wire
from cmesh.runner.egress.outside import BUFFER_BYTES, Streams
from cmesh.runner.egress.trail import BAD_GATEWAY, Record, Refused, Trail

__all__ = ["Exchanges"]

BODY_BYTES = 64 * 1024 * 1024
"""Of a request; APIs of models take 20 to 50 MB."""

ANSWER_BYTES = 1024 * 1024 * 1024
EARLY_MOST = 32
"""Heads of answers that are none yet (1xx) before one that is."""

LINGER_LIMIT_S = 1.0
"""How long a task that is still sending may take to read its answer."""

TOO_LARGE = "413 Content Too Large"
HEAD_TOO_LARGE = "431 Request Header Fields Too Large"


class Exchanges:
    """One connection of a task to its gateway; `run` is its whole life."""

    def __init__(self, client: Streams, gateway: Gateway, record: Record) -> None:
        self._client = Wire(client, h11.SERVER, REQUEST_HEAD_BYTES)
        self._gateway = gateway
        self._record = record
        self._trail = Trail(record=record)
        self._recorded = False
        self._model: Wire | None = None
        self._stopped = False

    async def run(self, first: bytes) -> None:
        """Serve requests until one side ends; `first` was read already."""
        client = self._client
        client.http.receive_data(first)
        try:
            while (request := await self._next_request()) is not None:
                await self._gateway.turn()
                self._trail, self._recorded = Trail(record=self._record), False
                await self._answer(request)
                if client.http.states != {h11.CLIENT: h11.DONE, h11.SERVER: h11.DONE}:
                    break
                client.http.start_next_cycle()
            await self._linger()
        except Refused as refused:
            await self._turn_away(refused)
        except (OSError, h11.ProtocolError):
            return
        finally:
            self.stop("closed")

    def stop(self, why: str) -> None:
        """Drop both sides at once; `run` ends by it. `why` is recorded if a request was open."""
        self._stopped = True
        if self._trail.end == "closed":
            self._trail.end = why
        self._client.abort()
        if self._model is not None:
            self._model.abort()

    async def _next_request(self) -> h11.Request | None:
        """Return the head of the next request; None when there is no more."""
        client, limits = self._client, self._gateway.limits
        fresh = not client.http.trailing_data[0]
        try:
            async with asyncio.timeout(limits.idle_s if fresh else limits.head_s):
                event = await client.next()
        except TimeoutError:
            return None
        except h11.RemoteProtocolError as error:
            status = HEAD_TOO_LARGE if error.error_status_hint == 431 else "400 Bad Request"
            why = "the request is no plain HTTP with one reading"
            raise Refused("bad_request", why, detail=str(error), status=status) from None
        return event if isinstance(event, h11.Request) else None

    async def _answer(self, request: h11.Request) -> None:
        """Carry one request to the model, and its answer back.

        Raises:
            Refused: it may not be, or cannot, and nothing was answered yet.
            OSError: a side broke it off.
        """
        gateway, trail = self._gateway, self._trail
        trail.host, trail.port = gateway.gate.host, gateway.gate.port
        headers = list(request.headers)
        forward = judge(gateway.gate, request.method, request.target, headers, port=gateway.port)
        head = await gateway.head(forward)
        self._model = model = await gateway.reach(trail)
        try:
            self._require_going_on()
            await trail.allowed("gateway")
        except (Refused, OSError):
            model.abort()
            raise
        self._recorded, begun = True, gateway.clock.monotonic()
        trail.bytes_out = forward.size
        try:
            self._require_going_on()
            async with asyncio.timeout(gateway.limits.idle_s) as idle:
                await self._carry(model, head, idle)
            self._model = None
            gateway.keep(model, trail.address)
        except TimeoutError:
            self.stop("idle")
            raise
        except OSError:
            self.stop("broken")
            raise
        except Refused as refused:
            trail.end = refused.code if trail.end == "closed" else trail.end
            raise
        finally:
            if self._model is not None:
                model.abort()
                self._model = None
            await trail.ended(gateway.clock.monotonic() - begun)

    def _require_going_on(self) -> None:
        # INVARIANT: with the task ends the use of the key. Its key was read and its model reached
        # meanwhile, and what the task has sent before still waits here to be read.
        if self._stopped:
            raise ConnectionAbortedError("the task's network has ended")

    async def _carry(self, model: Wire, head: h11.Request, idle: asyncio.Timeout) -> None:
        """Send the request while its answer may come already: some are refused half-way."""
        upload = asyncio.get_running_loop().create_task(self._upload(model, head, idle))
        download = asyncio.get_running_loop().create_task(self._download(model, idle))
        try:
            done, _ = await asyncio.wait((upload, download), return_when=asyncio.FIRST_COMPLETED)
            if upload in done:
                upload.result()
            await download
        except h11.ProtocolError as error:
            if self._client.http.our_state is not h11.SEND_RESPONSE:
                raise ConnectionAbortedError("the answer has no end") from error
            why = "the model's server did not answer by HTTP"
            detail = str(error)
            raise Refused("bad_answer", why, detail=detail, status=BAD_GATEWAY) from None
        finally:
            for task in (upload, download):
                task.cancel()
            await asyncio.gather(upload, download, return_exceptions=True)

    async def _upload(self, model: Wire, head: h11.Request, idle: asyncio.Timeout) -> None:
        client = self._client
        try:
            await model.send(head)
            if client.http.they_are_waiting_for_100_continue:
                await client.send(h11.InformationalResponse(status_code=100, headers=[]))
            body = 0
            while isinstance(event := await self._body(), h11.Data):
                self._touch(idle)
                body += len(event.data)
                self._trail.bytes_out += len(event.data)
                if body > BODY_BYTES:
                    raise Refused("too_large", "the request is too large", status=TOO_LARGE)
                await model.send(h11.Data(data=bytes(event.data)))
            await model.send(h11.EndOfMessage())
        except _TaskGoneError:
            raise
        except OSError:
            return  # the model's server reads no more; it may have said why

    async def _body(self) -> h11.Event:
        try:
            return await self._client.next()
        except (OSError, h11.RemoteProtocolError) as error:
            raise _TaskGoneError("the task broke its request off") from error

    async def _download(self, model: Wire, idle: asyncio.Timeout) -> None:
        client, trail = self._client, self._trail
        early = 0
        while isinstance(event := await model.next(), h11.InformationalResponse):
            if (early := early + 1) > EARLY_MOST:
                raise h11.RemoteProtocolError("the answer does not begin")
        if not isinstance(event, h11.Response):
            raise h11.RemoteProtocolError("the connection ended without an answer")
        trail.status = event.status_code
        headers = answer_headers(list(event.headers))
        answer = h11.Response(
            status_code=event.status_code, headers=headers, reason=bytes(event.reason)
        )
        await client.send(answer)
        while isinstance(event := await model.next(), h11.Data):
            self._touch(idle)
            trail.bytes_in += len(event.data)
            if trail.bytes_in > ANSWER_BYTES:
                raise ConnectionAbortedError("the answer is too large")
            await client.send(h11.Data(data=bytes(event.data)))
        await client.send(h11.EndOfMessage())

    def _touch(self, idle: asyncio.Timeout) -> None:
        idle.reschedule(asyncio.get_running_loop().time() + self._gateway.limits.idle_s)

    async def _turn_away(self, refused: Refused) -> None:
        """Record a no in full, and tell the task what it may know."""
        if not self._recorded:  # else its row says allowed, and its end what became of it
            await self._trail.refused(refused)
        client = self._client
        if client.http.our_state not in {h11.IDLE, h11.SEND_RESPONSE}:
            return
        number, _, reason = refused.status.partition(" ")
        # The form that the APIs of models have for their errors.
        told = {"type": refused.code, "message": f"cmesh: {refused.reason}"}
        body = json.dumps({"type": "error", "error": told}).encode()
        headers = [
            ("content-type", "application/json"),
            ("content-length", str(len(body))),
            ("connection", "close"),
        ]
        with contextlib.suppress(OSError, h11.ProtocolError):
            async with asyncio.timeout(LINGER_LIMIT_S):
                answer = h11.Response(status_code=int(number), headers=headers, reason=reason)
                await client.send(answer)
                await client.send(h11.Data(data=body))
                await client.send(h11.EndOfMessage())
            await self._linger()

    async def _linger(self) -> None:
        """End what goes to the task, and read on for a moment: else its answer would be lost."""
        with contextlib.suppress(OSError):
            async with asyncio.timeout(LINGER_LIMIT_S):
                if self._client.writer.can_write_eof():
                    self._client.writer.write_eof()
                while await self._client.reader.read(BUFFER_BYTES):
                    pass


class _TaskGoneError(OSError):
    """The task broke off what it was sending."""
