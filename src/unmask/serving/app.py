"""The HTTP side: routes, who may ask, sizes, the queue's limit, clients that go away, errors in OpenAI's shape."""

import asyncio
import hmac
import math
import time
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from unmask.errors import RequestError
from unmask.serving.requests import MAX_BODY_BYTES, EmbeddingRequest
from unmask.serving.service import Service

_BODY_SECONDS = 30.0  # in which a client must have sent its body
_READ_ANYWAY = 8  # times the limit: a client that is still sending would not see the answer
_CLIENT_GONE = 499  # nginx's; nobody reads it, but metrics count it
_LONGEST_RETRY = 60


class Api:
    """The routes of one service.

    Args:
        service: what answers.
        key: a bearer key that clients must have; None lets everybody in.
        max_queue: most requests that are accepted and not answered.
    """

    def __init__(self, service: Service, *, key: str | None, max_queue: int) -> None:
        self._service, self._max_queue = service, max_queue
        self._expected = f"Bearer {key}".encode() if key else None

    def app(self) -> FastAPI:
        """The application that a server such as uvicorn runs."""
        app = FastAPI(title="unmask", docs_url=None, redoc_url=None)
        body = {"required": True, "content": {"application/json": {"schema": EmbeddingRequest.model_json_schema()}}}
        app.post("/v1/embeddings", openapi_extra={"requestBody": body})(self.embeddings)
        app.get("/v1/models")(self.models)
        app.get("/v1/models/{name:path}")(self.model)
        app.get("/health")(self.health)
        app.get("/metrics")(self.metrics)
        app.add_exception_handler(RequestError, _refused)
        app.add_exception_handler(HTTPException, _no_such_route)
        app.add_exception_handler(Exception, _failed)
        return app

    async def embeddings(self, request: Request) -> Response:
        """Vectors of one text or of several."""
        started, status = time.perf_counter(), 500
        try:
            self._check_key(request)
            response = await self._answered(request, await _body(request))
            status = response.status_code
        except RequestError as error:
            status = error.status
            raise
        except ClientDisconnect:
            response = Response(status_code=(status := _CLIENT_GONE))
        finally:
            self._service.metrics.request(status, time.perf_counter() - started)
        return response

    async def models(self, request: Request) -> Response:
        """The one model there is."""
        self._check_key(request)
        return JSONResponse({"object": "list", "data": [self._service.model()]})

    async def model(self, request: Request, name: str) -> Response:
        """The same, by its name."""
        self._check_key(request)
        self._service.check_name(name)
        return JSONResponse(self._service.model())

    async def health(self) -> Response:
        """For load balancers: it answers, so it is well."""
        return JSONResponse({"status": "ok"})

    async def metrics(self) -> Response:
        """For Prometheus."""
        return Response(self._service.metrics.page(), media_type=CONTENT_TYPE_LATEST)

    def _check_key(self, request: Request) -> None:
        given = request.headers.get("authorization", "").encode("latin-1")
        if self._expected is not None and not hmac.compare_digest(given, self._expected):
            raise RequestError(
                "This server asks for a key: send it as 'Authorization: Bearer KEY'.",
                status=401,
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )

    async def _answered(self, request: Request, body: bytes) -> Response:
        """The answer, unless the queue is full or the client goes away before there is one."""
        service = self._service
        if service.requests_inside >= self._max_queue:
            seconds = min(_LONGEST_RETRY, max(1, math.ceil(service.worker.seconds_waiting())))
            raise RequestError(
                f"{self._max_queue} requests wait already; try again in {seconds} s.",
                status=429,
                code="queue_full",
                headers={"Retry-After": str(seconds)},
            )
        service.requests_inside += 1
        answer = asyncio.ensure_future(service.answer(body))
        gone = asyncio.ensure_future(_gone(request))
        try:
            await asyncio.wait((answer, gone), return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                raise ClientDisconnect
            return Response(answer.result(), media_type="application/json")
        finally:
            answer.cancel()
            gone.cancel()
            service.requests_inside -= 1


async def _body(request: Request) -> bytes:
    """The whole body.

    Raises:
        RequestError: it is too large, or does not come.
        ClientDisconnect: the client went away.
    """
    try:
        return await asyncio.wait_for(_read(request), _BODY_SECONDS)
    except asyncio.TimeoutError:
        raise RequestError(f"The body did not come within {_BODY_SECONDS:.0f} s.", status=408, code="timeout") from None


async def _read(request: Request) -> bytes:
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size <= MAX_BODY_BYTES:
            chunks.append(chunk)
        elif size > _READ_ANYWAY * MAX_BODY_BYTES:
            break
    if size > MAX_BODY_BYTES:
        raise RequestError(
            f"The body has more than {MAX_BODY_BYTES >> 20} MiB; send fewer texts at a time.",
            status=413,
            code="body_too_large",
        )
    return b"".join(chunks)


async def _gone(request: Request) -> None:
    """Returns when the client has closed its connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _error(message: str, *, status: int, code: str, param: str | None = None, headers: Any = None) -> Response:
    """An error as OpenAI's clients read it."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    body = {"error": {"message": message, "type": kind, "param": param, "code": code}}
    return JSONResponse(body, status_code=status, headers=headers)


def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    return _error(str(error), status=error.status, code=error.code, param=error.param, headers=error.headers)


def _no_such_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = "not_found" if error.status_code == 404 else "invalid_request"
    message = f"{request.method} {request.url.path}: {error.detail}."
    return _error(message, status=error.status_code, code=code, headers=error.headers)


def _failed(_: Request, error: Exception) -> Response:
    return _error(f"The server failed ({type(error).__name__}: {error}).", status=500, code="server_error")
