"""The HTTP scorer: python -m jobs.serve --model DIR [--port 8000] [--replicas N]"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
from dataclasses import dataclass, fields

from distributed.bundles.locate import local_bundle
from distributed.storage.folder import Folder
from drel_core.bundle.format import read_info
from drel_core.errors import InputError
from jobs.cli import OneLineParser, build, run_job


@dataclass(kw_only=True)
class ServeConfig:
    """What to serve, and where."""

    model: str
    """model bundle, training folder, or folder of versions whose file `latest` names one; a new version \
    there is taken up without a restart"""
    port: int = 8000
    """TCP port; 0 takes a free one"""
    host: str = "127.0.0.1"
    """address to listen on; 0.0.0.0 for all"""
    replicas: str = "1"
    """processes that score: N, or MIN:MAX to follow the load"""
    feedback: str = ""
    """folder or s3:// prefix where feedback is kept; empty: `feedback` beside the model"""
    backbone: str = ""
    """network for pictures where the model names none, e.g. efficientnet-lite0"""
    threads: int = 0
    """CPU threads of a replica; 0: the machine's cores shared among the replicas"""
    max_rows: int = 1024
    """most rows of a request"""
    max_body_mib: int = 32
    """largest body of a request"""
    queue_rows: int = 4096
    """rows that may wait in a replica; beyond, requests get 503 and Retry-After"""
    poll_seconds: float = 5.0
    """how often a replica looks for a new version"""
    token_file: str = ""
    """file with the bearer token that requests must show; empty: DREL_SCORER_TOKEN; with neither everybody \
    may ask"""
    haproxy: bool = False
    """Ray's HAProxy ingress and throughput mode: more requests/s, but it listens on all addresses"""

    def __post_init__(self) -> None:
        if not 0 <= self.port < 65536:
            raise ValueError(f"port is {self.port}; it must be 0 to 65535")
        low, mark, high = self.replicas.partition(":")
        if not low.isdigit() or (mark and not high.isdigit()):
            raise ValueError(f"replicas is {self.replicas!r}; give N or MIN:MAX")
        if int(low) < 1 or (mark and int(high) < int(low)):
            raise ValueError(f"replicas is {self.replicas!r}; at least 1, and MIN not above MAX")
        for name in ("max_rows", "max_body_mib", "queue_rows"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 1 or more")
        if self.threads < 0 or self.poll_seconds <= 0:
            raise ValueError("threads must be 0 or more, poll_seconds above 0")


def main(arguments: list[str]) -> None:
    parser = OneLineParser(
        prog="python -m jobs.serve",
        description="Serve a model over HTTP until stopped (Ctrl-C or SIGTERM). A page to try it on is at /.",
    )
    parser.add_argument("--config", action="config", help="YAML file of any of these options")
    parser.add_class_arguments(ServeConfig)
    config = build(parser, parser.parse_args(arguments), ServeConfig)
    info = read_info(local_bundle(config.model))  # one clear line now, not in a replica's log
    from distributed.serving.auth import read_token
    from distributed.serving.proxy import choose_ingress

    token = bool(read_token(config.token_file))
    port = _free_port(config.host, config.port)
    choose_ingress(config.haproxy)
    _serve(config, port, info.version, info.num_tags, token)


def _serve(config: ServeConfig, port: int, version: str, tags: int, token: bool) -> None:
    from distributed.runtime.ray_session import local_ray, start_ray

    replicas = int(config.replicas.rpartition(":")[2])
    print("starting Ray and the scorer", flush=True)
    start_ray(replicas)
    import ray
    from ray import serve

    logging.getLogger("ray.serve").setLevel(logging.WARNING)

    from distributed.serving.app import build_app
    from distributed.serving.config import ServeArgs

    values = {field.name: getattr(config, field.name) for field in fields(config)}
    args = ServeArgs(**{name: values[name] for name in ServeArgs.model_fields if name in values})
    args.require_token = token  # the nodes of a cluster must have it too: no open scorer by mistake
    if args.token_file:
        args.token_file = Folder.of(args.token_file).address
    args.model = Folder.of(config.model).address
    args.threads = args.threads or max(1, (os.cpu_count() or 1) // replicas)
    args.feedback = Folder.of(args.feedback).address if args.feedback else ""
    stop = threading.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, lambda *_: stop.set())
    try:
        serve.start(http_options={"host": config.host, "port": port})
        serve.run(build_app(args), name="drel", route_prefix="/")
    except RuntimeError as error:
        raise InputError(f"the scorer did not start: {error}") from error
    shown = "127.0.0.1" if config.host in ("0.0.0.0", "::") else config.host
    print(
        f"model {version} with {tags} tags at http://{shown}:{port} (page at /, API at /docs)",
        flush=True,
    )
    if not token and (config.haproxy or config.host not in ("127.0.0.1", "::1", "localhost")):
        where = "any address" if config.haproxy else config.host
        print(
            f"warning: whoever reaches {where}, port {port}, may ask and give feedback; a token stops "
            "that (--token_file, or DREL_SCORER_TOKEN)",
            file=sys.stderr,
            flush=True,
        )
    stop.wait()
    print("stopping: requests that have begun are answered", flush=True)
    serve.delete("drel")
    if local_ray():
        ray.shutdown()


def _free_port(host: str, port: int) -> int:
    """The port, or a free one for 0. Serve shares a port that is taken: two scorers would answer in turn.

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


if __name__ == "__main__":
    run_job(main)
    sys.exit(0)
