"""One owner of an output folder, local or on S3: who would write to it as well is told who works there.

A file ``.lock`` in the folder says host, process and time. How another run finds out whether that process
lives:

- On the same machine the kernel knows: the file is locked (flock) as long as the process lives. For a folder
  on S3 it is a file of this machine.
- From another machine by the heartbeat: the owner writes the file again every ten seconds. Whoever finds it
  watches for a minute. Clocks of machines differ, so no time of another machine is trusted more closely than
  to ten minutes.

On S3 the file is made and replaced by conditional requests (If-None-Match, If-Match), so that of two runs one
gets it. Neither pyarrow nor Ray is used here.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from distributed.storage.folder import Folder
from distributed.storage.local_cache import cache_dir, cache_key
from distributed.storage.s3_objects import ConditionFailed, S3Object
from drel_core.errors import InputError

LOCK = ".lock"
BEAT = 10.0  # seconds between signs of life
SILENT = 60.0  # seconds of silence after which the owner is gone
OLD = 600.0  # seconds since the last sign of life, by the clocks, after which nobody need watch
_POLL = 2.0
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


@dataclass(frozen=True)
class Owner:
    """Who works in a folder.

    Attributes:
        machine: where a lock of the kernel speaks for the process.
        token: different for every run.
        beat: when it last gave a sign of life, in seconds since 1970 by its own clock.
    """

    host: str
    pid: int
    since: str
    machine: str
    token: str = field(default_factory=lambda: secrets.token_hex(8))
    beat: int = field(default_factory=lambda: int(time.time()))

    @staticmethod
    def here(machine: str) -> Owner:
        since = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        return Owner(socket.gethostname(), os.getpid(), since, machine)

    @staticmethod
    def parse(data: bytes | None) -> Owner | None:
        """None for what is no owner's file, as a full disk may leave it."""
        try:
            return Owner(**json.loads(data or b""))
        except (ValueError, TypeError):
            return None

    def text(self) -> bytes:
        return (json.dumps(asdict(replace(self, beat=int(time.time())))) + "\n").encode()

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since}"


class _Place(Protocol):
    """The lock of one folder; ``take`` has found nobody, or somebody who is gone."""

    machine: str

    def hold(self) -> bool:
        """Get what speaks for this process on its own machine; False where another process has it."""

    def read(self) -> tuple[bytes | None, Any]:
        """Content, and a state that is another one whenever it was written again."""

    def replace(self, data: bytes, state: Any) -> bool:
        """Write it, unless it was written again since ``state`` was read."""

    def release(self, token: str) -> None:
        """Remove it, and let go of what was held."""


class _LocalPlace:
    """``OUT/.lock``."""

    def __init__(self, folder: Path) -> None:
        self.path, self.handle, self.held = folder / LOCK, -1, False
        self.machine = _boot()
        self.made = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)

    def hold(self) -> bool:
        while True:
            self.handle = self._open()
            try:
                if not _flock(self.handle):
                    return False
                if _same_file(self.handle, self.path):
                    self.held = True  # and not one that its owner has just removed
                    return True
            except BaseException:
                self._close()
                raise
            self._close()

    def _open(self) -> int:
        try:
            return os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        except PermissionError:
            if not self.path.exists():
                raise
            with open(self.path, "rb") as file:  # another user's: it can be asked, but not written
                if not _flock(file.fileno()):
                    return os.dup(file.fileno())
            self.path.unlink()
            return os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)

    def read(self) -> tuple[bytes | None, Any]:
        try:
            with open(
                self.path, "rb"
            ) as file:  # opened anew: a network file system asks the server then
                return file.read(), os.fstat(file.fileno()).st_mtime_ns
        except FileNotFoundError:
            return None, None

    def replace(self, data: bytes, state: Any) -> bool:
        if self.read()[1] != state:
            return False
        os.pwrite(self.handle, data, 0)
        os.ftruncate(self.handle, len(data))
        return True

    def release(self, token: str) -> None:
        with suppress(OSError):
            owner = Owner.parse(self.read()[0])
            if self.held and (owner is None or owner.token == token):
                self.path.unlink()
            if self.made:
                self.path.parent.rmdir()  # where nothing came of it
        self._close()

    def _close(self) -> None:
        if self.handle >= 0:
            os.close(self.handle)
        self.handle = -1


class _S3Place:
    """``s3://…/.lock``, and a file of this machine."""

    def __init__(self, folder: Folder) -> None:
        self.object = S3Object(folder.file(LOCK))
        self.local = cache_dir("locks") / cache_key(folder.address)
        self.handle = os.open(self.local, os.O_RDWR | os.O_CREAT, 0o666)
        known = os.fstat(self.handle)
        self.machine = f"{_boot()} {known.st_dev} {known.st_ino}"

    def hold(self) -> bool:
        return _flock(self.handle)

    def read(self) -> tuple[bytes | None, Any]:
        return self.object.read()

    def replace(self, data: bytes, state: Any) -> bool:
        try:
            self.object.write(data, state)
        except ConditionFailed:
            # Perhaps this very request was done, and its answer lost.
            return self.object.read()[0] == data
        return True

    def release(self, token: str) -> None:
        with suppress(OSError, InputError):
            owner = Owner.parse(self.read()[0])
            if owner is not None and owner.token == token:
                self.object.remove()
        os.close(self.handle)


