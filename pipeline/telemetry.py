"""Samples of the device and of this process while a run goes on.

    with Telemetry(path, gpu_uuid=uuid) as telemetry, every(interval_s, telemetry.sample):
        ...
    telemetry.gpu(), telemetry.process()

Each metric is read on its own and is null where it cannot be. Nothing here fails a run: without an NVIDIA driver
`gpu_absent` says why, without room on the disk the samples are lost and the log says so.
"""

from __future__ import annotations

import importlib
import logging
import math
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Protocol, Self

import psutil  # type: ignore[import-untyped]
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.files import WholeFile, make_folder

__all__ = ["SCHEMA", "Process", "Telemetry"]

log = logging.getLogger(__name__)

SCHEMA = pa.schema(
    [
        pa.field("time", pa.timestamp("us", "UTC"), nullable=False),
        pa.field("gpu_util", pa.float32()),  # percent of the time that a kernel ran
        pa.field("memory_util", pa.float32()),  # percent of the time that the memory controller was busy
        pa.field("nvdec_util", pa.float32()),  # percent
        pa.field("memory_bytes", pa.int64()),  # in use on the device, by all processes
        pa.field("power_w", pa.float32()),
        pa.field("sm_clock_mhz", pa.int32()),
        pa.field("cpu_percent", pa.float32()),  # of this process since the sample before; 100 is one core
        pa.field("rss_bytes", pa.int64()),
    ]
)

HOUR_S = 3600
ROWS = 1024  # samples kept in memory
SHORTEST_S = 0.1  # the kernel counts CPU time in steps of 0.01 s: over less than this a percentage says nothing


class Process(Protocol):
    """What is asked of `psutil.Process`."""

    def cpu_times(self) -> tuple[float, ...]:
        """Seconds, user and system first."""

    def memory_info(self) -> tuple[int, ...]:
        """Bytes, resident first."""


