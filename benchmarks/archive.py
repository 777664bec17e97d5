"""Labels archived footage end to end: vpipe beside what people write, and beside the wall that decoding sets.

    python benchmarks/archive.py [--rounds 5] [--out benchmarks/results/archive.json]

The arms, each a process of its own, measured in alternation:

    vpipe     `vpipe run` on the CPU, a FoldedCNN at f = 4, every frame labelled, parts committed to disk
    opencv    VideoCapture.read, cv2.resize INTER_AREA to 50x50, the same family at f = 1 in torch bf16 channels_last,
              batches of 256, all cores
    wall      decoding alone: one single-threaded decoder per core, no resize, no model

A rate is taken from outside: the difference of frames over the difference of wall times of a long and a short run, so
that start-up drops out; start-up is stated apart. Peak memory is the process's own maximum resident size.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CLIP = ROOT / "videos" / "lobby-person.mp4"
WEIGHTS = ROOT / "specialized" / "weights"
SHORT, LONG = 5_000, 20_000  # frames at least


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "archive.json")
    parser.add_argument("--arm", choices=["opencv", "wall"], help=argparse.SUPPRESS)
    parser.add_argument("videos", nargs="*", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.arm is not None:
        {"opencv": opencv_loop, "wall": decode_only}[options.arm](options.videos)
        return
    with tempfile.TemporaryDirectory() as folder:
        results = {**facts(), **measure(Path(folder), options.rounds)}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(results, indent=2) + "\n")
    print_table(results)
    print(f"written to {options.out}")


def measure(folder: Path, rounds: int) -> dict[str, object]:
    """Runs every arm on short and long footage, round by round; the first round only warms up."""
    short, long = (repeated(folder / f"{name}.mp4", least) for name, least in (("short", SHORT), ("long", LONG)))
    cores = len(os.sched_getaffinity(0))
    shares = {n: repeated(folder / f"share-{n}.mp4", -(-n // cores)) for n in (short[1], long[1])}
    arms: dict[str, Callable[[tuple[Path, int]], tuple[list[str], int]]] = {
        "vpipe": lambda footage: (vpipe_command(footage[0], folder), footage[1]),
        "opencv": lambda footage: (arm_command("opencv", [footage[0]]), footage[1]),
        "wall": lambda footage: (arm_command("wall", [shares[footage[1]][0]] * cores), shares[footage[1]][1] * cores),
    }
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in arms}
    for number in range(rounds + 1):
        for name, command_for in arms.items():
            seconds, frames, peaks = [], [], []
            for footage in (short, long):
                command, n = command_for(footage)
                wall_s, peak_bytes, counted = timed(command)
                if counted != n:
                    raise SystemExit(f"{name}: must take {n} frames, got {counted}")
                seconds.append(wall_s)
                frames.append(n)
                peaks.append(peak_bytes)
            rate = (frames[1] - frames[0]) / (seconds[1] - seconds[0])
            measured = {
                "frames_per_s": rate,
                "start_up_s": seconds[0] - frames[0] / rate,
                "short_s": seconds[0],
                "long_s": seconds[1],
                "peak_bytes_short": peaks[0],
                "peak_bytes_long": peaks[1],
            }
            note = "warm-up" if number == 0 else f"round {number} of {rounds}"
            print(f"{note}: {name}: {rate:,.0f} frames/s, peak {peaks[1] / 1e6:,.0f} MB", flush=True)
            if number:
                runs[name].append(measured)
    medians = {
        name: {key: statistics.median(one[key] for one in measured) for key in measured[0]}
        for name, measured in runs.items()
    }
    rate_of = {name: values["frames_per_s"] for name, values in medians.items()}
    return {
        "frames": {"short": short[1], "long": long[1]},
        "medians": medians,
        "ratios": {
            "vpipe / opencv": rate_of["vpipe"] / rate_of["opencv"],
            "vpipe / wall": rate_of["vpipe"] / rate_of["wall"],
        },
        "rounds": runs,
    }


def repeated(path: Path, least: int) -> tuple[Path, int]:
    """The lobby clip joined to itself without re-encoding until it has at least so many frames; and how many."""
    import av

    with av.open(str(CLIP)) as source, av.open(str(path), "w") as target:
        stream = source.streams.video[0]
        copy = target.add_stream_from_template(stream)
        packets = [packet for packet in source.demux(stream) if packet.size]
        span = max(p.pts for p in packets) - min(p.pts for p in packets) + packets[0].duration
        times = -(-least // len(packets))
        for number in range(times):
            source.seek(0)
            for packet in source.demux(stream):
                if packet.size:
                    packet.pts += number * span
                    packet.dts += number * span
                    packet.stream = copy
                    target.mux(packet)
    return path, times * len(packets)


def vpipe_command(video: Path, folder: Path) -> list[str]:
    # What the run's summary says is printed, so that this arm too tells how many frames it took.
    summary = folder / "runs" / video.stem / "summary.json"
    run = (
        "import json; from pipeline.cli import main\n"
        "try: main()\n"
        f"finally: print(json.load(open({str(summary)!r}))['frames']['labelled'])"
    )
    where = ["--set", f"run.dir={folder / 'runs'}", "--set", "filters.0.device=cpu", "--overwrite", "-q"]
    return [
        sys.executable,
        "-c",
        run,
        "run",
        str(video),
        "--model",
        str(WEIGHTS / "lobby-person-f4.safetensors"),
        *where,
    ]


def arm_command(name: str, videos: list[Path]) -> list[str]:
    return [sys.executable, str(Path(__file__).resolve()), "--arm", name, *map(str, videos)]


def timed(command: list[str]) -> tuple[float, int, int]:
    """Wall time of a process in seconds, its peak resident memory in bytes, and the frames it says it took."""
    started = time.perf_counter()
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: exit code {process.returncode}")
    return seconds, usage.ru_maxrss * 1024, int(said)


def opencv_loop(videos: list[Path]) -> None:
    """What people write today."""
    import cv2
    import numpy as np
    import torch

    from specialized.modelfile import load_model

    card, module = load_model(WEIGHTS / "lobby-person-f1.safetensors")
    module = module.to(torch.bfloat16).to(memory_format=torch.channels_last).eval()
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (card.mean, card.std))

    def classify(pictures: list[np.ndarray]) -> np.ndarray:
        x = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)  # (N, 3, 50, 50)
        x = ((x.float() / 255 - mean) / std).to(torch.bfloat16).contiguous(memory_format=torch.channels_last)
        with torch.inference_mode():
            return module(x).float().softmax(1).numpy()

    labels, pictures = [], []
    for video in videos:
        capture = cv2.VideoCapture(str(video))
        while True:
            there, frame = capture.read()
            if not there:
                break
            small = cv2.resize(frame, (50, 50), interpolation=cv2.INTER_AREA)
            pictures.append(cv2.cvtColor(small, cv2.COLOR_BGR2RGB))
            if len(pictures) == 256:
                labels.append(classify(pictures))
                pictures = []
    if pictures:
        labels.append(classify(pictures))
    print(sum(map(len, labels)))


def decode_only(videos: list[Path]) -> None:
    """One single-threaded decoder per core, side by side."""
    import av

    def decode(video: Path) -> int:
        with av.open(str(video)) as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_type = "NONE"
            stream.codec_context.thread_count = 1
            return sum(1 for _ in container.decode(stream))

    with ThreadPoolExecutor(len(videos)) as threads:
        print(sum(threads.map(decode, videos)))


def facts() -> dict[str, object]:
    """The command, the machine, the versions and the commit."""
    from pipeline.runs import machine, versions

    git = ["git", "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    commit = subprocess.run(git, cwd=ROOT, capture_output=True, text=True, check=False)
    return {
        "command": " ".join(["python", "benchmarks/archive.py", *sys.argv[1:]]),
        "commit": commit.stdout.strip() or None,
        "machine": machine(),
        "versions": versions(),
    }


def print_table(results: dict[str, object]) -> None:
    print(f"{'':8} {'frames/s':>9} {'start-up s':>11} {'peak MB, short':>15} {'peak MB, long':>14}")
    for name, median in results["medians"].items():
        print(
            f"{name:8} {median['frames_per_s']:9,.0f} {median['start_up_s']:11.1f} "
            f"{median['peak_bytes_short'] / 1e6:15,.0f} {median['peak_bytes_long'] / 1e6:14,.0f}"
        )
    for name, ratio in results["ratios"].items():
        print(f"{name}: {ratio:.2f}")


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
