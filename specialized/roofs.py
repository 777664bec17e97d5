"""What a device can do at most, measured: FLOP/s of a large matrix product, bytes/s of a large copy.

Under these two roofs lies what any network reaches: FLOP/s <= min(peak, intensity · bandwidth) (Williams, Waterman and
Patterson, "Roofline", CACM 2009). They meet at the ridge, peak / bandwidth.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch

from specialized.engines import Dtype
from specialized.engines.scoring import DTYPES
from specialized.errors import ModelError
from specialized.forward import timed_loop
from specialized.objects import one_line
from specialized.timing import Arm

_SIZES = {"cpu": (512, 1024, 2048), "cuda": (1024, 2048, 4096, 8192)}  # of the square matrices
_MIB = {"cpu": 128, "cuda": 512}  # of each array that is read or written: several times the last cache


@dataclass(frozen=True, slots=True)
class Roof:
    """A roof and how it is measured.

    Attributes:
        kind: product of two square matrices, in FLOP; copy (read one, write one) or triad (a = b + 3c: read two, write
            one), in bytes.
        dtype: Of the elements.
        size: Rows of a matrix, or elements of an array.
    """

    kind: Literal["product", "copy", "triad"]
    dtype: Dtype
    size: int


def product_arms(dtype: Dtype, device: torch.device) -> Iterator[Arm[Roof]]:
    """Matrix products of a few sizes; the fastest is the peak in this dtype. Work is FLOP, 2·n³."""
    for n in _SIZES[device.type]:
        yield _arm(Roof("product", dtype, n), 2.0 * n**3, _product, device)


def copy_arms(device: torch.device) -> Iterator[Arm[Roof]]:
    """Ways to move large arrays; the fastest is the bandwidth. Work is bytes read and written.

    A cache that reads a line before it writes to it moves more than is counted; that is how bandwidth is told since
    STREAM (McCalpin, 1995).
    """
    n = _MIB[device.type] * 2**20 // 4
    yield _arm(Roof("copy", "float32", n), 2.0 * 4 * n, _copy, device)
    yield _arm(Roof("triad", "float32", n), 3.0 * 4 * n, _triad, device)


def _product(roof: Roof, device: torch.device) -> Callable[[], object]:
    a, b, out = (torch.randn(roof.size, roof.size, device=device).to(DTYPES[roof.dtype]) for _ in range(3))
    return lambda: torch.mm(a, b, out=out)


def _copy(roof: Roof, device: torch.device) -> Callable[[], object]:
    source, target = (torch.ones(roof.size, device=device) for _ in range(2))
    return lambda: target.copy_(source)


def _triad(roof: Roof, device: torch.device) -> Callable[[], object]:
    b, c, out = (torch.ones(roof.size, device=device) for _ in range(3))
    return lambda: torch.add(b, c, alpha=3.0, out=out)


def _arm(
    roof: Roof, work: float, make: Callable[[Roof, torch.device], Callable[[], object]], device: torch.device
) -> Arm[Roof]:
    """Takes its memory at the first call, where what goes wrong is told like any other failure of an arm."""
    loop: list[Callable[[int], float]] = []

    def run(calls: int) -> float:
        try:
            if not loop:
                loop.append(timed_loop(make(roof, device), device))
            return loop[0](calls)
        except Exception as exc:  # no memory, or no such arithmetic on this device
            raise ModelError(
                f"{roof.kind} of {roof.size} in {roof.dtype} on {device}: must run, got {one_line(exc)[:200]}"
            ) from exc

    return Arm(roof, work, run)
