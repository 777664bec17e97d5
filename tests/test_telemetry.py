import itertools
import logging
import time
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import telemetry
from pipeline.telemetry import SCHEMA, Telemetry
from pipeline.threads import every

UUID = "1b2c3d4e-0000-1111-2222-333344445555"

METRICS = ["gpu_util", "memory_util", "nvdec_util", "memory_bytes", "power_w", "sm_clock_mhz"]


class NVMLError(Exception):
    pass


class Driver:
    """Stands in for the module `pynvml`: two devices, of which the second one is ours; each reading is one higher."""

    NVMLError = NVMLError
    NVML_CLOCK_SM = 1

    def __init__(self, *, lacks=(), gone_after=None, installed=True):
        self.lacks = set(lacks)
        self.gone_after = gone_after
        self.installed = installed
        self.running = 0
        self.readings = {}

    def nvmlInit(self):  # noqa: N802
        if not self.installed:
            raise NVMLError("NVML Shared Library Not Found")
        self.running += 1

    def nvmlShutdown(self):  # noqa: N802
        self.running -= 1
        if self.gone_after is not None:
            raise NVMLError("Uninitialized")

    def nvmlDeviceGetHandleByUUID(self, uuid):  # noqa: N802
        if uuid != f"GPU-{UUID}":
            raise NVMLError("Not Found")
        return "the second device"

    def _read(self, name, device):
        assert device == "the second device"
        n = self.readings[name] = self.readings.get(name, 0) + 1
        if name in self.lacks:
            raise NVMLError("Not Supported")
        if self.gone_after is not None and n > self.gone_after:
            raise NVMLError("GPU is lost")
        return n

    def nvmlDeviceGetUtilizationRates(self, device):  # noqa: N802
        n = self._read("utilization", device)
        return SimpleNamespace(gpu=n, memory=n / 2)

    def nvmlDeviceGetDecoderUtilization(self, device):  # noqa: N802
        return [self._read("nvdec", device), 20_000]

    def nvmlDeviceGetMemoryInfo(self, device):  # noqa: N802
        return SimpleNamespace(used=self._read("memory", device) << 30, free=0)

    def nvmlDeviceGetPowerUsage(self, device):  # noqa: N802
        return self._read("power", device) * 1000

    def nvmlDeviceGetClockInfo(self, device, clock):  # noqa: N802
        assert clock == self.NVML_CLOCK_SM
        return self._read("clock", device) * 100


class Process:
    """Two cores busy; resident memory that goes up and down."""

    def __init__(self):
        self.seconds = 10.0
        self.resident = iter([100, 300, 200])

    def cpu_times(self):
        return 1.5 * self.seconds, 0.5 * self.seconds, 0.0

    def memory_info(self):
        return next(self.resident), 0


def three_samples(tmp_path, *, after=(0.5, 0.5), **options):
    process = Process()
    path = tmp_path / "t.parquet"
    with Telemetry(path, process=process, clock=lambda: process.seconds, **options) as sampler:
        sampler.sample()
        for seconds in after:
            process.seconds += seconds
            sampler.sample()
        assert not path.exists()
    return sampler, pq.read_table(path)


def test_samples_of_the_device_with_this_uuid_are_written_at_the_end(tmp_path):
    driver = Driver()
    sampler, rows = three_samples(tmp_path, gpu_uuid=UUID, nvml=driver)
    assert rows.schema.equals(SCHEMA)
    assert rows["gpu_util"].to_pylist() == [1, 3, 5]  # read twice a sample
    assert rows["memory_util"].to_pylist() == [1, 2, 3]
    assert rows["nvdec_util"].to_pylist() == [1, 2, 3]
    assert rows["memory_bytes"].to_pylist() == [1 << 30, 2 << 30, 3 << 30]
    assert rows["power_w"].to_pylist() == [1, 2, 3]
    assert rows["sm_clock_mhz"].to_pylist() == [100, 200, 300]
    assert sampler.gpu_absent is None
    assert sampler.gpu() == {
        "util_mean": 3,
        "util_max": 5,
        "memory_max_bytes": 3 << 30,
        "power_mean_w": 2,
        "nvdec_mean": 2,
    }
    assert driver.running == 0


def test_cpu_is_percent_of_one_core_since_the_sample_before(tmp_path):
    sampler, rows = three_samples(tmp_path)
    assert rows["cpu_percent"].to_pylist() == [None, 200, 200]
    assert rows["rss_bytes"].to_pylist() == [100, 300, 200]
    assert sampler.process() == {"cpu_mean_percent": 200, "rss_max_bytes": 300}


def test_a_uuid_may_have_its_prefix(tmp_path):
    sampler, _ = three_samples(tmp_path, gpu_uuid=f"GPU-{UUID}", nvml=Driver())
    assert sampler.gpu() is not None


def test_a_metric_that_is_not_supported_is_null_and_the_others_are_not(tmp_path):
    sampler, rows = three_samples(tmp_path, gpu_uuid=UUID, nvml=Driver(lacks={"nvdec", "power"}))
    assert rows["nvdec_util"].to_pylist() == rows["power_w"].to_pylist() == [None] * 3
    assert rows["sm_clock_mhz"].to_pylist() == [100, 200, 300]
    assert sampler.gpu()["nvdec_mean"] is None
    assert sampler.gpu()["util_max"] == 5


