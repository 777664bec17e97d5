"""Labels many cameras in real time: latency, drops, memory and threads over minutes, in health and with faults.

    python -m benchmarks.live                        ten minutes in health, ten with 4 of 16 cameras failing in turn,
                                                     two with receivers of events that are away for one
    python -m benchmarks.live --minutes 1 --only healthy

Sixteen clocks of 640x360 pixels at 10 frames/s, H.264 without B-frames, are served over RTSP by a process of its own.
`vpipe run` folds them across cameras into a model of `coral`'s size at f = 4, and into one that reads the number of
each picture; its JSON lines are read from a pipe. Latency is from the server's write of a picture's last packet, which
it notes by number, to the line's arrival behind the sink's write. With faults, cameras 12 to 15 are in turn killed,
stalled, told to send garbage and made to lose 5 % of their packets, 15 s out of 20, over and over.

Receivers: four of these cameras have an event each few seconds, sent to a webhook and by MQTT (to mosquitto, which must
be installed). Both receivers are stopped for a minute and started again.
"""

from __future__ import annotations

import itertools
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import click
import numpy as np

from benchmarks.facts import ROOT, facts
from benchmarks.measuring import VPIPE, Failed
from benchmarks.part import chosen, say
from benchmarks.regions import model_file
from pipeline.files import make_folder, write_json
from pipeline.sinks.delivery import MOST_S
from tests.models import BITS, numbers
from tests.rtsp import Cameras, serving
from tests.spooled import free_port, listens, until
from tests.system.test_mosquitto import Broker, subscribed

CAMERAS, RATE = 16, 10
CLOCK = f"clock:640x360@{RATE}"
FAILING = (12, 13, 14, 15)
FAULTS = ("kill", "stall", "garble", "loss")
SICK_S, TURN_S = 15.0, 20.0
SETTLED_S = 20.0  # from the first row on: all cameras are live, and what is loaded late is loaded
SAMPLE_S = 5.0
AWAY_S = 60.0
BLINKS = 12  # the bit of a picture's number that is set in 8 of 16 pictures
TICKS = os.sysconf("SC_CLK_TCK")


@click.command(help=(__doc__ or "").partition("\n")[0])
@click.option("--minutes", type=click.FloatRange(min=0.5), default=10.0, show_default=True, help="Of each case.")
@click.option("--only", default="", metavar="TEXT", help="Only cases whose name holds this.")
@click.option("--out", type=click.Path(path_type=Path), default=ROOT / "benchmarks" / "results", help="Folder.")
def main(minutes: float, only: str, out: Path) -> None:
    cases: dict[str, Callable[[], Mapping[str, object]]] = {
        "healthy": lambda: measured(60 * minutes, faulty=False),
        "with faults": lambda: measured(60 * minutes, faulty=True),
        "receivers": receivers_away,
    }
    document: dict[str, object] = {"command": f"python -m benchmarks.live --minutes {minutes:g}", **facts()}
    document["settings"] = {"cameras": CAMERAS, "rate": RATE, "minutes": minutes}
    found: dict[str, Mapping[str, object]] = {}
    document["cases"] = found
    for name, measure in chosen(cases, only).items():
        say(f"live: {name}")
        found[name] = measure()
        make_folder(out)
        write_json(out / "live.json", document)
        for key, value in found[name].items():
            click.echo(f"{name}: {key}: {value}")


@dataclass
class Sampled:
    """What a process was, time and again."""

    pid: int
    rss_bytes: list[int] = field(default_factory=list)
    threads: list[int] = field(default_factory=list)
    files: list[int] = field(default_factory=list)
    at_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)

    def sample(self) -> None:
        status = dict(
            line.split(":", 1) for line in Path(f"/proc/{self.pid}/status").read_text().splitlines() if ":" in line
        )
        self.rss_bytes.append(1024 * int(status["VmRSS"].split()[0]))
        self.threads.append(int(status["Threads"]))
        self.files.append(len(os.listdir(f"/proc/{self.pid}/fd")))
        times = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        self.cpu_s.append((int(times[11]) + int(times[12])) / TICKS)
        self.at_s.append(time.monotonic())

    def told(self) -> dict[str, object]:
        """Memory and its slope, the most and the least threads and files, and the share of a core."""
        half = len(self.at_s) // 2
        span_s = self.at_s[-1] - self.at_s[0]
        return {
            "rss_mb": [round(self.rss_bytes[0] / 1e6, 1), round(self.rss_bytes[-1] / 1e6, 1)],
            "rss_mb_per_minute": self._slope(0),
            "rss_mb_per_minute_in_the_second_half": self._slope(half),
            "threads": [min(self.threads), max(self.threads)],
            "files": [min(self.files), max(self.files)],
            "cores": round((self.cpu_s[-1] - self.cpu_s[0]) / span_s, 3) if span_s else None,
        }

    def _slope(self, first: int) -> float:
        """By which memory grew from this sample on, in MB a minute."""
        minutes = np.array(self.at_s[first:]) / 60
        grown = np.array(self.rss_bytes[first:]) / 1e6
        return round(float(np.polyfit(minutes - minutes[0], grown, 1)[0]), 3) if len(minutes) > 1 else 0.0


