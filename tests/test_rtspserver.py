"""The RTSP server as PyAV sees it: its cameras, and what goes wrong with them."""

import asyncio
import contextlib
import json
import random
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Generator, Iterator, Sequence
from itertools import islice, pairwise
from pathlib import Path

import av
import pytest
from av.container import InputContainer
from click.testing import CliRunner

from pipeline.errors import VpipeError
from pipeline.rtspfeed import LATE_S, FileFeed, Picture, clock_shape, parameter_sets
from pipeline.rtspserver import main, obey
from pipeline.rtspsession import Account, Mount
from pipeline.rtspstream import MOST_BACKLOG_BYTES, Faults, Stream
from tests.clips import clip, read, write_clip
from tests.rtsp import ROOT, serving

LOOP, KEY_EVERY, RATE = 25, 5, 50  # frames, frames, frames/s
TICKS = 90_000 // RATE  # of RTP time stamps, from one frame to the next
CLOCK, CLOCK_RATE = "clock:160x96@25", 25


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clip of half a second that shows 0 to 24."""
    path = tmp_path_factory.mktemp("scene") / "scene.mp4"
    return write_clip(path, range(LOOP), bframes=0, keyframe_every=KEY_EVERY, rate=RATE)


@contextlib.contextmanager
def playing(
    url: str, *, transport: str = "tcp", open_s: float = 5, read_s: float = 2, probe_s: float | None = 0.1
) -> Iterator[InputContainer]:
    """A client; FFmpeg's own `probe_s` (None) is a second, and not what is tested."""
    options = {"rtsp_transport": transport}
    options |= {} if probe_s is None else {"analyzeduration": str(round(1e6 * probe_s))}
    with av.open(url, options=options, timeout=(open_s, read_s)) as container:
        yield container


def shown(container: InputContainer, count: int) -> tuple[list[int], list[int | None]]:
    """The numbers and the time stamps of the next frames."""
    return told_by(list(islice(container.decode(video=0), count)))


def until_silent(container: InputContainer) -> tuple[list[int], list[int | None]]:
    """Those of all frames until none comes for as long as the client waits."""
    frames: list[av.VideoFrame] = []
    with pytest.raises(av.error.ExitError):
        frames.extend(container.decode(video=0))
    return told_by(frames)


def told_by(frames: Sequence[av.VideoFrame]) -> tuple[list[int], list[int | None]]:
    numbers = [int(read(frame.to_ndarray(format="rgb24")[None])[0][0]) for frame in frames]
    return numbers, [frame.pts for frame in frames]


def steps(stamps: Sequence[int | None]) -> set[int]:
    """The differences between time stamps, less those that FFmpeg does not know: the first, and after each silence."""
    return {later - earlier for earlier, later in pairwise(stamp for stamp in stamps if stamp is not None)}


def in_turn(first: int, count: int, *, loop: int = LOOP) -> list[int]:
    return [(first + place) % loop for place in range(count)]


# ------------------------------------------------------------------------------------------- playing


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_frames_come_in_order_and_loop_after_loop_without_a_gap(scene: Path, transport: str) -> None:
    with serving(scene) as cameras, playing(cameras.url(), transport=transport, probe_s=None) as container:
        numbers, stamps = shown(container, 2 * LOOP + 5)
    assert numbers == in_turn(0, 2 * LOOP + 5)
    assert steps(stamps) == {TICKS}


@pytest.mark.parametrize(
    "kind", ["h264-bframes-opengop.mp4", "h264-bframes-opengop.ts", "hevc-bframes.mp4", "hevc.mkv"]
)
def test_files_of_all_kinds_are_shown_as_they_are(kind: str) -> None:
    with serving(clip(kind, 15)) as cameras, playing(cameras.url()) as container:
        numbers, _ = shown(container, 20)
    assert numbers == in_turn(0, 20, loop=15)


def test_motion_jpeg_is_served(tmp_path: Path) -> None:
    kind = {"codec": "mjpeg", "pix_fmt": "yuvj420p", "options": {"huffman": "default"}, "rate": RATE}
    path = write_clip(tmp_path / "clip.avi", range(LOOP), **kind)
    with serving(path) as cameras, playing(cameras.url()) as container:
        numbers, stamps = shown(container, LOOP + 5)
    assert numbers == in_turn(0, LOOP + 5)
    assert steps(stamps) == {TICKS}


