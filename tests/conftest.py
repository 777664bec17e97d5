"""GPU tests skip where there is no GPU, unless VPIPE_REQUIRE_GPU=1 says that there must be one."""

import os
import signal
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def _nothing_kept_from_before(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Graphs that an earlier version of the code made would be found and tested in place of this one's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") is None:
        return
    import torch

    if not torch.cuda.is_available():
        if os.environ.get("VPIPE_REQUIRE_GPU") == "1":
            pytest.fail("VPIPE_REQUIRE_GPU=1 promises a CUDA device, torch finds none", pytrace=False)
        pytest.skip("no CUDA device")


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    """A command sets what signals do until its process ends; here it has none of its own."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
