"""Serves the page, from a thread of its own.

/                    the page, with /page.js, /page.css and /page.svg
/state               what it shows, as JSON
/picture?camera=     a recent frame of a camera
/picture?event=      the thumbnail of an event
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import logging
import secrets
import socket
from collections.abc import Iterator
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from pipeline.configcheck import LOOPBACK
from pipeline.page.content import Content
from pipeline.threads import beside, every

__all__ = ["PageServer"]

log = logging.getLogger(__name__)

FOLDER = Path(__file__).parent
FILES = {  # by path: what is sent, and its type
    "/": ("page.html", "text/html"),
    "/page.js": ("page.js", "text/javascript"),
    "/page.css": ("page.css", "text/css"),
    "/page.svg": ("page.svg", "image/svg+xml"),
}
SAMPLE_S = 1.0
CLIENT_S = 10.0  # within which a client must have asked for something and taken the answer
MOST_CLIENTS = 64  # each holds an open file of the process; more are not let in
LEAVE_S = 1  # for an answer under way when the run ends

# Nothing from elsewhere, nothing inline, in nobody's frame.
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class PageServer:
    """An address that is taken when it is made, and answers while it is `serving`.

    Args:
        host: Address or name of the interface.
        port: 0 for any that is free.
        token: What a browser must have; None: whoever reaches the address may look.

    Attributes:
        port: The one that was taken.

    Raises:
        OSError: It cannot be taken.
    """

    def __init__(self, host: str, port: int, token: str | None = None) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._host, self._token = host, token
        self._socket = socket.create_server((host, port), family=family)
        self.port: int = self._socket.getsockname()[1]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    @contextlib.contextmanager
    def serving(self, content: Content) -> Iterator[None]:
        """Answers until the block is left."""
        config = uvicorn.Config(
            _app(content, host=self._host, port=self.port, token=self._token),
            http=_Protocol,
            ws="none",
            loop="asyncio",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            log_level="critical",  # what fails here is told by _Guard
            timeout_graceful_shutdown=LEAVE_S,
        )
        server = uvicorn.Server(config)

        def leave() -> None:
            server.should_exit = True

        shown = f"[{self._host}]" if ":" in self._host else self._host
        log.info("page at http://%s:%d/%s", shown, self.port, "" if self._token is None else "?token=...")
        with (
            every(SAMPLE_S, content.sample, name="page-sample"),
            beside(lambda: server.run(sockets=[self._socket]), end=leave, name="page"),
        ):
            yield


def _app(content: Content, *, host: str, port: int, token: str | None) -> Starlette:
    files = {path: Response((FOLDER / name).read_bytes(), media_type=kind) for path, (name, kind) in FILES.items()}

    async def file(request: Request) -> Response:
        return files[request.url.path]

    async def state(request: Request) -> Response:
        return JSONResponse(content.state())

    async def picture(request: Request) -> Response:
        asked = request.query_params
        found = content.thumbnail(asked["event"]) if "event" in asked else content.picture(asked.get("camera", ""))
        if found is None:
            return PlainTextResponse("there is no such picture\n", 404)
        return Response(found, media_type="image/jpeg")

    guard = Middleware(_Guard, host=host, port=port, token=token)
    routes = [*(Route(path, file) for path in FILES), Route("/state", state), Route("/picture", picture)]
    return Starlette(routes=routes, middleware=[guard])


class _Protocol(H11Protocol):
    """Leaves a client that asks for nothing, or never comes to the end of a request or an answer."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._answers = 0
        self._look(-1)
        if len(self.connections) > MOST_CLIENTS:
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._next_look.cancel()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._answers += 1

    def _look(self, answers: int) -> None:
        """Leaves the client if it got no answer since there were so many."""
        if self._answers == answers:
            self.transport.abort()
        else:
            self._next_look = self.loop.call_later(CLIENT_S, self._look, self._answers)


class _Guard:
    """Lets in who may look: with the token, once in the address, then as a cookie, or as `Authorization: Bearer`.

    Without a token the browser must have asked for the very host that is served: else a page from elsewhere, whose name
    was made to lead here, could read what only this machine should see.
    """

    def __init__(self, app: ASGIApp, *, host: str, port: int, token: str | None) -> None:
        self._app, self._host = app, host
        self._cookie = f"vpipe-{port}"
        self._session = secrets.token_urlsafe(32)  # in the cookie: who reads it there still has no token
        self._digest = None if token is None else _digest(token)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        refusal = self._refusal(Request(scope))

        begun = False

        async def send_with_headers(message: Message) -> None:
            nonlocal begun
            begun = True
            if message["type"] == "http.response.start":
                message["headers"] += [(name.lower().encode(), text.encode()) for name, text in HEADERS.items()]
            await send(message)

        try:
            await (refusal or self._app)(scope, receive, send_with_headers)
        except Exception as exc:  # the run goes on, whatever becomes of its page
            log.warning("page: %s cannot be shown: %s: %s", scope["path"], type(exc).__name__, exc)
            if not begun:
                await PlainTextResponse("failed, see the run's log\n", 500)(scope, receive, send_with_headers)

    def _refusal(self, request: Request) -> Response | None:
        """What is answered in place of what was asked for; None: nothing is."""
        if self._digest is None:
            with contextlib.suppress(ValueError):
                if urlsplit(f"//{request.headers.get('host', '')}").hostname in (*LOOPBACK, self._host):
                    return None
            return PlainTextResponse("this page is served to its own machine\n", 421)
        given = request.query_params.get("token")
        if given is not None and hmac.compare_digest(_digest(given), self._digest):
            answer = RedirectResponse("./", 303)  # so that the address bar and the history hold no secret
            answer.set_cookie(self._cookie, self._session, httponly=True, samesite="strict")
            return answer
        scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and hmac.compare_digest(_digest(bearer), self._digest):
            return None
        if hmac.compare_digest(self._kept(request), self._session):
            return None
        return PlainTextResponse("open /?token=TOKEN, as `page.token` of the configuration has it\n", 401)

    def _kept(self, request: Request) -> str:
        """The cookie, if there is one."""
        try:
            kept = SimpleCookie(request.headers.get("cookie", "")).get(self._cookie)
        except CookieError:
            return ""
        return kept.value if kept is not None and kept.value.isascii() else ""


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode(errors="replace")).hexdigest()