def test_frames_come_no_faster_than_their_time(scene: Path) -> None:
    with serving(scene) as cameras:
        began_s = time.monotonic()
        with playing(cameras.url()) as container:
            shown(container, 40)
        assert time.monotonic() - began_s >= 39 / RATE


def test_one_process_serves_several_cameras(tmp_path: Path) -> None:
    clips = [write_clip(tmp_path / f"{source}.mp4", range(25), source=source) for source in range(3)]
    with serving(*clips) as cameras, contextlib.ExitStack() as open_now:
        containers = [open_now.enter_context(playing(cameras.url(camera))) for camera in range(3)]
        for camera, container in enumerate(containers):
            (frame,) = islice(container.decode(video=0), 1)
            assert read(frame.to_ndarray(format="rgb24")[None])[1].tolist() == [camera]


def test_who_comes_later_begins_with_a_keyframe_of_the_same_stream(scene: Path) -> None:
    with serving(scene) as cameras, playing(cameras.url()) as first:
        shown(first, 3)
        with playing(cameras.url()) as second:
            numbers, _ = shown(second, 10)
    assert numbers[0] % KEY_EVERY == 0
    assert numbers == in_turn(numbers[0], 10)


def test_who_comes_back_alone_begins_with_the_first_frame(scene: Path) -> None:
    with serving(scene) as cameras:
        for _ in range(2):
            with playing(cameras.url()) as container:
                assert shown(container, 5)[0] == in_turn(0, 5)


# -------------------------------------------------------------------------------------------- clocks


def test_a_clock_shows_camera_and_number_and_tells_when_each_picture_was_sent(scene: Path, tmp_path: Path) -> None:
    written = tmp_path / "written.jsonl"
    with (
        serving(scene, CLOCK, written=written) as cameras,
        playing(cameras.url(1)) as container,
    ):
        assert (container.streams.video[0].width, container.streams.video[0].height) == (160, 96)
        numbers, stamps, seen_s = [], [], []
        for frame in islice(container.decode(video=0), 40):
            (number,), (camera,) = read(frame.to_ndarray(format="rgb24")[None])
            assert camera == 1
            numbers.append(int(number))
            stamps.append(frame.pts)
            seen_s.append(time.time())
    # On a busy machine a clock may leave out some; what it shows and the time stamps tell of the same ones.
    assert [number - numbers[1] for number in numbers[1:]] == [
        (stamp - stamps[1]) * CLOCK_RATE / 90_000 for stamp in stamps[1:]
    ]
    assert numbers == sorted(set(numbers))
    lines = [json.loads(line) for line in written.read_text().splitlines()]
    sent_s = {line["number"]: line["utc_s"] for line in lines}
    assert {line["camera"] for line in lines} == {1}
    assert len(sent_s) == len(lines)
    assert all(sent_s[number] <= now_s for number, now_s in zip(numbers, seen_s, strict=True))
    begun_s = [sent_s[number] - number / CLOCK_RATE for number in numbers]  # none is early, some may be late
    assert max(begun_s) - min(begun_s) < 2 * LATE_S


def test_a_clock_has_a_keyframe_each_second() -> None:
    with serving(CLOCK) as cameras, playing(cameras.url()) as container:
        keys = [packet.is_keyframe for packet in islice(container.demux(video=0), CLOCK_RATE + 1)]
    assert [place for place, key in enumerate(keys) if key] == [0, CLOCK_RATE]


