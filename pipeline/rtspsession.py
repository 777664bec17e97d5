"""What RTSP clients say and are answered (RFC 2326), with digest authentication (RFC 7616, MD5)."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import re
import secrets
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from pipeline.rtspfeed import Feed
from pipeline.rtspstream import Client, Faults, Stream, TcpClient, UdpClient

__all__ = ["HOST", "Account", "Connection", "Mount", "Site"]

HOST = "127.0.0.1"
METHODS = ("OPTIONS", "DESCRIBE", "SETUP", "PLAY", "GET_PARAMETER", "TEARDOWN")
PHRASES = {
    200: "OK",
    401: "Unauthorized",
    404: "Not Found",
    455: "Method Not Valid in This State",
    461: "Unsupported Transport",
    501: "Not Implemented",
    503: "Service Unavailable",
}


@dataclass(frozen=True)
class Account:
    """Who may play."""

    user: str
    password: str
    realm: str = "vpipe"

    def challenge(self, nonce: str) -> str:
        return f'Digest realm="{self.realm}", nonce="{nonce}", algorithm=MD5, qop="auth"'

    def admits(self, method: str, credentials: str, nonce: str) -> bool:
        """Whether the header `Authorization` of a request answers the challenge with this nonce."""
        told = {
            name: quoted or bare for name, quoted, bare in re.findall(r'(\w+)=(?:"([^"]*)"|([^\s,]+))', credentials)
        }
        middle = nonce  # clients that know no `qop` leave it out
        if "qop" in told:
            middle = ":".join((nonce, told.get("nc", ""), told.get("cnonce", ""), told["qop"]))
        secret = _md5(f"{self.user}:{self.realm}:{self.password}")
        asked = _md5(method + ":" + told.get("uri", ""))
        expected = _md5(f"{secret}:{middle}:{asked}")
        given = (told.get("username"), told.get("nonce"))
        return given == (self.user, nonce) and hmac.compare_digest(told.get("response", "").encode(), expected.encode())


def _md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


@dataclass(eq=False)
class Mount:
    """One camera: what those who come get, what goes wrong with it, and who is connected to it."""

    stream: Stream
    connections: set[Connection] = field(default_factory=set)

    @property
    def faults(self) -> Faults:
        return self.stream.faults


@dataclass(frozen=True)
class Site:
    """What all connections share: the cameras by name, who may play, the sockets for RTP and RTCP over UDP."""

    mounts: Mapping[str, Mount]
    account: Account | None
    udp: tuple[asyncio.DatagramTransport, asyncio.DatagramTransport]


@dataclass(frozen=True)
class Request:
    """One request; the names of headers are in lower case."""

    method: str
    url: str
    headers: Mapping[str, str]


@dataclass(frozen=True)
class Answer:
    """What a request is answered."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str = ""


