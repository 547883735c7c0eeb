"""Who may change streams, and changing them: login, logout, add, pause, resume, remove.

A change is an edit of the configuration file, which every service follows. Start at `Changes`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from services import settings, streams
from services.dashboard.access import COOKIE, SESSION_S, Access
from services.dashboard.door import Refused, body
from services.errors import GenreError


class Changes:
    """One method a route.

    Args:
        config: the configuration file; None where there is none, so that nothing can be changed.
    """

    def __init__(self, access: Access, config: Path | None) -> None:
        self._access, self._config = access, config

    async def login(self, request: Request) -> Response:
        """Start a session."""
        access = self._access
        if not access.same_site(request.headers):
            raise Refused(403, "that request did not come from this page")
        if not access.can_change:
            raise Refused(404, "dashboard.password_file is not set")
        password = (await body(request)).get("password")
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
        if not self._access.same_site(request.headers):
            raise Refused(403, "that request did not come from this page")
        self._access.logout(request.cookies)
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
        asked = await body(request)
        values = {key: asked[key] for key in ("name", "url", "prefer") if asked.get(key) not in (None, "")}
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
        if self._config is None or not self._access.can_change:
            raise Refused(404, "streams can't be changed here: give --config and set dashboard.password_file")
        allowed = self._access.known(request.cookies) if safe else False
        if not allowed and not self._access.may_change(request.cookies, request.headers):
            raise Refused(401 if not self._access.known(request.cookies) else 403, "log in first")
        return self._config


async def _told(work: Callable[[], Any]) -> Any:
    """Do what may fail in a way that a person can mend."""
    try:
        return await run_in_threadpool(work)
    except GenreError as error:
        raise Refused(400 if error.exit_code == 2 else 500, f"{error.thing}: {error.reason}; {error.remedy}") from None