def test_sender_reports_tell_when_a_picture_was_taken(tmp_path: Path) -> None:
    written = tmp_path / "written.jsonl"
    with (
        serving(CLOCK, rtcp=True, written=written) as cameras,
        playing(cameras.url()) as container,
    ):
        began_s = time.time()
        packets = list(islice(container.demux(video=0), 45))
    reports = [bytes(packet.get_sidedata("rtcp_sr")) for packet in packets if packet.has_sidedata("rtcp_sr")]
    assert len(reports) >= 2
    times = []
    for report in reports:
        _, ntp, stamp, _, _ = struct.unpack("=I4xQIII", report[:28])
        times.append((ntp / 2**32 - 2_208_988_800, stamp))
    (first_s, first), (second_s, second) = times[:2]
    assert abs(first_s - began_s) < 5
    assert (second - first) % 2**32 / 90_000 == pytest.approx(second_s - first_s, abs=0.01)
    taken_s = [
        struct.unpack("=q", bytes(packet.get_sidedata("prft"))[:8])[0] / 1e6
        for packet in packets
        if packet.has_sidedata("prft")
    ]
    sent_s = [json.loads(line)["utc_s"] for line in written.read_text().splitlines()]
    assert len(taken_s) >= 20
    assert -0.01 < sent_s[len(packets) - 1] - taken_s[-1] < 2 * LATE_S


def test_without_being_asked_for_no_reports_are_sent(scene: Path) -> None:
    with serving(scene) as cameras, playing(cameras.url()) as container:
        assert not any(packet.has_sidedata("rtcp_sr") for packet in islice(container.demux(video=0), 30))


# -------------------------------------------------------------------------------------------- faults


def drained(container: InputContainer) -> None:
    """Reads until nothing comes any more."""
    for _ in container.decode(video=0):
        pass


def test_a_stalled_camera_goes_on_with_the_same_connection_when_it_resumes(scene: Path) -> None:
    with serving(scene) as cameras, playing(cameras.url(), read_s=0.3) as container:
        assert shown(container, 3)[0] == in_turn(0, 3)
        cameras.tell("stall cam0")
        until_silent(container)
        cameras.tell("resume cam0")
        numbers, stamps = shown(container, 8)
    assert numbers[0] % KEY_EVERY == 0
    assert numbers == in_turn(numbers[0], 8)
    assert steps(stamps) == {TICKS}


def test_killed_connections_end_and_may_come_back(scene: Path) -> None:
    with serving(scene) as cameras:
        with playing(cameras.url()) as container:
            shown(container, 3)
            cameras.tell("kill cam0")
            with contextlib.suppress(av.error.FFmpegError):
                drained(container)
            with pytest.raises((StopIteration, av.error.FFmpegError)):
                next(container.decode(video=0))
        with playing(cameras.url()) as container:
            assert shown(container, 3)[0] == in_turn(0, 3)


def test_a_process_that_was_killed_serves_again_at_the_same_port(scene: Path) -> None:
    with serving(scene) as cameras:
        url = cameras.url()
        with playing(url) as container:
            shown(container, 3)
            cameras.kill()
            with contextlib.suppress(av.error.FFmpegError):
                drained(container)
        with pytest.raises(av.error.ConnectionRefusedError), playing(url):
            pass
        cameras.restart()
        assert cameras.url() == url
        with playing(url) as container:
            assert shown(container, 3)[0] == in_turn(0, 3)


def test_a_process_that_was_stopped_for_a_moment_catches_up(scene: Path) -> None:
    with serving(scene) as cameras, playing(cameras.url(), read_s=0.25) as container:
        numbers, _ = shown(container, 3)
        cameras.pause()
        numbers += until_silent(container)[0]
        cameras.unpause()
        numbers += shown(container, 20)[0]
    assert numbers == in_turn(0, len(numbers))


@pytest.mark.parametrize("camera", [0, 1])
def test_a_process_that_was_stopped_for_longer_leaves_out_what_it_missed(scene: Path, camera: int) -> None:
    with serving(scene, CLOCK) as cameras, playing(cameras.url(camera), read_s=0.7) as container:
        shown(container, 3)
        cameras.pause()
        numbers, stamps = until_silent(container)
        cameras.unpause()
        more = shown(container, 10)
    numbers, stamps = numbers + more[0], stamps + more[1]
    assert -1 not in numbers
    assert max(steps(stamps)) > 90_000
    if camera == 1:
        assert numbers[-1] - numbers[-9] == 8
        assert numbers[-9] - numbers[-11] > CLOCK_RATE


