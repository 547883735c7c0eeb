"""The page's HTTP side: which path gives what; what is shown, that is: changes of streams are in `changes.py`.

Everything shown goes out as JSON and is put on the page as text, never as markup. Start at `app`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from services.dashboard.access import Access
from services.dashboard.board import Board
from services.dashboard.changes import Changes
from services.dashboard.door import Door, Refused, answer
from services.dashboard.history import History
from services.dashboard.live import MOST_READERS, Live
from services.dashboard.spectrogram import Spectrograms
from services.dashboard.timeline import drawn
from services.lifecycle import product_version

PAGE = Path(__file__).parent / "page"
FILES = {"": "index.html", "style.css": "style.css", "icon.svg": "icon.svg"}
MOST_STEPS = 4_000
DAY_S = 86_400.0


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


def app(house: House) -> ASGIApp:
    """Return the ASGI application."""
    looks, changes = Looks(house), Changes(house.access, house.config)
    return Door(
        Starlette(
            routes=[
                Route("/", looks.file),
                Route("/page/{name}", looks.file),
                Route("/healthz", looks.healthz),
                Route("/metrics", looks.metrics),
                Route("/api/session", looks.session),
                Route("/api/login", changes.login, methods=["POST"]),
                Route("/api/logout", changes.logout, methods=["POST"]),
                Route("/api/board", looks.board),
                Route("/api/live", looks.live),
                Route("/api/timeline", looks.timeline),
                Route("/api/shares", looks.shares),
                Route("/api/events", looks.events),
                Route("/api/spectrogram/{stream}", looks.spectrogram),
                Route("/api/streams", changes.configured),
                Route("/api/streams", changes.add, methods=["POST"]),
                Route("/api/streams/{stream}/{action}", changes.change, methods=["POST"]),
            ],
            exception_handlers={Refused: lambda request, error: answer(error)},
        ),
        house.access,
    )


class Looks:
    """What can be looked at; one method a route."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._live = Live(house.board, house.stopping)

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
        if self._live.full:
            raise Refused(503, f"{MOST_READERS} browsers are looking already", {"retry-after": "30"})
        return StreamingResponse(
            self._live.updates(), media_type="text/event-stream", headers={"x-accel-buffering": "no"}
        )

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
