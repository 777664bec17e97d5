"""Every thread of the program.

    ending     Stop, Request; alive, stuck_threads: what all of them share
    merging    merge: several iterables as one, through a bounded channel
    lanes      Lanes: the same, but what is too much is dropped
    sharing    Shared, Answer, Exclusive: what several threads use together
    working    Worker, every, beside, within: one thread beside another

A thread owns the iterator that it runs: it alone advances it and it closes it. A consumer that stops early closes the
channel, the threads notice at their next batch, close their iterators and end. A thread that sits in a native call
cannot be interrupted; it is given `JOIN_S` seconds and then remembered in `stuck_threads`, so that the program can
leave by force after its last commit. Who waits for it may have it replaced: a thread that works for long without giving
anything says `alive` now and then.
"""

from __future__ import annotations

from pipeline.threads.ending import Request, Stop, alive, hang, heard_by, stuck_threads
from pipeline.threads.lanes import Lanes
from pipeline.threads.merging import Activity, Watch, merge
from pipeline.threads.sharing import Answer, Exclusive, Shared
from pipeline.threads.working import Worker, beside, every, within

__all__ = [
    "Activity",
    "Answer",
    "Exclusive",
    "Lanes",
    "Request",
    "Shared",
    "Stop",
    "Watch",
    "Worker",
    "alive",
    "beside",
    "every",
    "hang",
    "heard_by",
    "merge",
    "stuck_threads",
    "within",
]
