"""These tests need programs of the system (`make system-deps`). Without them they skip, where CI=true they fail."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest


def needed(name: str, found: str | Path | None) -> Path:
    """Where a program is."""
    if found is None:
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI=true promises {name}, got none; make system-deps", pytrace=False)
        pytest.skip(f"no {name}; make system-deps")
    return Path(found)


@pytest.fixture(scope="session")
def mosquitto() -> str:
    """The broker's program."""
    return str(needed("mosquitto", shutil.which("mosquitto", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")))


@pytest.fixture(scope="session")
def postgres() -> Path:
    """The folder of the database's programs."""
    return needed("PostgreSQL", max(Path("/usr/lib/postgresql").glob("*/bin"), default=None))


@pytest.fixture(scope="session")
def chromium() -> Path:
    """A browser."""
    return needed("chromium", shutil.which("chromium"))


@pytest.fixture(scope="session")
def gstreamer() -> Path:
    """A Python that finds GStreamer's RTSP server."""
    code = "import gi; gi.require_version('GstRtspServer', '1.0'); from gi.repository import GstRtspServer, Gst; "
    code += "Gst.init(None); exit(not all(map(Gst.ElementFactory.find, ['x264enc', 'rtph264pay', 'appsrc'])))"
    python = Path("/usr/bin/python3")
    there = python.exists() and not subprocess.run([python, "-c", code], capture_output=True, check=False).returncode
    return needed("GStreamer's RTSP server", python if there else None)
