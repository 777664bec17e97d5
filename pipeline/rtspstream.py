"""One feed on its way to all who play it: RTP over TCP or UDP, sender reports (RFC 3550), and what is to go wrong."""

from __future__ import annotations

import asyncio
import json
import logging
import random
import struct
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, fields
from typing import Protocol, TextIO

from pipeline.rtspfeed import Feed, Picture

__all__ = ["MOST_BACKLOG_BYTES", "Client", "Faults", "Stream", "TcpClient", "UdpClient"]

log = logging.getLogger(__name__)

RTP, RTCP = 0, 1
RTP_HEADER_BYTES = 12
REPORT_EVERY_S = 1.0
MOST_BACKLOG_BYTES = 4 * 2**20  # a client that reads no faster loses pictures up to a keyframe: memory stays bounded
NTP_EPOCH_S = 2_208_988_800  # from 1900 to 1970


@dataclass
class Faults:
    """What goes wrong at a mount.

    Attributes:
        stalled: Clients keep their connections and get no more pictures.
        muted: No request is answered.
        garbled: What follows the headers of RTP packets is random.
        status: What DESCRIBE, SETUP and PLAY are answered; 200: as they should be.
        late_s: How long the answer to DESCRIBE takes.
        loss: The share of RTP packets that is not sent.
    """

    stalled: bool = False
    muted: bool = False
    garbled: bool = False
    status: int = 200
    late_s: float = 0.0
    loss: float = 0.0

    def end(self) -> None:
        for one in fields(self):
            setattr(self, one.name, one.default)


class Client(Protocol):
    """Someone who plays.

    Attributes:
        waiting: Whether it still waits for a keyframe.
    """

    waiting: bool

    @property
    def backlog_bytes(self) -> int:
        """What was sent and has not left yet."""

    def send(self, packets: Sequence[bytes], kind: int) -> None:
        """Sends packets of RTP or RTCP."""

    def hang_up(self) -> None:
        """Ends its connection."""


class TcpClient:
    """Gets its packets between the answers to its requests (RFC 2326, 10.12)."""

    def __init__(self, writer: asyncio.StreamWriter, channels: tuple[int, int]) -> None:
        self.waiting = True
        self._transport, self._channels = writer.transport, channels

    @property
    def backlog_bytes(self) -> int:
        return self._transport.get_write_buffer_size()

    def send(self, packets: Sequence[bytes], kind: int) -> None:
        channel = self._channels[kind]
        if not self._transport.is_closing():
            parts = [struct.pack(">cBH", b"$", channel, len(packet)) + packet for packet in packets]
            self._transport.write(b"".join(parts))

    def hang_up(self) -> None:
        self._transport.abort()


class UdpClient:
    """Gets its packets as datagrams at two ports of its own, for as long as its connection lasts."""

    def __init__(
        self, writer: asyncio.StreamWriter, sockets: Sequence[asyncio.DatagramTransport], ports: tuple[int, int]
    ) -> None:
        self.waiting = True
        self.backlog_bytes = 0  # datagrams that do not fit are lost
        self._connection, self._sockets = writer.transport, sockets
        host = writer.get_extra_info("peername")[0]
        self._addresses = [(host, port) for port in ports]

    def send(self, packets: Sequence[bytes], kind: int) -> None:
        for packet in packets:
            self._sockets[kind].sendto(packet, self._addresses[kind])

    def hang_up(self) -> None:
        self._connection.abort()


@dataclass(eq=False)
class Stream:
    """Begins with the first client that plays and ends with the last; later ones come in at a keyframe.

    Attributes:
        camera: Its number.
        feed: Where pictures come from.
        faults: What goes wrong.
        reports: Whether sender reports are sent.
        written: Takes a line of JSON for each picture with a number, once it was sent.
        dice: Decides which packets are lost, and what is garbled.
    """

    camera: int
    feed: Feed
    faults: Faults
    reports: bool
    written: TextIO | None
    dice: random.Random
    _clients: list[Client] = field(init=False, default_factory=list)
    _task: asyncio.Task[None] | None = field(init=False, default=None)
    _reported_s: float = field(init=False, default=0.0)
    _sent_packets: int = field(init=False, default=0)
    _sent_bytes: int = field(init=False, default=0)

    @property
    def name(self) -> str:
        return f"cam{self.camera}"

    def join(self, client: Client) -> None:
        if client not in self._clients:
            self._clients.append(client)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())

    def leave(self, client: Client) -> None:
        if client in self._clients:
            self._clients.remove(client)
        if not self._clients and self._task is not None:
            self._task.cancel()
            self._task = None

    async def _run(self) -> None:
        try:
            with closing(self.feed.pictures()) as pictures:
                for picture in pictures:
                    await asyncio.sleep(max(0.0, picture.due_s - time.monotonic()))
                    self._send(picture)
        except Exception as error:  # a file that is gone, or what a user's own function that draws raises
            log.warning("%s: its feed must go on, got %r; its clients are disconnected", self.name, error)
            for client in self._clients:
                client.hang_up()

    def _send(self, picture: Picture) -> None:
        ready = list(self._ready(picture))
        if not ready or not picture.packets:
            return
        now_s = time.monotonic()
        # Whoever comes in is told the time before its first picture.
        if self.reports and (now_s - self._reported_s >= REPORT_EVERY_S or any(client.waiting for client in ready)):
            report = self._report(picture.packets[0], utc_s=time.time() - (now_s - picture.due_s))
            for client in ready:
                client.send([report], RTCP)
            self._reported_s = now_s
        packets = [self._spoilt(packet) for packet in picture.packets if self.dice.random() >= self.faults.loss]
        for client in ready:
            client.waiting = False
            client.send(packets, RTP)
        self._sent_packets += len(packets)
        self._sent_bytes += sum(len(packet) - RTP_HEADER_BYTES for packet in packets)
        if self.written is not None and picture.number is not None:
            told = {"camera": self.camera, "number": picture.number, "utc_s": time.time()}
            self.written.write(json.dumps(told) + "\n")
            self.written.flush()

    def _ready(self, picture: Picture) -> Iterator[Client]:
        """The clients that are to get a picture."""
        for client in self._clients:
            if self.faults.stalled or client.backlog_bytes > MOST_BACKLOG_BYTES:
                client.waiting = True
            elif picture.key or not client.waiting:
                yield client

    def _spoilt(self, packet: bytes) -> bytes:
        if not self.faults.garbled:
            return packet
        return packet[:RTP_HEADER_BYTES] + self.dice.randbytes(len(packet) - RTP_HEADER_BYTES)

    def _report(self, packet: bytes, *, utc_s: float) -> bytes:
        """A sender report: the RTP time stamp of a packet belongs to this time."""
        stamp, source = struct.unpack(">II", packet[4:12])
        ntp = int((utc_s + NTP_EPOCH_S) * 2**32)
        counts = (self._sent_packets & 0xFFFFFFFF, self._sent_bytes & 0xFFFFFFFF)
        return struct.pack(">BBHIQIII", 0x80, 200, 6, source, ntp, stamp, *counts)
