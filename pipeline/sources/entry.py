"""Which key packets are clean entry points: decoding that starts there gives whole pictures from there on.

Containers flag more than that as key frames: an H.264 stream with intra refresh, for one, has "key" packets after which
pictures are built up over many frames. So the NAL units are looked at. Source of the layouts: ITU-T H.264 (7.3.1,
D.1.8) and H.265 (7.3.1.2).
"""

from __future__ import annotations

from collections.abc import Iterator

__all__ = ["is_clean_entry", "nal_length_size", "nal_units"]

_HEADER = 512  # bytes of a NAL unit that are looked at


def nal_length_size(codec: str, extradata: bytes | None) -> int:
    """Bytes of the length before each NAL unit (avcC and hvcC boxes), 0 where start codes are used."""
    at = {"h264": 4, "hevc": 21}.get(codec)
    if at is None or extradata is None or len(extradata) <= at or extradata[0] != 1:
        return 0
    return (extradata[at] & 3) + 1


def is_clean_entry(codec: str, packet: bytes, length_size: int) -> bool:
    """Whether a packet that the container flags as key is a clean entry point.

    Args:
        codec: FFmpeg's name of the codec. For others than h264 and hevc the flag is trusted.
        packet: The packet's data.
        length_size: See `nal_length_size`.
    """
    if codec == "h264":
        recovery: int | None = None
        for nal in nal_units(packet, length_size):
            kind = nal[0] & 0x1F
            if kind == 5:  # a slice of an IDR picture
                return True
            if kind == 6 and recovery is None:
                recovery = _recovery_frame_count(nal)
            if kind == 1:  # a slice of another picture: an open GOP if recovery is immediate
                return recovery == 0
        return False
    if codec == "hevc":
        for nal in nal_units(packet, length_size):
            kind = (nal[0] >> 1) & 0x3F
            if kind < 32:  # the first slice; 16 to 21 are the random access pictures
                return 16 <= kind <= 21
        return False
    return True


def nal_units(data: bytes, length_size: int) -> Iterator[bytes]:
    """The first bytes of each NAL unit of a packet."""
    if length_size:
        at = 0
        while at + length_size < len(data):
            size = int.from_bytes(data[at : at + length_size], "big")
            at += length_size
            if size:
                yield data[at : at + min(size, _HEADER)]
            at += size
    else:
        at = data.find(b"\x00\x00\x01")
        while at >= 0:
            if unit := data[at + 3 : at + 3 + _HEADER]:
                yield unit
            at = data.find(b"\x00\x00\x01", at + 3)


def _recovery_frame_count(sei: bytes) -> int | None:
    """`recovery_frame_cnt` of a recovery point message in an H.264 SEI unit, or None if it has none."""
    payload = sei[1:].replace(b"\x00\x00\x03", b"\x00\x00")
    at = 0
    while at < len(payload) and payload[at] != 0x80:  # 0x80: the trailing bits
        kind, at = _sei_number(payload, at)
        size, at = _sei_number(payload, at)
        if kind == 6 and at < len(payload):
            return _exp_golomb(payload[at : at + size])
        at += size
    return None


def _sei_number(payload: bytes, at: int) -> tuple[int, int]:
    """A number coded as a run of 0xFF bytes and a last smaller one; and where the next begins."""
    value = 0
    while at < len(payload):
        value += payload[at]
        at += 1
        if payload[at - 1] != 0xFF:
            break
    return value, at


def _exp_golomb(data: bytes) -> int | None:
    """The unsigned Exp-Golomb number at the start of the data."""
    bits = "".join(f"{byte:08b}" for byte in data)
    zeros = bits.find("1")
    code = bits[zeros : 2 * zeros + 1]
    return int(code, 2) - 1 if zeros >= 0 and len(code) == zeros + 1 else None
