"""No kind of file: cases that crash, hang, grow or are found wrong, on which the harness itself is tried."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

from tests.fuzz.harness import Tried


def stock(folder: Path) -> None:
    """Nothing."""


class Faulty:
    limit_mb = 100
    crash_is_finding = True

    def __init__(self, stock: Path, own: Path) -> None:
        pass

    @staticmethod
    def limit_s(number: int) -> float:
        return 0.5 if number == 2 else 30.0

    def prepared(self, number: int, chance: random.Random) -> str:
        return f"case {number}"

    def tried(self, number: int, chance: random.Random) -> Tried:
        if number == 1:
            os.abort()
        if number == 2:
            while True:
                time.time()
        if number == 3:
            len(b"x" * (300 << 20))
        return Tried("done", finding="wrong" if number == 4 else None)

    def isolated(self) -> str:
        return ""


CASE = Faulty