def test_lost_packets_lose_frames_and_the_rest_decodes(scene: Path) -> None:
    with serving(scene) as cameras:
        cameras.tell("loss cam0 0.3")
        with playing(cameras.url()) as container:
            numbers, stamps = shown(container, 30)
        assert max(steps(stamps)) > TICKS
        assert len({number for number in numbers if number >= 0}) >= 5
        cameras.tell("serve cam0")
        with playing(cameras.url()) as container:
            assert shown(container, 10)[0] == in_turn(0, 10)


def test_garbled_packets_give_no_frames_and_leave_the_connection_as_it_is(scene: Path) -> None:
    with serving(scene) as cameras, playing(cameras.url(), read_s=0.5) as container:
        shown(container, 3)
        cameras.tell("garble cam0")
        with contextlib.suppress(av.error.FFmpegError):
            drained(container)
        cameras.tell("serve cam0")
        numbers = [-1]
        until_s = time.monotonic() + 4
        while numbers[-1] < 0 and time.monotonic() < until_s:
            with contextlib.suppress(av.error.FFmpegError):
                numbers, _ = shown(container, 1)
        assert numbers[-1] >= 0


@pytest.mark.parametrize(
    ("command", "error"),
    [
        ("refuse cam0", av.error.HTTPNotFoundError),
        ("status cam0 503", av.error.HTTPServerError),
        ("status cam0 403", av.error.HTTPForbiddenError),
    ],
)
def test_a_camera_that_refuses_says_so_until_it_serves_again(scene: Path, command: str, error: type[Exception]) -> None:
    with serving(scene) as cameras:
        cameras.tell(command)
        with pytest.raises(error), playing(cameras.url()):
            pass
        cameras.tell("serve cam0")
        with playing(cameras.url()) as container:
            assert shown(container, 1)[0] == [0]


def test_an_unknown_camera_is_not_found(scene: Path) -> None:
    with serving(scene) as cameras, pytest.raises(av.error.HTTPNotFoundError), playing(cameras.url("door")):
        pass


def test_a_slow_camera_answers_late(scene: Path) -> None:
    with serving(scene) as cameras:
        cameras.tell("slow cam0 0.8")
        with pytest.raises(av.error.InvalidDataError), playing(cameras.url(), open_s=0.4):
            pass
        began_s = time.monotonic()
        with playing(cameras.url()):
            assert time.monotonic() - began_s >= 0.8


def test_a_mute_camera_answers_nobody(scene: Path) -> None:
    with serving(scene, scene) as cameras:
        cameras.tell("mute cam0")
        with pytest.raises(av.error.InvalidDataError), playing(cameras.url(), open_s=0.4):
            pass
        with playing(cameras.url(1)) as container:
            assert shown(container, 1)[0] == [0]


def test_a_change_is_seen_from_the_next_client_on(scene: Path, tmp_path: Path) -> None:
    other = write_clip(tmp_path / "the other.mp4", range(100, 125), codec="libx265", size=(128, 96))
    with serving(scene) as cameras, playing(cameras.url()) as before:
        shown(before, 3)
        cameras.tell(f"change cam0 {other}")
        with playing(cameras.url()) as after:
            assert (after.streams.video[0].width, after.streams.video[0].height) == (128, 96)
            assert after.streams.video[0].codec_context.name == "hevc"
            assert shown(after, 3)[0] == [100, 101, 102]
        numbers, _ = shown(before, 5)
    assert numbers == in_turn(3, 5)


