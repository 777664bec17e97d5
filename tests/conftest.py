"""GPU tests skip where there is no GPU, unless VPIPE_REQUIRE_GPU=1 says that there must be one."""

import os

import pytest


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") is None:
        return
    import torch

    if not torch.cuda.is_available():
        if os.environ.get("VPIPE_REQUIRE_GPU") == "1":
            pytest.fail("VPIPE_REQUIRE_GPU=1 promises a CUDA device, torch finds none", pytrace=False)
        pytest.skip("no CUDA device")