def measured(seconds: float, *, faulty: bool) -> dict[str, object]:
    """Labels the cameras for so long once they are settled."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        written = folder / "written"
        with serving(*[CLOCK] * CAMERAS, written=written) as server:
            write_config(folder, server)
            command = [*VPIPE, "run", "-q", str(folder / "run.yaml")]
            with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
                try:
                    rows, us, them = watched(process, server, seconds, faulty=faulty)
                finally:
                    process.send_signal(signal.SIGTERM)
                    stopped_s = time.monotonic()
                    _, said = process.communicate(timeout=30)
                    took_s = time.monotonic() - stopped_s
        if process.returncode not in (0, 3):
            raise Failed(f"vpipe run: exit code {process.returncode}: {said.decode()[-2000:]}")
        summary = json.loads((folder / "runs" / "run" / "summary.json").read_bytes())
        sent = {(line["camera"], line["number"]): line["utc_s"] for line in map(json.loads, written.open())}
        return judged(rows, sent, summary, faulty=faulty) | {
            "vpipe": us.told(),
            "server": them.told(),
            "stop_s": round(took_s, 2),
            "exit_code": process.returncode,
        }


def write_config(folder: Path, server: Cameras) -> None:
    model = model_file("coral", 4, folder)
    sources = [f"  - {{type: rtsp, name: c{k:02}, url: '{server.url(k)}'}}" for k in range(CAMERAS)]
    reads = f"model: 'tests.models:NumberReader', input: [64, 96], classes: [{', '.join(BITS)}], task: any_of"
    (folder / "run.yaml").write_text(
        "\n".join(
            [
                f"run: {{dir: {folder / 'runs'}, window_s: 60}}",
                "sources:",
                *sources,
                "fold: {order: streams, max_wait_ms: 30}",
                "filters:",
                f"  - {{name: coral, model: {model}}}",
                f"  - {{name: number, {reads}, fold: 4, order: streams}}",
                "sinks: [{type: jsonl, path: '-'}]",
            ]
        )
    )


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the filter that reads numbers."""

    camera: int  # by its name
    shown: int  # number in the picture, -1: unreadable
    by: int  # camera in the picture
    frame: int
    at_s: float  # UTC, when it came


def watched(
    process: subprocess.Popen[bytes], server: Cameras, seconds: float, *, faulty: bool
) -> tuple[list[Row], Sampled, Sampled]:
    """Reads rows for so long, from when all is settled."""
    rows: list[Row] = []
    us, them = Sampled(process.pid), Sampled(server.pid)
    begins_s = ends_s = sample_s = turn_s = float("inf")
    turns = faults()
    for line in lines(process):
        now_s = time.monotonic()
        if ends_s == float("inf"):
            begins_s, ends_s = now_s + SETTLED_S, now_s + SETTLED_S + seconds
            sample_s, turn_s = begins_s, begins_s if faulty else float("inf")
        if now_s >= ends_s:
            return rows, us, them
        if now_s >= turn_s:
            for command in next(turns):
                server.tell(command)
            turn_s += SICK_S if turn_s == begins_s or command.startswith("serve") else TURN_S - SICK_S
        if now_s >= sample_s:
            us.sample()
            them.sample()
            sample_s += SAMPLE_S
        if line is not None and now_s >= begins_s:
            told = json.loads(line)
            if told["filter"] == "number":
                scores = np.array([list(told["scores"].values())])
                shown, by = numbers(scores)
                rows.append(Row(int(told["source"][1:]), int(shown[0]), int(by[0]), told["frame"], time.time()))
    raise Failed(f"vpipe run: ended by itself, exit code {process.wait()}")