def test_a_feed_that_breaks_ends_its_connections_and_no_other(
    scene: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy.mp4"
    copy.write_bytes(scene.read_bytes())
    with serving(copy, scene) as cameras, playing(cameras.url()) as container:
        copy.unlink()
        with contextlib.suppress(av.error.FFmpegError):
            drained(container)
        with playing(cameras.url(1)) as other:
            assert shown(other, 1)[0] == [0]
    assert "vpipe: cam0: its feed must go on, got FileNotFoundError" in capfd.readouterr().err


# ------------------------------------------------------------------------------------------ accounts


def test_only_who_knows_the_password_may_play(scene: Path) -> None:
    with serving(scene, user="guard", password="s3cr%t") as cameras:
        url = cameras.url()
        for wrong in (url.replace("guard:s3cr%t@", ""), url.replace("s3cr%t", "guess"), url.replace("guard", "thief")):
            with pytest.raises(av.error.HTTPUnauthorizedError), playing(wrong):
                pass
        with playing(url.replace("%", "%25")) as container:
            assert shown(container, 1)[0] == [0]


def test_credentials_are_checked_as_rfc_2617_says() -> None:
    nonce = "dcd98b7102dd2f0e8b11d0f600bfb0c093"
    account = Account("Mufasa", "Circle Of Life", realm="testrealm@host.com")
    told = (
        'Digest username="Mufasa", realm="testrealm@host.com", nonce="dcd98b7102dd2f0e8b11d0f600bfb0c093", '
        'uri="/dir/index.html", qop=auth, nc=00000001, cnonce="0a4f113b", '
        'response="6629fae49393a05397450978507c4ef1", opaque="5ccc069c403ebaf9f0171e9517f40e41"'
    )
    assert account.admits("GET", told, nonce)
    assert not account.admits("PUT", told, nonce)
    assert not account.admits("GET", told, "another")
    assert not account.admits("GET", told.replace("Mufasa", "Scar"), nonce)
    assert not account.admits("GET", "", nonce)


# ------------------------------------------------------------------------------- requests and commands


def ask(connection: socket.socket, request: str) -> str:
    """The answer to a request, less the pictures before and behind it."""
    connection.sendall(request.replace("\n", "\r\n").encode() + b"\r\n\r\n")
    said = b""
    while b"\r\n\r\n" not in said:
        more = connection.recv(65536)
        if not more:
            break
        said += more
    return said.decode("latin-1")


def test_requests_are_answered_as_rfc_2326_says(scene: Path) -> None:
    with serving(scene) as cameras, socket.create_connection(("127.0.0.1", cameras.port), timeout=5) as connection:
        url = cameras.url()
        assert "GET_PARAMETER" in ask(connection, f"OPTIONS {url} RTSP/1.0\nCSeq: 1")
        assert ask(connection, f"PLAY {url} RTSP/1.0\nCSeq: 2").startswith("RTSP/1.0 455 ")
        assert ask(connection, f"RECORD {url} RTSP/1.0\nCSeq: 3").startswith("RTSP/1.0 501 ")
        unicast = "Transport: RTP/AVP;multicast"
        assert ask(connection, f"SETUP {url} RTSP/1.0\nCSeq: 4\n{unicast}").startswith("RTSP/1.0 461 ")
        offer = "Transport: RTP/AVP;multicast,RTP/AVP/TCP;unicast;interleaved=2-3"
        answer = ask(connection, f"SETUP {url}/trackID=0 RTSP/1.0\nCSeq: 5\n{offer}")
        assert "interleaved=2-3" in answer
        assert "CSeq: 5" in answer
        connection.sendall(b"$\x03\x00\x04abcd")  # RTCP between requests
        answer = ask(connection, f"GET_PARAMETER {url} RTSP/1.0\nCSeq: 6\nContent-Length: 0")
        assert answer.startswith("RTSP/1.0 200 OK\r\nCSeq: 6\r\nSession: ")
        assert ask(connection, f"PLAY {url} RTSP/1.0\nCSeq: 7").startswith("RTSP/1.0 200 ")
        assert connection.recv(2, socket.MSG_WAITALL) == b"$\x02"
        ask(connection, f"TEARDOWN {url} RTSP/1.0\nCSeq: 8")
        while connection.recv(65536):
            pass


def test_who_does_not_speak_rtsp_is_disconnected(scene: Path) -> None:
    with serving(scene) as cameras, socket.create_connection(("127.0.0.1", cameras.port), timeout=5) as connection:
        assert ask(connection, "hello") == ""
        with playing(cameras.url()) as container:
            assert shown(container, 1)[0] == [0]


def test_the_process_ends_well_when_its_stdin_does(scene: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with serving(scene, scene) as cameras, playing(cameras.url()), playing(cameras.url(1), transport="udp"):
        assert cameras.leave() == 0
    assert capfd.readouterr().err == ""


def test_the_process_ends_well_when_told_to(scene: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with serving(scene) as cameras, playing(cameras.url()):
        with pytest.raises(TimeoutError, match="has ended"):
            cameras.tell("quit")
        assert cameras.leave() == 0
    assert capfd.readouterr().err == ""


@pytest.fixture(scope="module")
def mounts(scene: Path) -> dict[str, Mount]:
    return {"cam0": Mount(Stream(0, FileFeed(str(scene)), Faults(), False, None, random.Random(0)))}


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("", ": must name a camera of cam0, got ''; try: stall cam0"),
        ("stall cam7", "stall cam7: must name a camera of cam0, got 'cam7'; try: stall cam0"),
        ("stall", "stall: must name a camera of cam0, got ''; try: stall cam0"),
        ("explode cam0", "explode cam0: must be a command, got another"),
        ("stall cam0 3", "stall cam0 3: must be a command, got another"),
        ("change cam0", "change cam0: must be a command, got another"),
        ("loss cam0 2", "loss cam0 2: must end in a number in 0..1, got '2'"),
        ("loss cam0 nan", "loss cam0 nan: must end in a number in 0..1, got 'nan'"),
        ("slow cam0", "slow cam0: must end in a number in 0..3600, got ''"),
        ("change cam0 none.mp4", "none.mp4: must be a video file that can be read, got "),
    ],
)
def test_a_wrong_command_is_refused(mounts: dict[str, Mount], line: str, why: str) -> None:
    with pytest.raises(VpipeError) as refused:
        obey(line, mounts)
    assert str(refused.value).startswith(why)
    assert mounts["cam0"].faults == Faults()


def test_a_refused_command_leaves_the_server_running(scene: Path) -> None:
    with serving(scene) as cameras:
        with pytest.raises(ValueError, match="must name a camera of cam0"):
            cameras.tell("stall cam1")
        cameras.tell("stall cam0")


def test_serve_ends_all_faults(mounts: dict[str, Mount]) -> None:
    faults = mounts["cam0"].faults
    for line in ("stall cam0", "mute cam0", "garble cam0", "refuse cam0", "slow cam0 2.5", "loss cam0 0.05"):
        obey(line, mounts)
    assert faults == Faults(stalled=True, muted=True, garbled=True, status=404, late_s=2.5, loss=0.05)
    obey("resume cam0", mounts)
    assert not faults.stalled
    obey("serve cam0", mounts)
    assert faults == Faults()


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["none.mp4"], "none.mp4: must be a video file that can be read, got "),
        (["clock"], "clock: must have a function that draws its pictures, got none; add --pictures MODULE:FUNCTION"),
        (["clock:15x16"], "clock:15x16: must have even sides in 16..4096, got others; take clock:640x360@25"),
        (["clock:16x16@0"], "clock:16x16@0: must have a rate in 1..240 frames/s, got another; take clock:640x360@25"),
        (["--pictures", "tests.rtsp:none", "clock"], "--pictures: must be MODULE:FUNCTION, got 'tests.rtsp:none' ("),
        (["--pictures", "none", "clock"], "--pictures: must be MODULE:FUNCTION, got 'none' ("),
    ],
)
def test_wrong_arguments_are_refused_in_one_line(arguments: list[str], why: str) -> None:
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 1
    assert done.output.startswith(f"Error: {why}")
    assert done.output.count("\n") == 1


