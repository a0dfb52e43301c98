"""What one can type to a scorer that has just begun: ``jobs.serve`` prints it."""

from __future__ import annotations

from pathlib import Path

from distributed.data.replay_buffer import RESERVOIR
from distributed.serving.auth import VARIABLE
from distributed.serving.picture_reader import takes_pictures
from distributed.training.config import PICTURE_METHODS
from drel_core.bundle.info import BundleInfo


def curl_lines(
    address: str, bundle: Path, info: BundleInfo, has_token: bool, backbone: str = ""
) -> list[str]:
    """A title, and lines for a shell: a picture is annotated where the scorer takes any, a row of features
    where it takes those, the scorer's health, the page.

    The row comes through a pipe, since D numbers are too many to paste: one of those that the model keeps,
    else zeros.

    Args:
        address: ``http://HOST:PORT``.
        bundle: the folder of the model.
        has_token: requests must show the token, which the shell finds in DREL_SCORER_TOKEN.
        backbone: the scorer's network for pictures where the model names none.
    """
    token = f' -H "Authorization: Bearer ${VARIABLE}"' if has_token else ""
    lines = [f"try it, with the token in {VARIABLE}:" if has_token else "try it:"]
    if takes_pictures(info, backbone):
        kind = "-H 'Content-Type: image/jpeg'"
        lines.append(f"  curl -s{token} {kind} --data-binary @PICTURE.jpg {address}/v1/annotate")
    if info.method not in PICTURE_METHODS:
        kind = "-H 'Content-Type: application/json'"
        row = _row(address, bundle, info, token)
        lines.append(f"  {row} | curl -s{token} {kind} --data-binary @- {address}/v1/annotate")
    return [*lines, f"  curl -s {address}/v1/health/ready", f"  curl -s {address}/"]


def _row(address: str, bundle: Path, info: BundleInfo, token: str) -> str:
    if (bundle / RESERVOIR).is_file():
        found = r"""sed 's/.*"features": *\(\[.*\]\)}\]}.*/{"features": [\1]}/'"""
        return f"curl -s{token} '{address}/v1/examples?limit=1' | {found}"
    return (
        f"""printf '{{"features": [[%s]]}}' "$(yes 0 | head -n {info.image_dim} | paste -sd, -)\""""
    )
