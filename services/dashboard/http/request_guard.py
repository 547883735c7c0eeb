"""In front of every route: whose name is asked for, how large a body is, what every answer says to the browser.

Start at `RequestGuard`; every answer but 200 is a Starlette HTTPException.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.dashboard.http.access import Access
from services.dashboard.http.prefix import inner_path, prefix_of

MOST_BODY_BYTES = 16_384

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors "
)
HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


class RequestGuard:
    """An ASGI application around another one."""

    def __init__(self, inner: ASGIApp, access: Access, base_path: str, frame_ancestors: Sequence[str]) -> None:
        self._inner, self._access, self._base_path = inner, access, base_path
        framing = " ".join(frame_ancestors) or "'none'"
        headers = {**HEADERS, "content-security-policy": POLICY + framing}
        if not frame_ancestors:
            headers["x-frame-options"] = "DENY"  # for browsers that do not know frame-ancestors
        self._headers = [(name.encode(), value.encode()) for name, value in headers.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            await self._inner(scope, receive, send)
            return

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                present = {name for name, _ in message["headers"]}
                extra = [pair for pair in self._headers if pair[0] not in present]
                message["headers"] = [*message["headers"], *extra]
            await send(message)

        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        response = self._refusal(headers)
        path = inner_path(scope["path"], self._base_path)
        if response is None and path is None:
            response = RedirectResponse(f"{prefix_of(headers, self._base_path)}/")
        if response is not None:
            await response(scope, receive, sent)
            return
        await self._inner({**scope, "path": path}, receive, sent)

    def _refusal(self, headers: Mapping[str, str]) -> Response | None:
        length = headers.get("content-length", "0")
        if not self._access.host_is_ours(headers.get("host", "")):
            return refusal(421, "this machine is not called that; add the name to dashboard.hosts")
        if not length.isdigit() or int(length) > MOST_BODY_BYTES or "transfer-encoding" in headers:
            return refusal(413, "the body is too large")
        return None


def refusal(status: int, text: str, headers: Mapping[str, str] | None = None) -> Response:
    """Return an answer other than 200, as JSON for the page."""
    return JSONResponse({"error": text}, status, headers=dict(headers or {}))


async def refused(request: Request, error: Exception) -> Response:
    """Answer an HTTPException: one of ours, or the router's 404 and 405."""
    assert isinstance(error, HTTPException)
    return refusal(error.status_code, error.detail, error.headers)


def address(request: Request) -> str:
    """Return where a request comes from; uvicorn puts a proxy's X-Forwarded-For here, where that is on this machine."""
    return request.client.host if request.client else ""


async def body(request: Request) -> dict[str, Any]:
    """Return a JSON object."""
    if request.headers.get("content-type", "").split(";")[0].strip() != "application/json":
        raise HTTPException(415, "send application/json")
    try:
        found = json.loads(await request.body())
    except (ValueError, RecursionError):
        raise HTTPException(400, "that is not JSON") from None
    if not isinstance(found, dict):
        raise HTTPException(400, "that is not a JSON object")
    return found