def faults() -> Iterator[list[str]]:
    """What the server is told, turn by turn: one camera after the other is ill, and well again."""
    for number in itertools.count():
        camera, fault = FAILING[number % len(FAILING)], FAULTS[number // len(FAILING) % len(FAULTS)]
        value = " 0.05" if fault == "loss" else ""
        # A camera that is killed comes back by itself, unless it is refused meanwhile.
        yield [f"{fault} cam{camera}{value}", *([f"refuse cam{camera}"] if fault == "kill" else [])]
        yield [f"serve cam{camera}"]


def lines(process: subprocess.Popen[bytes]) -> Iterator[bytes | None]:
    """What it prints, line by line; None where it is silent for a while."""
    assert process.stdout is not None
    rest = b""
    while True:
        ready, _, _ = select.select([process.stdout], [], [], 0.2)
        if not ready:
            yield None
            continue
        data = os.read(process.stdout.fileno(), 1 << 16)
        if not data:
            return
        *whole, rest = (rest + data).split(b"\n")
        yield from whole


def judged(
    rows: list[Row], sent: Mapping[tuple[int, int], float], summary: Mapping[str, object], *, faulty: bool
) -> dict[str, object]:
    """Latency of the cameras that are well, what they lost, and labels that are of another camera."""
    well = [row for row in rows if not faulty or row.camera not in FAILING]
    late_s = [row.at_s - sent[row.by, row.shown] for row in well if (row.by, row.shown) in sent]
    sources = summary["sources"]
    assert isinstance(sources, dict)
    names = [f"c{k:02}" for k in range(CAMERAS) if not faulty or k not in FAILING]
    gaps = 0
    for camera in {row.camera for row in well}:
        shown = [row.shown for row in well if row.camera == camera]
        gaps += sum(after != before + 1 for before, after in itertools.pairwise(shown))
    return {
        "rows": len(well),
        "latency_s": {f"p{q}": round(float(np.percentile(late_s, q)), 3) for q in (50, 95, 99, 100)},
        "not_in_order": gaps,
        "of_another_camera": sum(row.by != row.camera for row in well),
        "dropped": sum(sources[name]["dropped"] for name in names),
        "corrupt": sum(sources[name]["corrupt"] for name in names),
        "problems": summary["problems"],
    }


def receivers_away() -> dict[str, object]:
    """What arrives of the events of four cameras where receivers are away for a while, against what was told."""
    program = shutil.which("mosquitto", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")
    if program is None:
        raise Failed("mosquitto: must be installed, got none; make system-deps")
    with tempfile.TemporaryDirectory() as name, ExitStack() as cleanup:
        folder = Path(name)
        server = cleanup.enter_context(serving(*[CLOCK] * 4))
        hook, broker = Receiver(folder), Broker(program, folder)
        for each in (hook, broker):
            each.start()
            cleanup.callback(each.stop)
        heard = cleanup.enter_context(subscribed(broker))
        told = folder / "events.jsonl"
        (folder / "run.yaml").write_text(
            "\n".join(
                [
                    f"run: {{dir: {folder / 'runs'}}}",
                    "sources:",
                    *(f"  - {{type: rtsp, name: c{k:02}, url: '{server.url(k)}'}}" for k in range(4)),
                    "filter:",
                    f"  {{model: 'tests.models:NumberReader', input: [64, 96], classes: [{', '.join(BITS)}],",
                    f"   task: any_of, fold: 4, order: streams, events: {{{BITS[BLINKS]}: {{on: 0.6, off: 0.4}}}}}}",
                    "sinks:",
                    f"  - {{type: webhook, url: '{hook.url}'}}",
                    f"  - {{type: mqtt, host: 127.0.0.1, port: {broker.port}}}",
                    f"  - {{type: jsonl, path: {told}, events: true}}",
                ]
            )
        )
        process = subprocess.Popen([*VPIPE, "run", "-q", str(folder / "run.yaml")], cwd=ROOT, stderr=subprocess.PIPE)
        cleanup.callback(process.kill)
        until(lambda: len(heard) > 20 and len(hook.events()) > 20, 60)
        for each in (hook, broker):
            each.stop()
        time.sleep(AWAY_S)
        for each in (hook, broker):
            each.start()
        time.sleep(2 * MOST_S)  # between two attempts, at most
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=30)
        if process.returncode:
            raise Failed(f"vpipe run: exit code {process.returncode}: {said.decode()[-2000:]}")
        wanted = [(event["key"], event["event"]) for event in map(json.loads, told.open())]
        until(lambda: len({(event["key"], event["event"]) for _, event in heard}) >= len(wanted), 30)
        arrived = {
            "webhook": [(event["key"], event["event"]) for event in hook.events()],
            "mqtt": [(event["key"], event["event"]) for _, event in heard],
        }
        return {
            "away_s": AWAY_S,
            "told": len(wanted),
            **{
                name: {
                    "missing": len(set(wanted) - set(got)),
                    "first_arrivals_in_order": list(dict.fromkeys(got)) == wanted,
                    "repeats": len(got) - len(set(got)),
                }
                for name, got in arrived.items()
            },
        }


class Receiver:
    """A receiver of webhooks in a process of its own, which can be stopped and started."""

    def __init__(self, folder: Path) -> None:
        self._file, self._port = folder / "received", free_port()
        self._file.touch()
        self.url = f"http://127.0.0.1:{self._port}/"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "tests.receiver", str(self._port), str(self._file), ""]
        self._process = subprocess.Popen(command, cwd=ROOT)
        until(lambda: listens(self._port))

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def events(self) -> list[Mapping[str, object]]:
        """What arrived so far."""
        lines = self._file.read_text().splitlines()
        return [event for line in lines for event in json.loads(line)["body"]["events"]]


if __name__ == "__main__":
    sys.exit(main())
