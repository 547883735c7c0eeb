"""In front of every route: whose name is asked for, how large a body is, what every answer says to the browser.

Start at `Door`; `Refused` is every answer but 200.
"""

from __future__ import annotations

import json
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.dashboard.access import Access

MOST_BODY_BYTES = 16_384

HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


class Refused(Exception):  # noqa: N818  # an answer, not a defect
    """An answer other than 200."""

    def __init__(self, status: int, text: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(text)
        self.status, self.text, self.headers = status, text, headers or {}


class Door:
    """An ASGI application around another one."""

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
            await answer(refused)(scope, receive, sent)
            return
        await self._inner(scope, receive, sent)


def answer(refused: Refused) -> Response:
    """Return a refusal as JSON for the page."""
    return JSONResponse({"error": refused.text}, refused.status, headers=refused.headers)


async def body(request: Request) -> dict[str, Any]:
    """Return a JSON object."""
    if request.headers.get("content-type", "").split(";")[0].strip() != "application/json":
        raise Refused(415, "send application/json")
    try:
        found = json.loads(await request.body())
    except (ValueError, RecursionError):
        raise Refused(400, "that is not JSON") from None
    if not isinstance(found, dict):
        raise Refused(400, "that is not a JSON object")
    return found
