"""Who may change streams, and changing them: login, logout, add, pause, resume, remove.

A change is an edit of the configuration file, which every service follows. Start at `StreamAdminRoutes`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from services.dashboard.http.access import COOKIE, SESSION_S, Access
from services.dashboard.http.prefix import prefix_of
from services.dashboard.http.request_guard import address, body
from services.errors import GenreError
from services.settings import loading, stream_editor


class StreamAdminRoutes:
    """One method a route.

    Args:
        config: the configuration file; None where there is none, so that nothing can be changed.
        base_path: below which the page lies, for proxies that do not say.
    """

    def __init__(self, access: Access, config: Path | None, base_path: str) -> None:
        self._access, self._config, self._base_path = access, config, base_path

    async def login(self, request: Request) -> Response:
        """Start a session."""
        access = self._access
        if why := access.foreign(request.headers):
            raise HTTPException(403, why)
        if not access.can_change:
            raise HTTPException(404, "dashboard.password_file is not set")
        password = (await body(request)).get("password")
        token, wait_s = access.login(password if isinstance(password, str) else "", address(request))
        if token is None:
            text = "that is not the password" + (f"; wait {wait_s:.0f} s" if wait_s else "")
            raise HTTPException(429 if wait_s else 401, text, {"retry-after": f"{math.ceil(wait_s)}"} if wait_s else {})
        response = JSONResponse({"known": True})
        response.set_cookie(
            COOKIE,
            token,
            max_age=SESSION_S,
            path=self._cookie_path(request),
            httponly=True,
            samesite="strict",
            secure=request.url.scheme == "https",
        )
        return response

    async def logout(self, request: Request) -> Response:
        """End the session."""
        if why := self._access.foreign(request.headers):
            raise HTTPException(403, why)
        self._access.logout(request.cookies)
        response = JSONResponse({"known": False})
        response.delete_cookie(COOKIE, path=self._cookie_path(request))
        return response

    async def configured(self, request: Request) -> Response:
        """The configured streams with their URLs, which may hold secrets: for those who may change them."""
        path = self._changer(request, safe=True)
        config = await _told(lambda: loading.load(path))
        return JSONResponse({"streams": [each.model_dump(mode="json", exclude_none=True) for each in config.streams]})

    async def add(self, request: Request) -> Response:
        """Add a stream to the configuration."""
        path = self._changer(request)
        asked = await body(request)
        values = {key: asked[key] for key in ("name", "url", "prefer") if asked.get(key) not in (None, "")}
        await _told(lambda: stream_editor.change(path, stream_editor.add(stream_editor.stream_of(values))))
        return JSONResponse({"added": values.get("name")})

    async def change(self, request: Request) -> Response:
        """Pause, resume or remove a stream."""
        path = self._changer(request)
        name, action = request.path_params["stream"], request.path_params["action"]
        edits = {
            "pause": stream_editor.pause(name, True),
            "resume": stream_editor.pause(name, False),
            "remove": stream_editor.remove(name),
        }
        if action not in edits:
            raise HTTPException(404, "there is no such action")
        await _told(lambda: stream_editor.change(path, edits[action]))
        return JSONResponse({action: name})

    def _cookie_path(self, request: Request) -> str:
        return prefix_of(request.headers, self._base_path) + "/"

    def _changer(self, request: Request, safe: bool = False) -> Path:
        """Return the configuration file for those who may change it."""
        if self._config is None or not self._access.can_change:
            raise HTTPException(404, "streams can't be changed here: give --config and set dashboard.password_file")
        allowed = self._access.known(request.cookies) if safe else False
        if not allowed and not self._access.may_change(request.cookies, request.headers, address(request)):
            if not self._access.known(request.cookies):
                raise HTTPException(401, "log in first")
            raise HTTPException(403, self._access.foreign(request.headers))
        return self._config


async def _told(work: Callable[[], Any]) -> Any:
    """Do what may fail in a way that a person can put right."""
    try:
        return await run_in_threadpool(work)
    except GenreError as error:
        raise HTTPException(
            400 if error.exit_code == 2 else 500, f"{error.thing}: {error.reason}; {error.remedy}"
        ) from None
