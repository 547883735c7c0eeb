"""Through which proxy a URL is asked for: the configured one, else what the environment says, as curl reads it.

Start at `proxy_of`.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from requests.utils import get_environ_proxies, select_proxy

from services.fetcher.http.addresses import is_loopback

NO_PROXY = "none"


def proxy_of(url: str, configured: str | None) -> str | None:
    """Return the URL of the proxy for a URL; None where it is asked for directly.

    This machine itself is never asked for through a proxy, which would answer for another one.

    Args:
        url: absolute.
        configured: hls.proxy: a URL, "none", or None for HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY.
    """
    if configured == NO_PROXY or is_loopback(urlsplit(url).hostname or ""):
        return None
    proxy = configured or select_proxy(url, get_environ_proxies(url))
    if not proxy:
        return None
    return proxy if "://" in proxy else f"http://{proxy}"