def test_a_port_that_is_taken_is_refused_and_so_is_a_stdin_that_cannot_be_waited_for(scene: Path) -> None:
    command = [sys.executable, "-m", "pipeline.rtspserver", str(scene), "--port"]
    with serving(scene) as cameras:
        told = [
            subprocess.run([*command, port], cwd=ROOT, capture_output=True, text=True, timeout=20, **stdin)
            for port, stdin in ((str(cameras.port), {"input": ""}), ("0", {"stdin": subprocess.DEVNULL}))
        ]
    assert [done.returncode for done in told] == [1, 1]
    assert told[0].stderr.startswith(f"Error: --port: must be free, got {cameras.port}, ")
    assert told[1].stderr.startswith("Error: stdin: must be a terminal or a pipe, got a file or a device; ")
    assert [done.stderr.count("\n") for done in told] == [1, 1]


def test_an_account_needs_both_a_name_and_a_password_that_is_set(scene: Path) -> None:
    for options in (["--user", "guard"], ["--password-env", "PATH"], ["--user", "a", "--password-env", "VPIPE_UNSET"]):
        done = CliRunner().invoke(main, [str(scene), *options])
        assert done.exit_code == 1
        assert done.output.startswith("Error: --password-env: must name a variable that is set, beside --user, got ")


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("mpeg2.ts", "must be H.264, HEVC or Motion JPEG, got mpeg2video; name another file"),
        ("mjpeg.avi", "must be JPEG with standard Huffman tables, got others; encode it with them"),
        ("h264-raw.h264", "must hold time stamps, got none; copy it into an MP4 or a Matroska file"),
    ],
)
def test_a_file_that_rtp_cannot_carry_is_refused(kind: str, why: str) -> None:
    with pytest.raises(VpipeError) as refused:
        FileFeed(str(clip(kind, 15)))
    assert str(refused.value) == f"{clip(kind, 15)}: {why}"


