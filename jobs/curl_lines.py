"""What one can type to a scorer that has just begun: ``jobs.serve`` prints it."""

from __future__ import annotations

from pathlib import Path

from distributed.data.replay_buffer import RESERVOIR
from distributed.serving.auth import VARIABLE
from distributed.training.config import PICTURE_METHODS
from drel_core.bundle.info import BundleInfo


def curl_lines(address: str, bundle: Path, info: BundleInfo, has_token: bool) -> list[str]:
    """A title, and three lines for a shell: a row is annotated, the scorer's health, the page.

    The row comes through a pipe, since D numbers are too many to paste: one of those that the model keeps,
    else zeros. A model of pictures takes a file.

    Args:
        address: ``http://HOST:PORT``.
        bundle: the folder of the model.
        has_token: requests must show the token, which the shell finds in DREL_SCORER_TOKEN.
    """
    token = f' -H "Authorization: Bearer ${VARIABLE}"' if has_token else ""
    if info.method in PICTURE_METHODS:
        body = """printf '{"images": ["%s"]}' "$(base64 < PICTURE.jpg | tr -d '\\n')\""""
    elif (bundle / RESERVOIR).is_file():
        found = r"""sed 's/.*"features": *\(\[.*\]\)}\]}.*/{"features": [\1]}/'"""
        body = f"curl -s{token} '{address}/v1/examples?limit=1' | {found}"
    else:
        body = f"""printf '{{"features": [[%s]]}}' "$(yes 0 | head -n {info.image_dim} | paste -sd, -)\""""
    kind = "-H 'Content-Type: application/json'"
    return [
        f"try it, with the token in {VARIABLE}:" if has_token else "try it:",
        f"  {body} | curl -s{token} {kind} --data-binary @- {address}/v1/annotate",
        f"  curl -s {address}/v1/health/ready",
        f"  curl -s {address}/",
    ]
