"""Which pictures no other refers to, as their streams say it.

Sources: ITU-T H.264 (7.4.1, `nal_ref_idc`), H.265 (7.4.2.2, sub-layer non-reference pictures and `TemporalId`), H.262
(6.3.9, `picture_coding_type`), ISO/IEC 14496-2 (6.3.5, `vop_coding_type`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pipeline.sources.entry import nal_units

__all__ = ["TELLING_CODECS", "disposable_packets", "is_referred_to"]

TELLING_CODECS = frozenset({"h264", "hevc", "mpeg1video", "mpeg2video", "mpeg4"})


def is_referred_to(codec: str, packet: bytes, length_size: int) -> tuple[bool, int]:
    """Whether pictures of its own temporal layer may refer to a packet's picture, and which layer that is.

    Pictures of a higher layer may refer to it in any case. Layers count from 0; only HEVC streams have more than that.

    Args:
        codec: One of TELLING_CODECS.
        packet: The packet's data.
        length_size: See `entry.nal_length_size`.
    """
    if codec == "h264":  # a packet may hold two fields, of which only the first is referred to
        slices = [nal[0] for nal in nal_units(packet, length_size) if 1 <= nal[0] & 0x1F <= 5]
        return any(header & 0x60 for header in slices) or not slices, 0
    if codec == "hevc":
        for nal in nal_units(packet, length_size):
            kind = (nal[0] >> 1) & 0x3F
            if kind < 32 and len(nal) > 1:  # the first slice; below 16 the even ones are not referred to
                return kind >= 16 or kind % 2 == 1, (nal[1] & 7) - 1
        return True, 0
    if codec == "mpeg4":
        at = packet.find(b"\x00\x00\x01\xb6")
        return at < 0 or len(packet) <= at + 4 or packet[at + 4] >> 6 != 2, 0
    at = packet.find(b"\x00\x00\x01\x00")
    return at < 0 or len(packet) <= at + 5 or (packet[at + 5] >> 3) & 7 != 3, 0


def disposable_packets(marks: Sequence[tuple[bool, int]]) -> npt.NDArray[np.bool_]:
    """Which packets of a file hold pictures that no other refers to, by what `is_referred_to` says of each."""
    referred, layer = np.array(marks, np.int8).reshape(-1, 2).T
    unneeded: npt.NDArray[np.bool_] = (referred == 0) & (layer == layer.max(initial=0))
    return unneeded
