"""The page's HTTP side: static files, live updates as server-sent events, history, pictures, and changes of streams.

Everything shown goes out as JSON and is put on the page as text, never as markup. Start at `app`.
"""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services import settings, streams
from services.dashboard.access import COOKIE, SESSION_S, Access
from services.dashboard.board import Board
from services.dashboard.history import History
from services.dashboard.spectrogram import Spectrograms
from services.dashboard.timeline import drawn
from services.errors import GenreError
from services.lifecycle import product_version

PAGE = Path(__file__).parent / "page"
FILES = {"": "index.html", "style.css": "style.css", "icon.svg": "icon.svg"}
TICK_S = 0.5
MOST_READERS = 200
MOST_BODY_BYTES = 16_384
MOST_STEPS = 4_000
DAY_S = 86_400.0

HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


@dataclass
class House:
    """What the routes work with.

    Attributes:
        config: the configuration file that changes of streams go to; None where there is none.
        metrics: makes the text of /metrics.
    """

    board: Board
    history: History
    access: Access
    spectrograms: Spectrograms | None
    config: Path | None
    metrics: Callable[[], bytes]
    stopping: Callable[[], bool]
    readers: int = 0


class Refused(Exception):  # noqa: N818  # an answer, not a defect
    """An answer other than 200."""

    def __init__(self, status: int, text: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(text)
        self.status, self.text, self.headers = status, text, headers or {}


class Door:
    """In front of every route: whose name is asked for, how large a body is, what every answer says to the browser."""

    def __init__(self, inner: ASGIApp, access: Access) -> None:
        self._inner, self._access = inner, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            await self._inner(scope, receive, send)
            return

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                present = {name for name, _ in message["headers"]}
                extra = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                extra.append((b"cache-control", b"no-store"))
                message["headers"] = [*message["headers"], *(pair for pair in extra if pair[0] not in present)]
            await send(message)

        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        length = headers.get("content-length", "0")
        refused = None
        if not self._access.host_is_ours(headers.get("host", "")):
            refused = Refused(421, "this machine is not called that; add the name to dashboard.hosts")
        elif not length.isdigit() or int(length) > MOST_BODY_BYTES or "transfer-encoding" in headers:
            refused = Refused(413, "the body is too large")
        if refused is not None:
            await _answer(refused)(scope, receive, sent)
            return
        await self._inner(scope, receive, sent)


def _answer(refused: Refused) -> Response:
    return JSONResponse({"error": refused.text}, refused.status, headers=refused.headers)


def app(house: House) -> ASGIApp:
    """Return the ASGI application."""
    routes = _Routes(house)
    return Door(
        Starlette(
            routes=[
                Route("/", routes.file),
                Route("/page/{name}", routes.file),
                Route("/healthz", routes.healthz),
                Route("/metrics", routes.metrics),
                Route("/api/session", routes.session),
                Route("/api/login", routes.login, methods=["POST"]),
                Route("/api/logout", routes.logout, methods=["POST"]),
                Route("/api/board", routes.board),
                Route("/api/live", routes.live),
                Route("/api/timeline", routes.timeline),
                Route("/api/shares", routes.shares),
                Route("/api/events", routes.events),
                Route("/api/spectrogram/{stream}", routes.spectrogram),
                Route("/api/streams", routes.configured),
                Route("/api/streams", routes.add, methods=["POST"]),
                Route("/api/streams/{stream}/{action}", routes.change, methods=["POST"]),
            ],
            exception_handlers={Refused: lambda request, error: _answer(error)},
        ),
        house.access,
    )


class _Routes:
    """One method a route."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._made: dict[int, tuple[float, int, bytes]] = {}

    # --- looking ---------------------------------------------------------------------------------------------------

    async def file(self, request: Request) -> Response:
        """The page itself: it holds nothing secret, so it needs no login."""
        name = request.path_params.get("name", "")
        if name.endswith(".js") and (PAGE / name).name == name and name.replace("-", "")[:-3].isalnum():
            path = PAGE / name
        elif name in FILES:
            path = PAGE / FILES[name]
        else:
            raise Refused(404, "there is no such page")
        if not path.is_file():
            raise Refused(404, "there is no such page")
        return FileResponse(path, headers={"cache-control": "no-cache"})

    async def healthz(self, request: Request) -> Response:
        """For load balancers and supervisors: 200 while the bus is connected."""
        connected = self._house.board.connected
        return JSONResponse({"connected": connected}, 200 if connected else 503)

    async def metrics(self, request: Request) -> Response:
        """Prometheus."""
        self._view(request)
        return Response(self._house.metrics(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def session(self, request: Request) -> Response:
        """Say what this browser may do."""
        access = self._house.access
        return JSONResponse(
            {
                "version": product_version(),
                "view": access.may_view(request.cookies, request.headers),
                "known": access.known(request.cookies),
                "changes": access.can_change and self._house.config is not None,
                "spectrogram": self._house.spectrograms is not None,
            }
        )

    async def board(self, request: Request) -> Response:
        """Everything shown now, once."""
        self._view(request)
        return JSONResponse(self._house.board.since(0))

    async def live(self, request: Request) -> Response:
        """What changes, as it changes: two updates a second at most, whatever the number of streams."""
        self._view(request)
        if self._house.readers >= MOST_READERS:
            raise Refused(503, f"{MOST_READERS} browsers are looking already", {"retry-after": "30"})
        return StreamingResponse(self._updates(), media_type="text/event-stream", headers={"x-accel-buffering": "no"})

    async def _updates(self) -> AsyncIterator[bytes]:
        version, house = 0, self._house
        house.readers += 1
        try:
            while not house.stopping():
                version, event = self._update(version)
                yield event
                await asyncio.sleep(TICK_S)
        finally:
            house.readers -= 1

    def _update(self, version: int) -> tuple[int, bytes]:
        """Return what changed after a version, as an event: made once for all browsers that ask at about one time."""
        now = time.monotonic()
        at, after, event = self._made.get(version, (0.0, 0, b""))
        if now - at > TICK_S / 2:
            update = self._house.board.since(version)
            after = update["version"]
            event = b"retry: 1000\ndata: " + json.dumps(update, separators=(",", ":")).encode() + b"\n\n"
            self._made = {key: value for key, value in self._made.items() if now - value[0] <= TICK_S / 2}
            self._made[version] = (now, after, event)
        return after, event

    async def timeline(self, request: Request) -> Response:
        """Runs of every stream, as many as the screen can show."""
        self._view(request)
        begin, end = _stretch(request)
        steps = int(_number(request, "steps", 600, 10, MOST_STEPS))
        names = tuple(request.query_params.getlist("stream"))[:200]

        def work() -> dict[str, Any]:
            return {
                "begin": begin,
                "end": end,
                "streams": drawn(self._house.history.runs(begin, end, names), begin, end, steps),
            }

        return JSONResponse(await run_in_threadpool(work))

    async def shares(self, request: Request) -> Response:
        """Seconds by genre, an hour or a day at a time."""
        self._view(request)
        slice_s = 3600.0 if request.query_params.get("by", "hour") == "hour" else DAY_S
        count = int(_number(request, "count", 24 if slice_s == 3600.0 else 14, 1, 400))
        # Slices begin at the viewer's own full hours and midnights.
        offset = _number(request, "offset_s", 0, -DAY_S, DAY_S)
        last = math.floor((time.time() + offset) / slice_s) * slice_s - offset
        begin = last - (count - 1) * slice_s
        stream = request.query_params.get("stream")
        found = await run_in_threadpool(self._house.history.shares, begin, last + slice_s, slice_s, stream)
        slices: list[dict[str, float]] = [{} for _ in range(count)]
        for share in found:
            if 0 <= share.slice < count:
                slices[share.slice][share.genre or ""] = round(share.seconds, 1)
        return JSONResponse({"begin": begin, "slice_s": slice_s, "slices": slices})

    async def events(self, request: Request) -> Response:
        """The latest events."""
        self._view(request)
        most = int(_number(request, "most", 100, 1, 1_000))
        stream = request.query_params.get("stream")
        return JSONResponse({"events": await run_in_threadpool(self._house.history.events, most, stream)})

    async def spectrogram(self, request: Request) -> Response:
        """The last window's features as a picture; asking keeps it coming."""
        self._view(request)
        spectrograms = self._house.spectrograms
        if spectrograms is None:
            raise Refused(404, "dashboard.spectrogram is off")
        name = request.path_params["stream"]
        if name not in {view.name for view in self._house.board.views()}:
            raise Refused(404, "there is no such stream")
        found = await run_in_threadpool(spectrograms.look, name)
        if found is None:
            return Response(status_code=204)
        picture, recipe, start_s = found
        return Response(picture, media_type="image/png", headers={"x-recipe": recipe, "x-start-s": f"{start_s:.3f}"})

    def _view(self, request: Request) -> None:
        if not self._house.access.may_view(request.cookies, request.headers):
            raise Refused(401, "log in first")

    # --- changing --------------------------------------------------------------------------------------------------

    async def login(self, request: Request) -> Response:
        """Start a session."""
        access = self._house.access
        if not access.same_site(request.headers):
            raise Refused(403, "that request did not come from this page")
        if not access.can_change:
            raise Refused(404, "dashboard.password_file is not set")
        password = (await _body(request)).get("password")
        token, wait_s = access.login(password if isinstance(password, str) else "")
        if token is None:
            text = "that is not the password" + (f"; wait {wait_s:.0f} s" if wait_s else "")
            raise Refused(429 if wait_s else 401, text, {"retry-after": f"{math.ceil(wait_s)}"} if wait_s else {})
        response = JSONResponse({"known": True})
        response.set_cookie(
            COOKIE, token, max_age=SESSION_S, httponly=True, samesite="strict", secure=request.url.scheme == "https"
        )
        return response

    async def logout(self, request: Request) -> Response:
        """End the session."""
        if not self._house.access.same_site(request.headers):
            raise Refused(403, "that request did not come from this page")
        self._house.access.logout(request.cookies)
        response = JSONResponse({"known": False})
        response.delete_cookie(COOKIE)
        return response

    async def configured(self, request: Request) -> Response:
        """The configured streams with their URLs, which may hold secrets: for those who may change them."""
        path = self._changer(request, safe=True)
        config = await _told(lambda: settings.load(path))
        return JSONResponse({"streams": [each.model_dump(mode="json", exclude_none=True) for each in config.streams]})

    async def add(self, request: Request) -> Response:
        """Add a stream to the configuration."""
        path = self._changer(request)
        body = await _body(request)
        values = {key: body[key] for key in ("name", "url", "prefer") if body.get(key) not in (None, "")}
        await _told(lambda: streams.change(path, streams.add(streams.stream_of(values))))
        return JSONResponse({"added": values.get("name")})

    async def change(self, request: Request) -> Response:
        """Pause, resume or remove a stream."""
        path = self._changer(request)
        name, action = request.path_params["stream"], request.path_params["action"]
        edits = {
            "pause": streams.pause(name, True),
            "resume": streams.pause(name, False),
            "remove": streams.remove(name),
        }
        if action not in edits:
            raise Refused(404, "there is no such action")
        await _told(lambda: streams.change(path, edits[action]))
        return JSONResponse({action: name})

    def _changer(self, request: Request, safe: bool = False) -> Path:
        """Return the configuration file for those who may change it."""
        house = self._house
        if house.config is None or not house.access.can_change:
            raise Refused(404, "streams can't be changed here: give --config and set dashboard.password_file")
        allowed = house.access.known(request.cookies) if safe else False
        if not allowed and not house.access.may_change(request.cookies, request.headers):
            raise Refused(401 if not house.access.known(request.cookies) else 403, "log in first")
        return house.config


async def _body(request: Request) -> dict[str, Any]:
    """Return a JSON object."""
    if request.headers.get("content-type", "").split(";")[0].strip() != "application/json":
        raise Refused(415, "send application/json")
    try:
        body = json.loads(await request.body())
    except (ValueError, RecursionError):
        raise Refused(400, "that is not JSON") from None
    if not isinstance(body, dict):
        raise Refused(400, "that is not a JSON object")
    return body


async def _told(work: Callable[[], Any]) -> Any:
    """Do what may fail in a way that a person can mend."""
    try:
        return await run_in_threadpool(work)
    except GenreError as error:
        raise Refused(400 if error.exit_code == 2 else 500, f"{error.thing}: {error.reason}; {error.remedy}") from None


def _number(request: Request, name: str, default: float, least: float, most: float) -> float:
    """Return a number of the query, within bounds."""
    text = request.query_params.get(name)
    try:
        value = float(text) if text is not None else default
    except ValueError:
        raise Refused(400, f"{name} is not a number") from None
    if not least <= value <= most:
        raise Refused(400, f"{name} must be from {least:g} to {most:g}")
    return value


def _stretch(request: Request) -> tuple[float, float]:
    """Return the stretch of time that is asked for: the last hour by default."""
    end = _number(request, "end", time.time(), 0, 1e11)
    seconds = _number(request, "seconds", 3600, 60, 400 * DAY_S)
    return end - seconds, end
