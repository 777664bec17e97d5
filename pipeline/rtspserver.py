"""An RTSP server to rehearse with: cameras that are files in a loop or clocks, and that fail when told to.

    python -m pipeline.rtspserver lobby.mp4 clock:640x360@25 --pictures MODULE:FUNCTION

serves rtsp://127.0.0.1:8554/cam0 and /cam1 to any number of clients, over TCP and UDP. A feed is a file of H.264, HEVC
or Motion JPEG, whose pictures are sent again and again, or a clock of so many pixels and frames/s, whose pictures are
drawn and encoded as their time comes. The server says `{"port": PORT}` on stdout when it is ready. It obeys lines on
stdin and ends when stdin does; to each it says `{"done": LINE}` or `{"refused": LINE, "why": REASON}`:

    stall cam0            clients keep their connections and get no more pictures
    resume cam0           they get them again, from the next keyframe on
    kill cam0             the connections of its clients end at once; they may come back
    refuse cam0           new clients are told that there is no such camera
    status cam0 503       new clients are told this
    mute cam0             no request is answered any more
    slow cam0 2.5         the answer to DESCRIBE takes so many seconds
    loss cam0 0.05        this share of RTP packets is not sent
    garble cam0           what follows the headers of RTP packets is random
    serve cam0            all of these end
    change cam0 FILE      what clients get from the next one on; those that play stay with what they have
    quit

It is one process with one thread: `kill -STOP` and `kill -KILL` do the rest of what cameras do.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import logging
import os
import random
import stat
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TextIO, cast

import click

from pipeline.cli.shell import log_to_stderr
from pipeline.errors import VpipeError
from pipeline.rtspfeed import ClockFeed, Draw, Feed, FileFeed, clock_shape
from pipeline.rtspsession import HOST, Account, Connection, Mount, Site
from pipeline.rtspstream import Faults, Stream

__all__ = ["main", "serve"]


async def serve(mounts: Mapping[str, Mount], port: int, account: Account | None) -> None:
    """Serves until stdin ends or says so.

    Raises:
        VpipeError: The port is taken, or stdin cannot be waited for.
    """
    lines, source = await _lines_of_stdin()
    udp = await _udp_pair()
    site = Site(mounts, account, udp)
    try:
        server = await asyncio.start_server(lambda *ends: Connection(site, *ends).run(), HOST, port)
    except OSError as error:
        raise VpipeError(f"--port: must be free, got {port}, {error.strerror}; name another, or 0 for any") from error
    _say({"port": server.sockets[0].getsockname()[1]})
    while said := await lines.readline():
        line = said.decode(errors="replace").strip()
        if line == "quit":
            break
        try:
            obey(line, mounts)
        except VpipeError as error:
            _say({"refused": line, "why": str(error)})
        else:
            _say({"done": line})
    server.close()
    for connection in [connection for mount in mounts.values() for connection in mount.connections]:
        connection.hang_up()
    for transport in (source, *udp):
        transport.close()


def obey(line: str, mounts: Mapping[str, Mount]) -> None:
    """Does what a line says.

    Raises:
        VpipeError: There is no such command or camera, or the command needs another value.
    """
    verb, name, value, *_ = [*line.split(maxsplit=2), "", "", ""]
    mount = mounts.get(name)
    if mount is None:
        raise VpipeError(f"{line}: must name a camera of {', '.join(mounts)}, got {name!r}; try: stall cam0")
    faults = mount.faults
    match verb, value:
        case "stall", "":
            faults.stalled = True
        case "resume", "":
            faults.stalled = False
        case "kill", "":
            for connection in mount.connections:
                connection.hang_up()
        case "refuse", "":
            faults.status = 404
        case "mute", "":
            faults.muted = True
        case "garble", "":
            faults.garbled = True
        case "serve", "":
            faults.end()
        case "status", _:
            faults.status = int(_number(line, value, 100, 599))
        case "slow", _:
            faults.late_s = _number(line, value, 0, 3600)
        case "loss", _:
            faults.loss = _number(line, value, 0, 1)
        case "change", file if file:
            mount.stream = replace(mount.stream, feed=FileFeed(file))
        case _:
            raise VpipeError(f"{line}: must be a command, got another; `python -m pipeline.rtspserver -h` names them")


def _number(line: str, value: str, least: float, most: float) -> float:
    try:
        number = float(value)
    except ValueError:
        number = -1.0
    if not least <= number <= most:
        raise VpipeError(f"{line}: must end in a number in {least}..{most}, got {value!r}")
    return number


async def _lines_of_stdin() -> tuple[asyncio.StreamReader, asyncio.ReadTransport]:
    kind = os.fstat(sys.stdin.fileno()).st_mode
    if not (sys.stdin.isatty() or stat.S_ISFIFO(kind) or stat.S_ISSOCK(kind)):  # others cannot be waited for
        raise VpipeError("stdin: must be a terminal or a pipe, got a file or a device; begin with: tail -f /dev/null |")
    reader = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    return reader, transport


async def _udp_pair() -> tuple[asyncio.DatagramTransport, asyncio.DatagramTransport]:
    """Sockets for RTP, at an even port, and RTCP, at the next (RFC 3550, 11)."""
    loop = asyncio.get_running_loop()
    while True:
        first, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, (HOST, 0))
        port = first.get_extra_info("sockname")[1]
        if port % 2 == 0:
            try:
                second, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, (HOST, port + 1))
                return first, second
            except OSError:  # taken
                pass
        first.close()


def _say(what: Mapping[str, object]) -> None:
    print(json.dumps(what), flush=True)


def _feed(text: str, camera: int, draw: Draw | None) -> Feed:
    shape = clock_shape(text)
    if shape is None:
        return FileFeed(text)
    if draw is None:
        raise VpipeError(
            f"{text}: must have a function that draws its pictures, got none; add --pictures MODULE:FUNCTION"
        )
    return ClockFeed(camera, draw, **shape)


def _drawing(name: str) -> Draw:
    module, _, function = name.partition(":")
    try:
        return cast(Draw, getattr(importlib.import_module(module), function))
    except (ImportError, AttributeError, ValueError) as error:
        raise VpipeError(f"--pictures: must be MODULE:FUNCTION, got {name!r} ({error}); check the names") from error


@click.command(
    context_settings={"help_option_names": ["-h", "--help"]},
    help=(__doc__ or "").replace("\n\n    ", "\n\n\b\n    "),  # \b: click keeps the lines of such a paragraph
)
@click.argument("feeds", nargs=-1, required=True, metavar="FEED...")
@click.option("--port", type=click.IntRange(0, 65535), default=8554, show_default=True, help="0: any that is free.")
@click.option("--pictures", metavar="MODULE:FUNCTION", help="Draws (H, W, 3) of camera, number, height, width.")
@click.option("--written", type=click.File("a"), help="Takes a line of JSON when a picture of a clock was sent.")
@click.option("--rtcp", is_flag=True, help="Send sender reports: which time belongs to which RTP time stamp.")
@click.option("--user", help="Who may play, by digest authentication.")
@click.option("--password-env", metavar="VARIABLE", help="The environment variable that holds the user's password.")
@click.option("--seed", default=0, show_default=True, help="Decides which packets are lost.")
def main(
    feeds: Sequence[str],
    port: int,
    pictures: str | None,
    written: TextIO | None,
    rtcp: bool,
    user: str | None,
    password_env: str | None,
    seed: int,
) -> None:
    log_to_stderr(logging.WARNING)
    try:
        draw = None if pictures is None else _drawing(pictures)
        mounts = {}
        for camera, text in enumerate(feeds):
            dice = random.Random(f"{seed}/{camera}")
            stream = Stream(camera, _feed(text, camera, draw), Faults(), rtcp, written, dice)
            mounts[stream.name] = Mount(stream)
        asyncio.run(serve(mounts, port, _account(user, password_env)))
    except VpipeError as error:
        raise click.ClickException(str(error)) from error


def _account(user: str | None, variable: str | None) -> Account | None:
    if user is None and variable is None:
        return None
    password = os.environ.get(variable or "")
    if user is None or password is None:
        raise VpipeError(f"--password-env: must name a variable that is set, beside --user, got {variable}; set both")
    return Account(user, password)


if __name__ == "__main__":
    main()