class Telemetry:
    """Takes a sample per call of `sample` and writes them to a Parquet file, which appears at the end.

    Args:
        path: The file; with `hourly` a folder of files, `<UTC date>/<time>.parquet`.
        hourly: Whether a file ends with its hour: what runs for months is not lost with the last one.
        gpu_uuid: UUID of the device that the run uses, with or without the prefix `GPU-`; None for a run on the CPU.
            Devices are never told by their index: NVML's and CUDA's differ.
        nvml: A module with the functions of `pynvml`; None to import that.
        process: The process to watch; None for this one.
        clock: Monotonic seconds.
        utc: UTC in seconds since 1970.

    Attributes:
        gpu_absent: Why there is no telemetry of a device, in words; None while there is.
        last: What the last sample read, by the names of `SCHEMA`; replaced as a whole, so that any thread may look.
    """

    def __init__(
        self,
        path: Path,
        *,
        hourly: bool = False,
        gpu_uuid: str | None = None,
        nvml: ModuleType | None = None,
        process: Process | None = None,
        clock: Callable[[], float] = time.monotonic,
        utc: Callable[[], float] = time.time,
    ) -> None:
        self.gpu_absent: str | None = "no sample was taken"
        self.last: Mapping[str, float | None] = {}
        self._path, self._hourly, self._utc = path, hourly, utc
        self._ends_s = math.inf  # of the file that is open, UTC
        self._gpu_uuid = gpu_uuid
        self._nvml = nvml
        self._process = process
        self._clock = clock
        self._device: object | None = None
        self._rows: list[dict[str, float | None]] = []
        self._stats: dict[str, _Stat] = {}
        self._opened: tuple[WholeFile, pq.ParquetWriter] | None = None
        self._cpu_first: tuple[float, float] | None = None  # (seconds on the clock, seconds of CPU)
        self._cpu_last: tuple[float, float] | None = None

    def __enter__(self) -> Self:
        if self._process is None:
            self._process = psutil.Process()
        self._find_device()
        self._open()
        return self

    def __exit__(self, *_: object) -> None:
        if self._nvml is not None:
            with suppress(self._nvml.NVMLError):
                self._nvml.nvmlShutdown()
        self._close()

    def sample(self) -> None:
        """Takes one sample; `pipeline.threads.every` calls it from its thread."""
        if self._process is None:
            raise ValueError("Telemetry.sample must be called inside the with block, got a call before it")
        row = {**self._of_device(), **self._of_process(self._process)}
        for name, value in row.items():
            if value is not None:
                self._stats.setdefault(name, _Stat()).add(value)
        self.last = row
        now_s = self._utc()
        if now_s >= self._ends_s:
            self._close()
            self._open()
        self._rows.append({"time": round(now_s * 1e6), **row})
        if len(self._rows) >= ROWS:
            self._flush()

    def gpu(self) -> dict[str, float | None] | None:
        """The device over all samples; None where `gpu_absent` says why."""
        if self.gpu_absent is not None:
            return None
        return {
            "util_mean": self._stat("gpu_util").mean,
            "util_max": self._stat("gpu_util").max,
            "memory_max_bytes": self._stat("memory_bytes").max,
            "power_mean_w": self._stat("power_w").mean,
            "nvdec_mean": self._stat("nvdec_util").mean,
        }

    def process(self) -> dict[str, float | None]:
        """This process over all samples."""
        return {
            "cpu_mean_percent": _percent(self._cpu_first, self._cpu_last),
            "rss_max_bytes": self._stat("rss_bytes").max,
        }

    def _open(self) -> None:
        path = self._path
        if self._hourly:
            now_s = self._utc()
            self._ends_s = (now_s // HOUR_S + 1) * HOUR_S
            path /= f"{datetime.fromtimestamp(now_s, UTC):%Y-%m-%d/%H%M%S}.parquet"
        with _lost_samples(path):
            make_folder(path.parent)
            file = WholeFile(path)
            self._opened = file, pq.ParquetWriter(file.file, SCHEMA, compression="zstd")

    def _close(self) -> None:
        self._flush()
        opened, self._opened = self._opened, None
        if opened is not None:
            file, writer = opened
            with _lost_samples(self._path):
                try:
                    writer.close()
                    file.commit()
                finally:
                    file.discard()

    def _find_device(self) -> None:
        """Opens NVML and finds the device by its UUID, or says in `gpu_absent` why not."""
        nvml, self._nvml = self._nvml or importlib.import_module("pynvml"), None
        try:
            nvml.nvmlInit()
        except nvml.NVMLError as exc:
            self.gpu_absent = f"no NVIDIA driver: {exc}"
            return
        self._nvml = nvml
        if self._gpu_uuid is None:
            self.gpu_absent = "the run is on the CPU"
            return
        uuid = self._gpu_uuid if self._gpu_uuid.startswith(("GPU-", "MIG-")) else f"GPU-{self._gpu_uuid}"
        try:
            self._device = nvml.nvmlDeviceGetHandleByUUID(uuid)
        except nvml.NVMLError as exc:
            self.gpu_absent = f"NVML does not find {uuid}: {exc}"

    def _of_device(self) -> dict[str, float | None]:
        nvml, device = self._nvml, self._device
        if nvml is None or device is None:
            return {}
        readings: dict[str, Callable[[], float]] = {
            "gpu_util": lambda: nvml.nvmlDeviceGetUtilizationRates(device).gpu,
            "memory_util": lambda: nvml.nvmlDeviceGetUtilizationRates(device).memory,
            "nvdec_util": lambda: nvml.nvmlDeviceGetDecoderUtilization(device)[0],
            "memory_bytes": lambda: nvml.nvmlDeviceGetMemoryInfo(device).used,
            "power_w": lambda: nvml.nvmlDeviceGetPowerUsage(device) / 1000,  # from mW
            "sm_clock_mhz": lambda: nvml.nvmlDeviceGetClockInfo(device, nvml.NVML_CLOCK_SM),
        }
        row: dict[str, float | None] = {}
        reason = ""
        for name, read in readings.items():
            try:
                row[name] = read()
            except nvml.NVMLError as exc:
                row[name] = None
                reason = str(exc)
        if any(value is not None for value in row.values()):
            self.gpu_absent = None
        elif self.gpu_absent is not None:
            self.gpu_absent = f"the driver gives no telemetry of the device: {reason}"
        return row

    def _of_process(self, process: Process) -> dict[str, float | None]:
        row: dict[str, float | None] = {"cpu_percent": None, "rss_bytes": None}
        with suppress(psutil.Error):
            row["rss_bytes"] = process.memory_info()[0]
        with suppress(psutil.Error):
            user, system = process.cpu_times()[:2]
            now = self._clock(), user + system
            if self._cpu_first is None or self._cpu_last is None:
                self._cpu_first = self._cpu_last = now
            elif now[0] - self._cpu_last[0] >= SHORTEST_S:
                row["cpu_percent"] = _percent(self._cpu_last, now)
                self._cpu_last = now
        return row

    def _stat(self, name: str) -> _Stat:
        return self._stats.get(name, _Stat())

    def _flush(self) -> None:
        rows, self._rows = self._rows, []
        if self._opened is not None and rows:
            with _lost_samples(self._path):
                self._opened[1].write_table(pa.Table.from_pylist(rows, schema=SCHEMA))


class _Stat:
    """Mean and maximum of what was added; None of nothing."""

    def __init__(self) -> None:
        self._n = 0
        self._sum = 0.0
        self.max: float | None = None

    def add(self, value: float) -> None:
        self._n += 1
        self._sum += value
        self.max = value if self.max is None else max(self.max, value)

    @property
    def mean(self) -> float | None:
        return self._sum / self._n if self._n else None


def _percent(before: tuple[float, float] | None, now: tuple[float, float] | None) -> float | None:
    if before is None or now is None or now[0] <= before[0]:
        return None
    return 100 * (now[1] - before[1]) / (now[0] - before[0])


@contextmanager
def _lost_samples(path: Path) -> Generator[None]:
    """Telemetry that cannot be written is a warning: the labels matter more."""
    try:
        yield
    except (OSError, pa.ArrowException) as exc:
        log.warning("%s: must be writable, got %s; telemetry is incomplete", path, exc)