@contextmanager
def owned(
    folder: Folder, log: Callable[[str], object] = print, given: Folder | None = None
) -> Iterator[None]:
    """This process alone works in ``folder`` while the block runs.

    Args:
        log: takes a line where the folder is taken over from a run that is gone.
        given: the --out for which it is held, where it is another folder; messages name it.

    Raises:
        InputError: another run works there; or the folder cannot be written.
    """
    out = given or folder
    with _writable(out):
        place: _Place = _S3Place(folder) if folder.remote else _LocalPlace(folder.path)
        try:
            owner = _take(place, out, log)
        except BaseException:
            place.release("")
            raise
    ended = threading.Event()
    beating = threading.Thread(target=_beat, args=(place, owner, out, ended), daemon=True)
    beating.start()
    try:
        yield
    finally:
        ended.set()
        beating.join(BEAT)
        place.release(owner.token)


def check_free(folder: Folder, given: Folder | None = None) -> None:
    """What ``owned`` would find, as far as it shows without writing.

    Args:
        given: see ``owned``.

    Raises:
        InputError: another run works there; or the folder cannot be written.
    """
    out = given or folder
    if folder.remote:
        owner = Owner.parse(S3Object(folder.file(LOCK)).read()[0])
        if owner is not None and time.time() - owner.beat < SILENT:
            raise InputError(_refusal(out, owner))
        return
    there = next(one for one in (folder.path, *folder.path.parents) if one.exists())
    if not os.access(there, os.W_OK | os.X_OK):
        with _writable(out):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    with suppress(FileNotFoundError), open(folder.path / LOCK, "rb") as file:
        owner = Owner.parse(file.read())
        elsewhere = owner is not None and owner.machine != _boot()
        lives = elsewhere and owner is not None and time.time() - owner.beat < SILENT
        if lives or not _flock(file.fileno()):
            raise InputError(_refusal(out, owner))


@contextmanager
def _writable(out: Folder) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{out}: --out cannot be written ({error.strerror or error}); make room or give access, or "
            "choose another --out"
        ) from None


def _take(place: _Place, out: Folder, log: Callable[[str], object]) -> Owner:
    """Become the owner.

    Raises:
        InputError: there is one.
    """
    held = place.hold()
    data, state = place.read()
    before = Owner.parse(data)
    if not held:
        raise InputError(_refusal(out, before))
    if before is None and data and not isinstance(place, _LocalPlace):
        raise InputError(f"{out}: holds a {LOCK} that is no lock; remove it")
    gone = ""
    if before is not None:
        if before.machine == place.machine:
            gone = "which has ended"
        elif time.time() - before.beat > OLD:
            gone = f"silent for {time.time() - before.beat:.0f} s"
        else:
            state = _watch(place, out, before, state, log)
            gone = f"silent for {SILENT:.0f} s"
    owner = Owner.here(place.machine)
    if not place.replace(owner.text(), state):
        raise InputError(_refusal(out, Owner.parse(place.read()[0])))
    if before is not None:
        log(f"{out}: taken over from {before}, {gone}")
    return owner


def _watch(
    place: _Place, out: Folder, before: Owner, state: Any, log: Callable[[str], object]
) -> Any:
    """Wait until the owner has been silent for long enough.

    Raises:
        InputError: it gave a sign of life.
    """
    log(f"{out}: last held by {before}; looking for {SILENT:.0f} s whether it lives")
    until = time.monotonic() + SILENT
    while time.monotonic() < until:
        time.sleep(min(_POLL, SILENT / 10))
        data, now = place.read()
        if data is None:
            return now
        if now != state:
            raise InputError(_refusal(out, Owner.parse(data)))
    return state


def _refusal(out: Folder, owner: Owner | None) -> str:
    who = "" if owner is None else f": {owner}"
    return f"{out}: another run works there{who}; wait for it, stop it, or choose a new --out"


def _beat(place: _Place, owner: Owner, out: Folder, ended: threading.Event) -> None:
    """Give signs of life. What cannot be written now is tried again; what another run has taken is left to
    it, and this one stops."""
    while not ended.wait(BEAT):
        with suppress(OSError, InputError):
            data, state = place.read()
            found = Owner.parse(data)
            if found is not None and found.token != owner.token:
                print(
                    f"error: {out}: {found} has taken it over; stopping",
                    file=sys.stderr,
                    flush=True,
                )
                os.kill(os.getpid(), signal.SIGTERM)
                return
            place.replace(owner.text(), state)


def _flock(handle: int) -> bool:
    """Whether this process has the lock now; also where a file system has no locks."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    return True


def _same_file(handle: int, path: Path) -> bool:
    try:
        there = os.stat(path)
    except FileNotFoundError:
        return False
    mine = os.fstat(handle)
    return (mine.st_dev, mine.st_ino) == (there.st_dev, there.st_ino)


def _boot() -> str:
    """Of this start of this machine; the same in all its containers, as are its kernel's locks."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return f"{socket.gethostname()} {os.getpid()}"
