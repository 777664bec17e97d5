"""No kind of file: cases whose process crashes, and what comes of them in isolation, on which the harness is tried."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

from tests.fuzz.harness import Tried


def stock(folder: Path) -> None:
    """Nothing."""


class Protected:
    limit_mb = 100
    crash_is_finding = False

    def __init__(self, stock: Path, own: Path) -> None:
        self._number = 0

    @staticmethod
    def limit_s(number: int) -> float:
        return 30.0

    def prepared(self, number: int, chance: random.Random) -> str:
        self._number = number
        return f"case {number}"

    def tried(self, number: int, chance: random.Random) -> Tried:
        if number == 5:
            raise ValueError
        if number:
            os.abort()
        return Tried("done")

    def isolated(self) -> str:
        if self._number == 2:
            os.abort()
        if self._number == 3:
            time.sleep(60.0)
        return "isolated: wrong, so it is" if self._number == 4 else "isolated: complete"


CASE = Protected
