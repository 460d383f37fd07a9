"""What a request must be before any page sees it: from this page, to this host, small, and known."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs, urlencode

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

MOST = 8_000_000
"""Largest body in bytes: a packed mask of a hundred megapixels."""
COOKIE = "bluemask_token"
HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
        "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}
"""Every answer bears them: nothing from elsewhere is loaded, nothing elsewhere may load this."""
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    return host in ("localhost", "::1") or host.startswith("127.")


def hosts_of(host: str, port: int) -> frozenset[str]:
    """What the Host header may be: the names of this machine where it is loopback, else what was bound."""
    names = set(LOOPBACK) if is_loopback(host) else {f"[{host}]" if ":" in host else host, *LOOPBACK}
    return frozenset(f"{name}:{port}" for name in names) | (frozenset(names) if port == 80 else frozenset())


class Guard:
    """Refuses by host, origin, token, path and size; adds the headers of HEADERS to what it lets through."""

    def __init__(self, app: App, *, hosts: frozenset[str], token: str | None, most: int = MOST) -> None:
        """hosts: allowed Host headers, empty where any name may lead here; token: None where none is asked."""
        self.app, self.hosts, self.token, self.most = app, hosts, token, most

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        headers = {key.decode("latin-1").lower(): value.decode("latin-1") for key, value in scope["headers"]}
        refusal = self._refusal(scope, headers)
        if refusal is not None:
            await _answer(send, *refusal)
            return
        if self.token is not None and not self._known(headers):
            await self._ask(scope, send)
            return
        await self.app(scope, _counted(receive, self.most, send), _dressed(send))

    def _refusal(self, scope: Message, headers: dict[str, str]) -> tuple[int, str] | None:
        host, path = headers.get("host", ""), str(scope["path"])
        if self.hosts and host not in self.hosts:
            return 421, f"this page is not at {host[:100]!r}"
        if any(part == ".." for part in path.replace("\\", "/").split("/")) or not path.isprintable():
            return 400, "no such path"
        if scope["method"] not in ("GET", "HEAD", "POST"):
            return 405, "only GET and POST"
        foreign = headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none")
        if foreign and (scope["method"] == "POST" or headers.get("sec-fetch-mode") != "navigate"):
            return 403, "requests from other pages are refused"
        if scope["method"] == "POST" and headers.get("origin") not in (f"http://{host}", f"https://{host}"):
            return 403, "a change must come from this page itself"
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > self.most:
            return 413, f"more than {self.most} bytes"
        return None

    def _known(self, headers: dict[str, str]) -> bool:
        try:
            cookie = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
        except CookieError:
            return False
        return cookie is not None and self._is_token(cookie.value)

    def _is_token(self, value: str) -> bool:
        return secrets.compare_digest(value.encode(), (self.token or "").encode())

    async def _ask(self, scope: Message, send: Send) -> None:
        """The first visit brings the token in its address; it goes into a cookie, and out of the address."""
        query = parse_qs(scope["query_string"].decode("latin-1"))
        given = query.pop("token", [""])[0]
        if scope["method"] != "GET" or not self._is_token(given):
            await _answer(send, 401, "open the address that `bluemask browse` printed: it holds the token")
            return
        rest = urlencode(query, doseq=True)
        target = str(scope["path"]) + (f"?{rest}" if rest else "")
        cookie = f"{COOKIE}={given}; HttpOnly; SameSite=Strict; Path=/"
        await _answer(send, 303, "", {"location": "/" + target.lstrip("/"), "set-cookie": cookie})


async def _answer(send: Send, status: int, text: str, more: dict[str, str] | None = None) -> None:
    headers = {**HEADERS, "content-type": "text/plain; charset=utf-8", **(more or {})}
    pairs = [(key.encode(), value.encode("latin-1", "replace")) for key, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": pairs})
    await send({"type": "http.response.body", "body": text.encode()})


def _dressed(send: Send) -> Send:
    async def dressed(message: Message) -> None:
        if message["type"] == "http.response.start":
            there = {key.lower() for key, _ in message["headers"]}
            extra = [(key.encode(), value.encode()) for key, value in HEADERS.items()]
            message["headers"] = [*message["headers"], *(pair for pair in extra if pair[0] not in there)]
        await send(message)

    return dressed


class TooLarge(Exception):
    """A body that did not say how long it is turned out too long."""


def _counted(receive: Receive, most: int, send: Send) -> Receive:
    seen = 0

    async def counted() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > most:
            raise TooLarge(f"more than {most} bytes")
        return message

    return counted
