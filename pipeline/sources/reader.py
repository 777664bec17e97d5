"""Reaching a cut and decoding it: one container and one single-threaded decoder, kept open from cut to cut."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import replace
from types import TracebackType
from typing import TypeAlias

import av
import av.container
import av.error
import av.video.stream
import numpy as np
import numpy.typing as npt

from pipeline.errors import SourceError
from pipeline.sources.container import Packet, is_io_error, of_data, open_decoder, open_video, packets
from pipeline.sources.cuts import Cut
from pipeline.sources.index import NO_PTS, Index

__all__ = ["Reader"]

Packets: TypeAlias = "Iterator[Packet | av.error.FFmpegError]"


class Reader:
    """One container and one single-threaded decoder, kept open from one cut of a file to the next. One thread's own."""

    def __init__(self) -> None:
        self._index: Index | None = None
        self._device = ""
        self._container: av.container.InputContainer | None = None
        self._stream: av.video.stream.VideoStream | None = None

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        if self._container is not None:
            self._container.close()
        self._index = self._container = self._stream = None

    def frames(
        self,
        index: Index,
        cut: Cut,
        source: str,
        *,
        fed: npt.NDArray[np.bool_] | None = None,
        apart: bool = False,
        fast: bool = False,
        device: str = "cpu",
    ) -> Generator[av.VideoFrame | av.error.FFmpegError]:
        """The frames that come out of the decoder for a cut, and the errors between them.

        Args:
            index: The file's; cuts of one index are all to be decoded alike.
            cut: What to decode.
            source: Name of the source, for errors.
            fed: bool (cut.stop - cut.first,), the packets that the decoder is given; None: all.
            apart: No packet refers to another: the decoder is emptied behind each.
            fast: See `open_decoder`.
            device: Likewise.
        """
        if self._index is not index or self._device != device or cut.first == 0:
            self.close()
            self._container, self._stream = open_decoder(
                index.path,
                source,
                reorder_depth=index.reorder_depth,
                fast=fast,
                device=device,
                limits=index.limits,
            )
            self._index, self._device = index, device
        assert self._stream is not None
        decoder = self._stream.codec_context
        if fed is not None:
            cut = replace(cut, stop=cut.first + int(np.flatnonzero(fed).max(initial=-1)) + 1)
        at = -1
        for packet in self._packets(index, cut, source):
            if isinstance(packet, av.error.FFmpegError):
                yield packet
                continue
            at += 1
            if fed is not None and not fed[at]:
                continue
            try:
                decoded = decoder.decode(packet)
                if apart:
                    decoded += decoder.decode(None)
            except av.error.FFmpegError as error:
                yield of_data(error, index.width, index.height)
                continue
            finally:
                if apart:
                    decoder.flush_buffers()
            yield from decoded
        try:
            yield from decoder.decode(None)
        except av.error.FFmpegError as error:
            yield of_data(error, index.width, index.height)

    def _packets(self, index: Index, cut: Cut, source: str) -> Packets:
        """The packets of a cut, each checked against the index.

        If the demuxer gives others after a seek than in a straight pass, the file is read from its start instead, up
        to where it went wrong; a decoder that has some of the cut never notices.
        """
        assert self._container is not None
        assert self._stream is not None
        place = cut.first
        stream = packets(self._container, self._stream) if cut.first == 0 else self._reach(index, cut.first)
        for packet in stream:
            if place == cut.stop:
                return
            if not isinstance(packet, av.error.FFmpegError):
                if not _is_packet(packet, index, place):
                    break
                place += 1
            yield packet
        if place == cut.stop:
            return
        decoder = self._stream.codec_context
        if place == cut.first and decoder.is_open:
            decoder.flush_buffers()  # drained by the last cut, and no seek has brought it back
        container, video = open_video(index.path, source, limits=index.limits)
        try:
            at = 0
            for packet in packets(container, video):
                if at == cut.stop:
                    return
                if isinstance(packet, av.error.FFmpegError):
                    if at >= place or is_io_error(packet):
                        yield packet
                    if is_io_error(packet):
                        return  # the file is as it was, for all that is known
                    continue
                if at >= place:
                    if not _is_packet(packet, index, at):
                        break
                    yield packet
                at += 1
        finally:
            container.close()
        if at < cut.stop:
            raise SourceError(source, f"{index.path}: changed while it was read: packet {at} is another; run again")

    def _reach(self, index: Index, place: int) -> Packets:
        """Seeks, then skips packets until the wanted one comes by; nothing if no seek gets there.

        Where a seek lands differs by container: mov and matroska go by presentation time, mpegts by decoding time, and
        each may land a key frame early or late. So the landing place is never trusted.
        """
        assert self._container is not None
        assert self._stream is not None
        pts, dts = int(index.pts[place]), int(index.dts[place])
        earliest = pts if dts == NO_PTS else min(pts, dts)
        second = max(1, round(1 / index.time_base))
        aims = [pts] if index.demuxer != "mpegts" else []
        for aim in dict.fromkeys([*aims, earliest, earliest - 5 * second, earliest - 30 * second]):
            try:
                self._container.seek(aim, stream=self._stream, backward=True)
            except av.error.FFmpegError:
                continue
            stream = packets(self._container, self._stream)
            for packet in stream:
                if isinstance(packet, av.error.FFmpegError):
                    break
                if _is_packet(packet, index, place) and (packet.pos is None or packet.pos == index.pos[place]):
                    yield packet
                    yield from stream
                    return
                if dts != NO_PTS and packet.dts is not None and packet.dts > dts:
                    break  # landed too late


def _is_packet(packet: Packet, index: Index, place: int) -> bool:
    pts = NO_PTS if packet.pts is None else packet.pts
    return place < len(index.pts) and pts == index.pts[place] and packet.size == index.size[place]
