"""The routes of the server: questions, health, metrics, the page."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deeprec import __version__
from deeprec.serve import RequestError
from deeprec.server import protocol, question
from deeprec.server.batcher import Batcher, Full, Question, Ranked
from deeprec.server.held import Held
from deeprec.server.intake import Intake, Refused
from deeprec.server.measured import Measured
from deeprec.server.opened import Opened
from deeprec.server.question import Limits

LOG = logging.getLogger("deeprec")
PAGE = Path(__file__).with_name("page.html")
SEARCHES = 2  # of the catalog at once
MOST_FOUND = 50  # items in one answer of /items
# The page asks nobody but the server it came from.
POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'"
)


@dataclass(frozen=True)
class Service:
    """What the routes share."""

    held: Held
    batcher: Batcher
    intake: Intake
    limits: Limits
    measured: Measured
    reload_seconds: float  # 0: never

    def opened(self, name: str | None = None, version: str | None = None) -> Opened:
        """The version that a path names.

        Raises:
            Refused: it is not loaded.
        """
        opened = self.held.version(version)
        if opened is None or name not in (None, opened.name):
            loaded = ", ".join(self.held.loaded)
            raise Refused(404, f"there is {self.held.served.name}, versions {loaded}")
        return opened

    async def ask(self, questions: list[Question]) -> list[Ranked]:
        """Answers, or why there is none."""
        try:
            ranked = await self.batcher.ask(questions)
        except Full:
            raise Refused(429, "too many requests are waiting; try again later") from None
        except asyncio.CancelledError:
            raise Refused(503, "the server is shutting down") from None
        except RequestError:
            raise
        except RuntimeError as error:  # a score that is not a number
            raise Refused(500, str(error).strip().splitlines()[-1]) from None
        except Exception as error:
            LOG.exception("the model failed")
            raise Refused(500, f"the model failed: {type(error).__name__}") from None
        self.measured.unknown.inc(sum(one.num_unknown for one in questions))
        return ranked


def application(service: Service, *, page: bool) -> FastAPI:
    """The server as an ASGI application.

    Args:
        service: what is served.
        page: whether there is a page at / and the catalog it searches.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.batcher.start()
        watching = None
        if service.reload_seconds > 0:
            watching = asyncio.create_task(service.held.watch(service.reload_seconds))
        yield
        if watching is not None:
            watching.cancel()
            with suppress(asyncio.CancelledError):
                await watching
        await service.batcher.stop()

    app = FastAPI(
        title="deeprec", lifespan=lifespan, openapi_url=None, docs_url=None, redoc_url=None
    )
    app.add_middleware(Counted, measured=service.measured)
    _tell_errors(app)
    _add_questions(app, service)
    _add_health(app, service)
    if page:
        _add_page(app, service)
    return app


class Counted:
    """Counts and times every request of an application.

    As plain ASGI: as an `app.middleware("http")` it takes 0.9 ms of CPU more, of 2.4 for an answer.
    """

    def __init__(self, app: ASGIApp, measured: Measured) -> None:
        self._app, self._measured = app, measured

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, status = time.perf_counter(), 500

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noted)
        finally:
            path = getattr(scope.get("route"), "path", "unknown")
            self._measured.requests.labels(path, str(status)).inc()
            self._measured.seconds.labels(path).observe(time.perf_counter() - start)


def _tell_errors(app: FastAPI) -> None:
    """Says in one form why a request got no answer."""

    @app.exception_handler(Refused)
    async def refused(_: Request, error: Refused) -> Response:
        headers = {"Retry-After": "1"} if error.status in (429, 503) else None
        return JSONResponse({"error": str(error)}, error.status, headers)

    @app.exception_handler(HTTPException)
    async def unknown(_: Request, error: HTTPException) -> Response:
        return JSONResponse({"error": error.detail}, error.status_code, error.headers)

    @app.exception_handler(RequestError)
    async def broken(_: Request, error: RequestError) -> Response:
        return JSONResponse({"error": str(error)}, 400)


def _add_questions(app: FastAPI, service: Service) -> None:
    @app.post("/recommend")
    async def recommend(request: Request) -> Response:
        body = await service.intake.body_of(request)
        opened = service.opened()
        asked = question.question_of(opened.bundle, question.asked(body), service.limits)
        [ranked] = await service.ask([asked])
        ids = opened.bundle.item_ids
        return JSONResponse(
            {
                "model": opened.name,
                "version": opened.version,
                "item_ids": [ids[item].as_py() for item in ranked.items],
                "scores": ranked.scores,
                "num_unknown": asked.num_unknown,
            }
        )

    @app.post("/v2/models/{name}/infer")
    @app.post("/v2/models/{name}/versions/{version}/infer")
    async def infer(request: Request, name: str, version: str | None = None) -> Response:
        body = await service.intake.body_of(request)
        opened = service.opened(name, version)
        said = protocol.inference(body)
        questions = protocol.questions_of(opened.bundle, said, service.limits)
        ranked = await service.ask(questions)
        k = questions[0].k if questions else 0
        return JSONResponse(protocol.answer(opened, said, ranked, k))


def _add_health(app: FastAPI, service: Service) -> None:
    @app.get("/v2")
    async def about() -> dict[str, Any]:
        return {"name": "deeprec", "version": __version__, "extensions": []}

    @app.get("/v2/health/live")
    async def live() -> dict[str, bool]:
        return {"live": True}

    @app.get("/v2/health/ready")
    async def ready() -> Response:
        is_ready = service.batcher.is_running
        return JSONResponse({"ready": is_ready}, 200 if is_ready else 503)

    @app.get("/v2/models/{name}")
    @app.get("/v2/models/{name}/versions/{version}")
    async def model(name: str, version: str | None = None) -> dict[str, Any]:
        return protocol.metadata(service.opened(name, version), list(service.held.loaded))

    @app.get("/v2/models/{name}/ready")
    @app.get("/v2/models/{name}/versions/{version}/ready")
    async def model_ready(name: str, version: str | None = None) -> Response:
        is_ready = service.batcher.is_running
        said = {"name": service.opened(name, version).name, "ready": is_ready}
        return JSONResponse(said, 200 if is_ready else 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        service.measured.waiting.set(service.batcher.num_waiting)
        return Response(generate_latest(service.measured.registry), media_type=CONTENT_TYPE_LATEST)


def _add_page(app: FastAPI, service: Service) -> None:
    text = PAGE.read_text(encoding="utf-8")
    searches = asyncio.Semaphore(SEARCHES)

    @app.get("/")
    async def page() -> Response:
        headers = {"Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff"}
        return HTMLResponse(text, headers=headers)

    @app.get("/items")
    async def items(request: Request) -> dict[str, Any]:
        """Items that hold the words of `search`, or those of the ids given as `id`."""
        opened = service.opened()
        ids = request.query_params.getlist("id")[:MOST_FOUND]
        if ids:
            places = [place for place in opened.bundle.indices_of(ids) if place >= 0]
            return {"items": [opened.catalog.told(place) for place in places]}
        words = request.query_params.get("search", "")[:200]
        async with searches:
            found = await asyncio.to_thread(opened.catalog.search, words, 12)
        return {"items": found}

    @app.get("/about")
    async def about() -> dict[str, Any]:
        """What the page says of the bundle."""
        opened = service.opened()
        return {
            "name": opened.name,
            "version": opened.version,
            "num_items": opened.bundle.num_items,
            "exclude_seen": opened.bundle.policy["exclude_seen"],
            "attributes": {
                name: list(values) if isinstance(values, dict) else None
                for name, values in opened.bundle.vocabularies.items()
            },
        }