def test_the_help_names_the_commands() -> None:
    done = CliRunner().invoke(main, ["--help"])
    assert done.exit_code == 0
    assert "\n      loss cam0 0.05        this share of RTP packets is not sent\n" in done.output


# --------------------------------------------------------------------------------------------- feeds


@pytest.mark.parametrize(("codec", "kinds"), [("libx264", [7, 8]), ("libx265", [32, 33, 34])])
def test_parameter_sets_are_found_in_boxes_and_behind_start_codes(tmp_path: Path, codec: str, kinds: list[int]) -> None:
    found = []
    for suffix in ("mp4", "ts"):
        with av.open(str(write_clip(tmp_path / f"clip.{suffix}", range(5), codec=codec))) as container:
            context = container.streams.video[0].codec_context
            found.append(parameter_sets(context.name, context.extradata or b""))
    assert found[0] == found[1]
    assert [unit[0] & 31 if codec == "libx264" else unit[0] >> 1 & 63 for unit in found[0]] == kinds


def test_the_shape_of_a_clock_is_read() -> None:
    assert clock_shape("clock") == {}
    assert clock_shape("clock:320x180") == {"width": 320, "height": 180}
    assert clock_shape("clock:320x180@12") == {"width": 320, "height": 180, "rate": 12}
    assert clock_shape("clock.mp4") is None


class Given:
    """A feed of pictures of one packet each, all due now; every third is a keyframe."""

    media = ["m=video 0 RTP/AVP 96"]  # noqa: RUF012

    def pictures(self) -> Generator[Picture]:
        for number in range(12):
            packet = struct.pack(">BBHII", 0x80, 96, number, 3600 * number, 7)
            yield Picture(time.monotonic(), number % 3 == 0, number, [packet])


class Slow:
    """A client with a given backlog at each picture."""

    def __init__(self, backlogs: Sequence[int]) -> None:
        self.waiting = True
        self.got: list[int] = []  # sequence numbers
        self._backlogs = iter(backlogs)

    @property
    def backlog_bytes(self) -> int:
        return next(self._backlogs)

    def send(self, packets: Sequence[bytes], kind: int) -> None:
        self.got += [struct.unpack(">H", packet[2:4])[0] for packet in packets]

    def hang_up(self) -> None:
        raise AssertionError("a client must not be disconnected for being slow")


def test_a_client_that_reads_too_slowly_loses_pictures_up_to_a_keyframe() -> None:
    async def play() -> None:
        Stream(0, Given(), Faults(), False, None, random.Random(0)).join(client)
        async with asyncio.timeout(5):
            while client.got[-1:] != [11]:
                await asyncio.sleep(0)

    client = Slow([0, 0, 0, 0, *[MOST_BACKLOG_BYTES + 1] * 4, 0, 0, 0, 0])
    asyncio.run(play())
    assert client.got == [0, 1, 2, 3, 9, 10, 11]