def test_a_driver_that_vanishes_leaves_nulls_and_what_was_seen_until_then(tmp_path):
    sampler, rows = three_samples(tmp_path, gpu_uuid=UUID, nvml=Driver(gone_after=2))
    assert rows["power_w"].to_pylist() == [1, 2, None]
    assert rows["rss_bytes"].to_pylist() == [100, 300, 200]
    assert sampler.gpu()["memory_max_bytes"] == 2 << 30


def test_a_device_that_tells_nothing_is_absent_and_why_is_told(tmp_path):
    sampler, rows = three_samples(tmp_path, gpu_uuid=UUID, nvml=Driver(gone_after=0))
    assert sampler.gpu() is None
    assert sampler.gpu_absent == "the driver gives no telemetry of the device: GPU is lost"
    assert [rows[name].null_count for name in METRICS] == [3] * 6


def test_a_device_that_is_not_there_is_told_by_its_uuid(tmp_path):
    sampler, _ = three_samples(tmp_path, gpu_uuid="feed", nvml=Driver())
    assert sampler.gpu() is None
    assert sampler.gpu_absent == "NVML does not find GPU-feed: Not Found"


@pytest.mark.parametrize("uuid", [None, UUID])
def test_without_a_driver_there_is_no_gpu_and_why_is_told(tmp_path, uuid):
    sampler, rows = three_samples(tmp_path, gpu_uuid=uuid, nvml=Driver(installed=False))
    assert sampler.gpu() is None
    assert sampler.gpu_absent == "no NVIDIA driver: NVML Shared Library Not Found"
    assert len(rows) == 3


def test_a_run_on_the_cpu_samples_no_device(tmp_path):
    driver = Driver()
    sampler, _ = three_samples(tmp_path, nvml=driver)
    assert (sampler.gpu(), sampler.gpu_absent) == (None, "the run is on the CPU")
    assert (driver.readings, driver.running) == ({}, 0)


def test_samples_go_to_the_file_in_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr(telemetry, "ROWS", 2)
    _, rows = three_samples(tmp_path)
    assert pq.ParquetFile(tmp_path / "t.parquet").num_row_groups == 2
    assert rows["rss_bytes"].to_pylist() == [100, 300, 200]


def test_what_runs_for_long_has_a_file_for_each_hour(tmp_path):
    now_s = 1_764_364_500.0  # 2025-11-28, 21:15
    process = Process()
    process.resident = itertools.count(100)
    with Telemetry(
        tmp_path, hourly=True, nvml=Driver(installed=False), process=process, utc=lambda: now_s
    ) as telemetry:
        for at_s in (1_764_364_500.0, 1_764_367_199.5, 1_764_367_200.0, 1_764_374_400.0):
            now_s = at_s
            telemetry.sample()
            assert not list(tmp_path.rglob("*230000.parquet"))
    times = {path.relative_to(tmp_path).as_posix(): len(pq.read_table(path)) for path in tmp_path.rglob("*.parquet")}
    assert times == {"2025-11-28/211500.parquet": 2, "2025-11-28/220000.parquet": 1, "2025-11-29/000000.parquet": 1}


def test_two_samples_close_together_give_no_percentage(tmp_path):
    _, rows = three_samples(tmp_path, after=[0.01, 0.99])
    assert rows["cpu_percent"].to_pylist() == [None, None, 200]


def test_a_disk_that_takes_no_telemetry_is_a_warning(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    with (
        caplog.at_level(logging.WARNING),
        Telemetry(tmp_path / "file" / "t.parquet", process=Process()) as sampler,
    ):
        sampler.sample()
    assert "t.parquet: must be writable" in caplog.text
    assert sampler.process()["rss_max_bytes"] == 100


def test_sampling_outside_the_block_is_misuse(tmp_path):
    with pytest.raises(ValueError, match="inside the with block"):
        Telemetry(tmp_path / "t.parquet").sample()


def test_this_process_is_sampled_from_a_thread(tmp_path):
    started = time.time()
    with Telemetry(tmp_path / "t.parquet") as sampler, every(60, sampler.sample):
        held = bytes(1 << 20)
    rows = pq.read_table(tmp_path / "t.parquet")
    assert len(rows) == 2
    assert sampler.process()["rss_max_bytes"] > len(held)
    microseconds = rows["time"].cast(pa.int64()).to_pylist()
    assert started <= microseconds[0] / 1e6 <= microseconds[1] / 1e6 <= time.time() + 1e-3


@pytest.mark.gpu
def test_a_real_device_tells_its_memory_and_power(tmp_path):
    import torch

    uuid = str(torch.cuda.get_device_properties(0).uuid)
    with Telemetry(tmp_path / "t.parquet", gpu_uuid=uuid) as sampler:
        sampler.sample()
    assert sampler.gpu_absent is None
    assert sampler.gpu()["memory_max_bytes"] > 0
