"""What a run leaves on disk: its folder.

runs/<name>/run.json                resolved configuration, identity, versions, machine
runs/<name>/frames/...              the committed parts (pipeline.sinks.parts)
runs/<name>/spool/...               what sinks still have to send (pipeline.sinks.spool)
runs/<name>/telemetry.parquet       (pipeline.telemetry); of cameras telemetry/<UTC date>/<time>.parquet
runs/<name>/ledger.json summary.json (pipeline.ledger)
runs/<name>/log.txt
runs/<name>/.lock                   while a process is at work here

runs/<name>/run.json                likewise of a training, with
runs/<name>/training.json           what each epoch came to, and the accuracy
runs/<name>/curves.png confusion.png
runs/<name>/checkpoint.pt           while it goes on (teacher.pt: of the unfolded network that teaches a folded one)
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TextIO

from pipeline.errors import ConfigError
from pipeline.files import TEMPORARY, make_folder, write_json
from pipeline.machine import machine, versions

__all__ = ["LOGGERS", "RunFolder"]

LOCK = ".lock"
LOGGERS = ("pipeline", "specialized")  # what they say is said to the user, and in log.txt

Document = dict[str, object]
Kind = Literal["run", "training"]

_NAME: Mapping[Kind, str] = {"run": "--name", "training": "--set run.name=NAME"}  # how a command gives another one


def _locked(path: Path) -> TextIO:
    """A file that only one process has open so. The system lets it go with the process."""
    while True:
        file = open(path, "a+", encoding="utf-8")  # noqa: SIM115 (closed by who holds it)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with file:
                file.seek(0)
                holder = file.read().strip() or "another process"
            cure = "wait for its end or end it, or give another name"
            raise ConfigError(
                [f"{path.parent}: must be of one run at a time, got {holder} at work in it; {cure}"]
            ) from None
        # Who held it before may have removed it between the two lines above.
        if path.exists() and os.fstat(file.fileno()).st_ino == path.stat().st_ino:
            file.truncate(0)
            with suppress(OSError):  # who holds it is told to others; what a full disk means, by the run's own files
                os.write(file.fileno(), f"process {os.getpid()} on {socket.gethostname()}\n".encode())
            return file
        file.close()


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The folder of one run."""

    path: Path

    @property
    def run_json(self) -> Path:
        return self.path / "run.json"

    @property
    def frames(self) -> Path:
        return self.path / "frames"

    @property
    def spool(self) -> Path:
        return self.path / "spool"

    @property
    def telemetry(self) -> Path:
        return self.path / "telemetry.parquet"

    @property
    def telemetry_parts(self) -> Path:
        """Of a run over cameras."""
        return self.path / "telemetry"

    @property
    def ledger(self) -> Path:
        return self.path / "ledger.json"

    @property
    def summary(self) -> Path:
        return self.path / "summary.json"

    @property
    def strip(self) -> Path:
        return self.path / "strip.png"

    @property
    def log(self) -> Path:
        return self.path / "log.txt"

    @property
    def training(self) -> Path:
        return self.path / "training.json"

    @property
    def curves(self) -> Path:
        return self.path / "curves.png"

    @property
    def confusion(self) -> Path:
        return self.path / "confusion.png"

    @property
    def checkpoint(self) -> Path:
        return self.path / "checkpoint.pt"

    @property
    def teacher(self) -> Path:
        return self.path / "teacher.pt"

    @property
    def begun_ns(self) -> int | None:
        """When this run was begun or resumed last; None: never."""
        try:
            return self.run_json.stat().st_mtime_ns
        except OSError:
            return None

    def way_on(self, *, since: int | None = None) -> str:
        """How the training of this folder can go on, by what lies here.

        Args:
            since: `begun_ns` before a command that begins anew: if it is that still, what lies here is not its own.
        """
        if since is not None and self.begun_ns == since:
            return "nothing was begun, and the earlier training is as it was"
        if self.training.exists():
            return "the training is finished; --overwrite trains anew"
        if self.checkpoint.exists() or self.teacher.exists():
            return "--resume goes on after the last epoch that was finished"
        if self.run_json.exists():
            return "no epoch was finished, so --resume begins anew"
        return "nothing was begun"

    @staticmethod
    def at(directory: Path, name: str, *, kind: Kind = "run") -> RunFolder:
        """The folder of a run of this name, whatever is there.

        Raises:
            ConfigError: the name is not one component of a path.
        """
        return RunFolder(directory / _component(name, kind))

    @staticmethod
    def create(directory: Path, name: str, *, overwrite: bool = False, kind: Kind = "run") -> RunFolder:
        """Makes the folder of a new run.

        Args:
            directory: Where runs lie; made if need be.
            name: Name of the run, one component of a path.
            overwrite: Removes what an earlier run of this name left, and nothing else that lies there.
            kind: Of what; a run does not replace a training, nor a training a run.

        Raises:
            ConfigError: the name is taken, or the folder cannot be made.
        """
        folder = RunFolder.at(directory, name, kind=kind)
        folder.refuse_taken(overwrite=overwrite, kind=kind)
        with folder._usable():
            make_folder(folder.path)
            folder._clear()
        return folder

    @staticmethod
    def resume(directory: Path, name: str, *, kind: Kind = "run") -> RunFolder:
        """The folder of a run that was begun earlier.

        Raises:
            ConfigError: there is none.
        """
        folder = RunFolder.at(directory, name, kind=kind)
        if not folder.run_json.is_file():
            cure = "leave --resume out"
            if folder.frames.exists():
                cure = "put it back: what is labelled lies below frames/"
            elif kind == "run":
                cure += ", or set run.resume: true, which begins where there is nothing to go on with"
            text = f"must hold the {kind} that --resume goes on with, got no run.json; {cure}"
            raise ConfigError([f"{folder.path}: {text}"])
        folder._refuse_other(kind)
        return folder

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keeps other processes out until the block is left. However this one ends, the next is let in.

        Raises:
            ConfigError: one is at work here, or the folder cannot be made.
        """
        with self._usable():
            make_folder(self.path)
            lock = _locked(self.path / LOCK)
        try:
            yield
        finally:
            (self.path / LOCK).unlink(missing_ok=True)
            lock.close()
            with suppress(OSError):  # not empty: something was begun
                self.path.rmdir()

    def remove_leftovers(self) -> None:
        """Removes files that a process was about to write when it ended."""
        for path in self.path.rglob(f".*{TEMPORARY}"):
            path.unlink(missing_ok=True)

    def refuse_taken(self, *, overwrite: bool, kind: Kind) -> None:
        """Refuses a folder that a new run of this kind must not take. Changes nothing.

        Raises:
            ConfigError: as `create` does.
        """
        with self._usable():
            if not self.path.exists() or all(map(_is_passing, self.path.iterdir())):
                return
        if not self.run_json.is_file():
            text = f"must be empty or hold a {kind}, got other files and no run.json; choose another {_NAME[kind]}"
            raise ConfigError([f"{self.path}: {text}"])
        self._refuse_other(kind)
        if not overwrite:
            going_on = "" if self.training.exists() else "--resume to go on with it, "
            ways = f"{going_on}--overwrite to replace it, or {_NAME[kind]} for another folder"
            raise ConfigError([f"{self.path}: must not hold a {kind} yet, got an earlier one; {ways}"])

    def _refuse_other(self, kind: Kind) -> None:
        try:
            found = json.loads(self.run_json.read_bytes()).get("kind", "run")
        except (OSError, ValueError, AttributeError):
            return  # nobody can tell; what is torn may be replaced
        if found != kind:
            text = f"must be the folder of a {kind}, got that of a {found}; choose another {_NAME[kind]}"
            raise ConfigError([f"{self.path}: {text}"])

    @contextmanager
    def _usable(self) -> Iterator[None]:
        try:
            yield
        except OSError as exc:
            raise ConfigError(
                [f"{self.path}: must be a folder that can be written, got {_cause(exc)}; choose another run.dir"]
            ) from exc

    def _clear(self) -> None:
        """Removes what an earlier run left, and nothing else that lies here."""
        for folder in (self.frames, self.spool, self.telemetry_parts, self.path / "events"):
            if folder.exists():
                shutil.rmtree(folder)
        of_a_run = (self.path / "events.parquet", self.telemetry, self.ledger, self.summary, self.log, self.strip)
        old_logs = self.path.glob(f"{self.log.name}.*")
        of_a_training = (self.training, self.curves, self.confusion, self.checkpoint, self.teacher)
        for path in (*of_a_run, *old_logs, *of_a_training):
            path.unlink(missing_ok=True)
        self.run_json.unlink(missing_ok=True)  # last: it marks the folder as one that may be cleared

    def write_run_json(
        self, config: Mapping[str, object], identity: Mapping[str, object], *, kind: Kind = "run"
    ) -> None:
        """Writes what was asked for and where it runs; before anything else is put into the folder.

        Args:
            config: The resolved configuration, without secrets.
            identity: What decides the outcome, as the first value of `pipeline.identity.identity`.
            kind: Of what the folder is.
        """
        write_json(
            self.run_json,
            {"kind": kind, "config": config, "identity": identity, "versions": versions(), "machine": machine()},
        )

    def read_identity(self) -> Document:
        """The identity that `write_run_json` wrote.

        Raises:
            ConfigError: run.json cannot be read.
        """
        return self._read("identity")

    def read_config(self) -> Document:
        """The resolved configuration, likewise."""
        return self._read("config")

    def _read(self, key: str) -> Document:
        try:
            found = json.loads(self.run_json.read_bytes())[key]
            if not isinstance(found, dict):
                raise TypeError(f"{key} is a {type(found).__name__}")
        except (OSError, ValueError, LookupError, TypeError) as exc:
            cure = "put it back from a copy; --overwrite begins anew, without what is labelled"
            told = f"must be what an earlier run wrote, got {_cause(exc)}; {cure}"
            raise ConfigError([f"{self.run_json}: {told}"]) from exc
        return found


def _is_passing(path: Path) -> bool:
    """Whether a process left this as it was killed before it began."""
    return path.name == LOCK or (path.name.startswith(".") and path.name.endswith(TEMPORARY))


def _component(name: str, kind: Kind) -> str:
    if not name or name in (".", "..") or "/" in name or "\0" in name:
        raise ConfigError(
            [f"run.name: must be one folder name without '/', got {name!r}; choose another {_NAME[kind]}"]
        )
    return name


def _cause(exc: Exception) -> str:
    return exc.strerror if isinstance(exc, OSError) and exc.strerror else f"{type(exc).__name__}: {exc}"
