"""The page's HTTP side: which path gives what; what is shown, that is: changes of streams are in `stream_admin.py`.

Everything shown goes out as JSON and is put on the page as text, never as markup. Start at `app`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from services.dashboard.history.reader import HistoryReader, Share
from services.dashboard.history.store import History
from services.dashboard.http.access import Access
from services.dashboard.http.competing import competing
from services.dashboard.http.event_stream import MOST_READERS, EventStream
from services.dashboard.http.request_guard import RequestGuard, address, refused
from services.dashboard.http.slices import HOUR_S, borders, zone_of
from services.dashboard.http.stream_admin import StreamAdminRoutes
from services.dashboard.http.timeline_query import Drawn, drawn, steps_for
from services.dashboard.spectrogram import Spectrograms
from services.dashboard.state.live_state import LiveState
from services.palette import style_sheet
from services.process.lifecycle import product_version

PAGE = Path(__file__).parents[1] / "page"
FILES = {"": "index.html", "style.css": "style.css", "icon.svg": "icon.svg"}
MOST_STEPS = 4_000
DAY_S = 86_400.0


@dataclass
class AppState:
    """What the routes work with.

    Attributes:
        config: the configuration file that changes of streams go to; None where there is none.
        metrics: makes the text of /metrics.
        base_path: below which the page lies, for proxies that do not say; '' at the top.
        frame_ancestors: what may show the page in a frame.
    """

    live_state: LiveState
    history: History
    access: Access
    spectrograms: Spectrograms | None
    config: Path | None
    metrics: Callable[[], bytes]
    stopping: Callable[[], bool]
    base_path: str = ""
    frame_ancestors: tuple[str, ...] = ()


def app(state: AppState) -> ASGIApp:
    """Return the ASGI application."""
    views, admin = ViewRoutes(state), StreamAdminRoutes(state.access, state.config, state.base_path)
    return RequestGuard(
        Starlette(
            routes=[
                Route("/", views.file),
                Route("/page/{name}", views.file),
                Route("/healthz", views.healthz),
                Route("/metrics", views.metrics),
                Route("/api/session", views.session),
                Route("/api/login", admin.login, methods=["POST"]),
                Route("/api/logout", admin.logout, methods=["POST"]),
                Route("/api/board", views.live_state),
                Route("/api/live", views.live),
                Route("/api/timeline", views.timeline),
                Route("/api/shares", views.shares),
                Route("/api/events", views.events),
                Route("/api/competing/{stream}", views.competing),
                Route("/api/spectrogram/{stream}", views.spectrogram),
                Route("/api/streams", admin.configured),
                Route("/api/streams", admin.add, methods=["POST"]),
                Route("/api/streams/{stream}/{action}", admin.change, methods=["POST"]),
            ],
            exception_handlers={HTTPException: refused},
        ),
        state.access,
        state.base_path,
        state.frame_ancestors,
    )


class ViewRoutes:
    """What can be looked at; one method a route."""

    def __init__(self, state: AppState) -> None:
        self._state = state
        self._live = EventStream(state.live_state, state.stopping)

    async def file(self, request: Request) -> Response:
        """The page itself: it holds nothing secret, so it needs no login."""
        name = request.path_params.get("name", "")
        if name == "colours.css":
            return Response(style_sheet(), media_type="text/css", headers={"cache-control": "no-cache"})
        if name.endswith(".js") and (PAGE / name).name == name and name.replace("-", "")[:-3].isalnum():
            path = PAGE / name
        elif name in FILES:
            path = PAGE / FILES[name]
        else:
            raise HTTPException(404, "there is no such page")
        if not path.is_file():
            raise HTTPException(404, "there is no such page")
        return FileResponse(path, headers={"cache-control": "no-cache"})

    async def healthz(self, request: Request) -> Response:
        """For load balancers and supervisors: 200 while the bus is connected."""
        connected = self._state.live_state.connected
        return JSONResponse({"connected": connected}, 200 if connected else 503)

    async def metrics(self, request: Request) -> Response:
        """Prometheus."""
        self._view(request)
        return Response(self._state.metrics(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def session(self, request: Request) -> Response:
        """Say what this browser may do."""
        access = self._state.access
        return JSONResponse(
            {
                "version": product_version(),
                "view": access.may_view(request.cookies, request.headers, address(request)),
                "known": access.known(request.cookies),
                "changes": access.can_change and self._state.config is not None,
                "spectrogram": self._state.spectrograms is not None,
                "full": f"{MOST_READERS} browsers are looking already" if self._live.full else "",
            }
        )

    async def live_state(self, request: Request) -> Response:
        """Everything shown now, once."""
        self._view(request)
        return JSONResponse(self._state.live_state.since(0))

    async def live(self, request: Request) -> Response:
        """What changes, as it changes: two updates a second at most, whatever the number of streams."""
        self._view(request)
        if self._live.full:
            raise HTTPException(503, f"{MOST_READERS} browsers are looking already", {"retry-after": "30"})
        return StreamingResponse(
            self._live.updates(), media_type="text/event-stream", headers={"x-accel-buffering": "no"}
        )

    async def timeline(self, request: Request) -> Response:
        """Runs of every stream, as many as the screen can show."""
        self._view(request)
        begin, end = _header(request)
        steps = int(_number(request, "steps", 600, 10, MOST_STEPS))
        names = tuple(request.query_params.getlist("stream"))[:200]

        def work(history: HistoryReader) -> dict[str, Drawn]:
            shown = steps_for(len(names or history.streams()), steps)
            return drawn(history.segments(begin, end, names, (end - begin) / shown), begin, end, shown)

        nothing: dict[str, Drawn] = {}
        streams = await run_in_threadpool(self._state.history.read, work, nothing)
        return JSONResponse({"begin": begin, "end": end, "streams": streams})

    async def shares(self, request: Request) -> Response:
        """Seconds by genre and by kind, an hour or a day at a time; hours and days begin where the viewer's do."""
        self._view(request)
        by = "hour" if request.query_params.get("by", "hour") == "hour" else "day"
        count = int(_number(request, "count", 24 if by == "hour" else 14, 1, 400))
        offset = _number(request, "offset_s", 0, -DAY_S + 1, DAY_S - 1) if "offset_s" in request.query_params else None
        try:
            edges = borders(by, count, time.time(), zone_of(request.query_params.get("tz"), offset))
        except ValueError as error:
            raise HTTPException(400, str(error)) from None
        stream = request.query_params.get("stream")
        nothing: list[Share] = []
        found = await run_in_threadpool(
            self._state.history.read, lambda history: list(history.shares(edges, stream)), nothing
        )
        slices: list[dict[str, float]] = [{} for _ in range(count)]
        kinds: list[dict[str, float]] = [{} for _ in range(count)]
        for share in found:
            kind = "music" if share.kind == "unsure" else share.kind
            for of, name in ((slices, share.genre or ""), (kinds, kind)):
                of[share.slice][name] = round(of[share.slice].get(name, 0.0) + share.seconds, 1)
        step = HOUR_S if by == "hour" else DAY_S
        return JSONResponse({"begin": edges[0], "slice_s": step, "borders": edges, "slices": slices, "kinds": kinds})

    async def events(self, request: Request) -> Response:
        """The latest events."""
        self._view(request)
        most = int(_number(request, "most", 100, 1, 1_000))
        stream = request.query_params.get("stream")
        nothing: list[dict[str, object]] = []
        found = await run_in_threadpool(self._state.history.read, lambda history: history.events(most, stream), nothing)
        return JSONResponse({"events": found})

    async def competing(self, request: Request) -> Response:
        """Which genres and sounds compete on a stream, over the last five minutes."""
        self._view(request)
        glimpses = self._state.live_state.glimpses(request.path_params["stream"])
        if glimpses is None:
            raise HTTPException(404, "there is no such stream")
        return JSONResponse(competing(glimpses, time.monotonic()))

    async def spectrogram(self, request: Request) -> Response:
        """The last window's features as a picture; asking keeps it coming."""
        self._view(request)
        spectrograms = self._state.spectrograms
        if spectrograms is None:
            raise HTTPException(404, "dashboard.spectrogram is off")
        name = request.path_params["stream"]
        if name not in {view.name for view in self._state.live_state.views()}:
            raise HTTPException(404, "there is no such stream")
        found = await run_in_threadpool(spectrograms.look, name)
        if found is None:
            return Response(status_code=204)
        picture, recipe, start_s = found
        return Response(picture, media_type="image/png", headers={"x-recipe": recipe, "x-start-s": f"{start_s:.3f}"})

    def _view(self, request: Request) -> None:
        if not self._state.access.may_view(request.cookies, request.headers, address(request)):
            raise HTTPException(401, "log in first")


def _number(request: Request, name: str, default: float, least: float, most: float) -> float:
    """Return a number of the query, within bounds."""
    text = request.query_params.get(name)
    try:
        value = float(text) if text is not None else default
    except ValueError:
        raise HTTPException(400, f"{name} is not a number") from None
    if not least <= value <= most:
        raise HTTPException(400, f"{name} must be from {least:g} to {most:g}")
    return value


def _header(request: Request) -> tuple[float, float]:
    """Return the stretch of time that is asked for: the last hour by default."""
    end = _number(request, "end", time.time(), 0, 1e11)
    seconds = _number(request, "seconds", 3600, 60, 400 * DAY_S)
    return end - seconds, end
