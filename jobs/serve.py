"""The HTTP scorer: python -m jobs.serve --model DIR [--port 8000] [--replicas N]"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from jsonargparse import Namespace
from pydantic import ValidationError

from distributed.bundles.locate import local_bundle
from distributed.serving.config import ScorerConfig
from distributed.storage.folder import Folder
from drel_core.bundle.format import read_info
from drel_core.bundle.info import BundleInfo
from drel_core.decision.decider import DECISION
from drel_core.errors import InputError
from jobs.cli import NOTHING, OneLineParser, build, run_job, say

LOOPBACK = ("127.0.0.1", "::1", "localhost")
_STOP_SECONDS = 8.0  # for requests that have begun; Ray needs a second after it


@dataclass(kw_only=True)
class HttpConfig:
    """Where to listen."""

    port: int = 8000
    """TCP port; 0 takes a free one"""
    host: str = "127.0.0.1"
    """address to listen on; 0.0.0.0 for all"""
    ingress: Literal["haproxy", "ray"] | None = None
    """what takes the requests: haproxy (the default where it runs: Linux on x86_64 and arm64), or ray, \
    Serve's own proxy, which answers fewer. With RAY_ADDRESS the nodes' environment says which"""

    def __post_init__(self) -> None:
        if not 0 <= self.port < 65536:
            raise ValueError(f"port is {self.port}; it must be 0 to 65535")


def main(arguments: list[str]) -> None:
    parser = OneLineParser(
        prog="python -m jobs.serve",
        description="Serve a model over HTTP until stopped (Ctrl-C or SIGTERM). A page to try it on is at /.",
    )
    parser.add_argument("--config", action="config", help="YAML file of any of these options")
    parser.add_dry_run()
    parser.add_class_arguments(ScorerConfig, skip={"require_token"})
    parser.add_class_arguments(HttpConfig)
    namespace = parser.parse_args(arguments)
    http = build(parser, namespace, HttpConfig)
    config = _scorer_config(namespace)
    bundle = local_bundle(config.model)
    info = read_info(bundle)  # one clear line now, not in a replica's log
    if config.decide != "top" and not (bundle / DECISION).is_file():
        raise InputError(
            f"{config.model}: its scores are no probabilities, so that it can only decide by top; train it "
            "with --data.validation 0.1"
        )
    announce_trial(config, info)
    if config.pictures:
        from distributed.serving.picture_folder import PictureFolder

        PictureFolder(config.pictures)
    from distributed.serving.auth import read_token
    from distributed.serving.ingress import free_port

    has_token = bool(read_token(config.token_file))
    http.port = free_port(http.host, http.port)
    if namespace.dry_run:
        from jobs import dry_run  # its imports take longer than --help

        who = "whoever has the token" if has_token else "everybody who reaches it"
        address = f"{http.host}, port {http.port}, for {who}"
        dry_run.scorer(bundle, info, config.max_replicas, address)
        say(NOTHING)
        return
    _serve(_for_replicas(config, has_token), http, info, bundle)


def _scorer_config(namespace: Namespace) -> ScorerConfig:
    """Raises:
    InputError: a value is out of its range.
    """
    given = {name: namespace[name] for name in ScorerConfig.model_fields if name in namespace}
    try:
        return ScorerConfig(**given)
    except ValidationError as error:
        message = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise InputError(f"{message} (see --help)") from None


def _for_replicas(config: ScorerConfig, has_token: bool) -> ScorerConfig:
    """The same settings as replicas on other nodes need them: paths in full, defaults worked out."""
    return config.model_copy(
        update={
            "model": Folder.of(config.model).address,
            "canary": Folder.of(config.canary).address if config.canary else "",
            "shadow": Folder.of(config.shadow).address if config.shadow else "",
            "feedback": Folder.of(config.feedback).address if config.feedback else "",
            "pictures": Folder.of(config.pictures).address if config.pictures else "",
            "token_file": Folder.of(config.token_file).address if config.token_file else "",
            "require_token": has_token,  # a node without the token would answer everybody
            "threads": config.threads or max(1, (os.cpu_count() or 1) // config.max_replicas),
        }
    )


def _serve(config: ScorerConfig, http: HttpConfig, info: BundleInfo, bundle: Path) -> None:
    """Run the scorer until a signal asks for its end."""
    from distributed.runtime.progress import saying
    from distributed.runtime.ray_session import local_ray, start_ray
    from distributed.serving.ingress import chosen_ingress

    with chosen_ingress(http.ingress, http.host) as replica_host:
        say("starting Ray and the scorer")
        with saying(say, "starting Ray"):
            start_ray(config.max_replicas)
        import ray
        from ray import serve

        logging.getLogger("ray.serve").setLevel(logging.WARNING)

        from distributed.serving.app import build_app

        stop = threading.Event()
        for name in (signal.SIGINT, signal.SIGTERM):
            signal.signal(name, lambda *_: stop.set())
        try:
            serve.start(http_options={"host": replica_host, "port": http.port})
            with saying(say, "starting the scorer"):
                serve.run(build_app(config), name="drel", route_prefix="/")
        except (RuntimeError, ray.exceptions.RayError) as error:
            why = " ".join(str(error).split())[:300]
            raise InputError(f"the scorer did not start: {why}") from error
        _announce(http, config, info, bundle)
        stop.wait()
        print("stopping: requests that have begun are answered, for 8 s at most", flush=True)
        ended = threading.Thread(target=serve.delete, args=("drel",), daemon=True)
        ended.start()
        ended.join(_STOP_SECONDS)
        if ended.is_alive():
            print("stopped with requests that were not answered", file=sys.stderr, flush=True)
        if local_ray():
            ray.shutdown()


def _announce(http: HttpConfig, config: ScorerConfig, info: BundleInfo, bundle: Path) -> None:
    has_token = config.require_token
    host = "127.0.0.1" if http.host in ("0.0.0.0", "::") else http.host
    address = f"http://[{host}]:{http.port}" if ":" in host else f"http://{host}:{http.port}"
    print(
        f"model {info.version} with {info.num_tags} tags at {address} (page at /, API at /docs)",
        flush=True,
    )
    from jobs.curl_lines import curl_lines  # its imports take longer than --help

    print(*curl_lines(address, bundle, info, has_token, config.backbone), sep="\n", flush=True)
    sees = ", see pictures of training" if config.pictures else ""
    if not has_token and http.host not in LOOPBACK:
        print(
            f"warning: whoever reaches {http.host}, port {http.port}, may ask{sees} and give feedback; a "
            "token stops that (--token_file, or DREL_SCORER_TOKEN)",
            file=sys.stderr,
            flush=True,
        )


def announce_trial(config: ScorerConfig, live: BundleInfo) -> None:
    """One line on the second model. That it cannot be read is no reason not to serve the first."""
    trial = config.trial
    if trial is None:
        return
    try:
        version = read_info(local_bundle(trial.path)).version
    except InputError as error:
        reason = f"{error}; {live.version} answers everything, and it is looked for again"
        print(f"warning: {trial.mode} refused: {reason}", file=sys.stderr, flush=True)
        return
    if version == live.version:
        done = f"{version} is the version that answers"
    elif trial.mode == "canary":
        done = f"{version} answers {trial.share:.2%} of the requests"
    else:
        done = f"{version} is compared with what {live.version} answers"
    print(f"{trial.mode}: {done} (GET /v1/trial)", flush=True)


if __name__ == "__main__":
    run_job(main, goes_on=False)
    sys.exit(0)
