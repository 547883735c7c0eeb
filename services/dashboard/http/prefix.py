"""Below which path a browser sees the page: behind a proxy at /genre/, in Home Assistant's ingress, or at the top.

The page's own links are relative, so only cookies and redirects need to know. Start at `prefix_of`.
"""

from __future__ import annotations

from collections.abc import Mapping

from services.settings.web_address import base_path

HEADERS = ("x-forwarded-prefix", "x-ingress-path")


def prefix_of(headers: Mapping[str, str], configured: str) -> str:
    """Return the path before ours as the browser sees it, without a slash at its end.

    Args:
        configured: `dashboard.base_path`; a proxy's own word goes before it.
    """
    for name in HEADERS:
        try:
            if headers.get(name):
                return base_path(headers[name])
        except ValueError:
            continue  # whatever it is, it is no path: as if it were not there
    return configured


def inner_path(path: str, configured: str) -> str | None:
    """Return a request's path without `dashboard.base_path`, for a proxy that leaves it on; None: to be redirected."""
    if configured and path == configured:
        return None
    return path.removeprefix(configured) if path.startswith(f"{configured}/") else path