class Connection:
    """One client's connection, and the session on it."""

    def __init__(self, site: Site, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._site, self._reader, self._writer = site, reader, writer
        self._nonce, self._session = secrets.token_hex(16), secrets.token_hex(8)
        self._stream: Stream | None = None
        self._client: Client | None = None

    async def run(self) -> None:
        """Answers requests until the client leaves."""
        named: set[Mount] = set()
        try:
            while (request := await _read_request(self._reader)) is not None:
                mount = self._site.mounts.get(urlsplit(request.url).path.strip("/").partition("/")[0])
                if mount is not None:
                    named.add(mount)
                    mount.connections.add(self)
                    if mount.faults.muted:
                        continue
                self._write(request, await self._answer(request, mount))
                if request.method == "TEARDOWN":
                    break
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError):
            pass  # the client has left, or speaks something else
        except asyncio.CancelledError:
            pass  # the server ends; Python 3.11 shows a traceback of handlers that pass it on
        finally:
            if self._stream is not None and self._client is not None:
                self._stream.leave(self._client)
            for mount in named:
                mount.connections.discard(self)
            self._writer.close()

    def hang_up(self) -> None:
        self._writer.transport.abort()

    async def _answer(self, request: Request, mount: Mount | None) -> Answer:
        if request.method not in METHODS:
            return Answer(501)
        if request.method == "OPTIONS":
            return Answer(headers={"Public": ", ".join(METHODS)})
        account, credentials = self._site.account, request.headers.get("authorization", "")
        if account is not None and not account.admits(request.method, credentials, self._nonce):
            return Answer(401, {"WWW-Authenticate": account.challenge(self._nonce)})
        if mount is None:
            return Answer(404)
        if request.method == "DESCRIBE":
            await asyncio.sleep(mount.faults.late_s)
        if request.method in ("DESCRIBE", "SETUP", "PLAY") and mount.faults.status != 200:
            return Answer(mount.faults.status)
        match request.method:
            case "DESCRIBE":
                self._stream = mount.stream
                headers = {"Content-Base": f"{request.url.rstrip('/')}/", "Content-Type": "application/sdp"}
                return Answer(200, headers, _description(mount.stream.name, mount.stream.feed))
            case "SETUP":
                return self._set_up(request.headers.get("transport", ""), mount)
            case "PLAY":
                return self._play()
        return Answer(headers={"Session": self._session})

    def _set_up(self, offers: str, mount: Mount) -> Answer:
        """Takes the first way to send packets among those that a client offers."""
        if self._client is not None:
            return Answer(455)
        for offer in offers.split(","):
            found = re.search(r"(?:interleaved|client_port)=(\d+)-(\d+)", offer)
            pair = (int(found[1]), int(found[2])) if found else (0, 1)
            if "RTP/AVP/TCP" in offer and max(pair) < 2**8:
                self._client = TcpClient(self._writer, pair)
                told = f"RTP/AVP/TCP;unicast;interleaved={pair[0]}-{pair[1]}"
            elif "client_port" in offer and "TCP" not in offer and 0 < max(pair) < 2**16:
                self._client = UdpClient(self._writer, self._site.udp, pair)
                own = "-".join(str(one.get_extra_info("sockname")[1]) for one in self._site.udp)
                told = f"RTP/AVP;unicast;client_port={pair[0]}-{pair[1]};server_port={own}"
            else:
                continue
            self._stream = self._stream or mount.stream
            return Answer(headers={"Transport": told, "Session": f"{self._session};timeout=60"})
        return Answer(461)

    def _play(self) -> Answer:
        if self._client is None or self._stream is None:
            return Answer(455)
        # Its pictures come behind the answer: none is sent before this task waits for the next request.
        self._stream.join(self._client)
        return Answer(headers={"Session": self._session, "Range": "npt=0.000-"})

    def _write(self, request: Request, answer: Answer) -> None:
        body = answer.body.encode()
        headers = {"CSeq": request.headers.get("cseq", "0")} | dict(answer.headers)
        if body:
            headers["Content-Length"] = str(len(body))
        lines = [f"RTSP/1.0 {answer.status} {PHRASES.get(answer.status, 'Other')}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        self._writer.write("\r\n".join([*lines, "", ""]).encode() + body)


async def _read_request(reader: asyncio.StreamReader) -> Request | None:
    """The next request; None at the end. What clients send in between, RTCP, is passed over.

    Raises:
        ValueError: It is not RTSP.
    """
    while first := await reader.read(1):
        if first == b"$":
            (size,) = struct.unpack(">xH", await reader.readexactly(3))
            await reader.readexactly(size)
        elif first not in b"\r\n":
            head = (first + await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            line, *rest = head.rstrip().split("\r\n")
            method, url, _ = line.split(" ")
            headers = {name.strip().lower(): value.strip() for name, _, value in (one.partition(":") for one in rest)}
            await reader.readexactly(int(headers.get("content-length", "0")))
            return Request(method, url, headers)
    return None


def _description(name: str, feed: Feed) -> str:
    """What a client is told of a camera (SDP)."""
    head = ["v=0", f"o=- 1 1 IN IP4 {HOST}", f"s={name}", "c=IN IP4 0.0.0.0", "t=0 0", "a=control:*"]
    return "\r\n".join([*head, *feed.media, "a=control:trackID=0", ""])
