"""Ray as the pods of ``cluster/kuberay`` run it: real nodes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster.rules import CLUSTER
from tests.conftest import ROOT

TOKEN = "a-token-of-this-test-0123456789abcdef"

# Run by a shell that is root in mount, process and network namespaces of its own: what a pod's
# securityContext asks of the container runtime. /tmp and /dev/shm are emptyDirs there.
SANDBOX = """
set -e
ip link set lo up
mount --make-rprivate /
{reach}
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs -o mode=1777 tmpfs /tmp
mount -o remount,bind,ro /
cd {root}
exec setpriv --reuid 1000 --regid 1000 --clear-groups --inh-caps=-all --bounding-set=-all --no-new-privs \\
  env -i HOME=/nonexistent PATH={path}:/usr/bin:/bin LANG=C.UTF-8 PYTHONDONTWRITEBYTECODE=1 \\
  RAY_AUTH_MODE=token RAY_AUTH_TOKEN={token} RAY_ADDRESS=127.0.0.1:6399 bash -c "$INSIDE"
"""

INSIDE = """
echo "user $(id -u), capabilities $(grep CapEff /proc/self/status | cut -f2)"
touch /etc/x 2>/dev/null && echo "wrote to the root file system"
touch ./x 2>/dev/null && echo "wrote beside the code"
ray start --head --num-cpus=0 --port=6399 --disable-usage-stats --block > /tmp/head.log 2>&1 &
until ray health-check --address 127.0.0.1:6399 2>/dev/null; do sleep 1; done
ray start --address=127.0.0.1:6399 --num-cpus=3 --block > /tmp/worker.log 2>&1 &
STORE=examples/openclipart
python -m jobs.train --data.train $STORE/train.parquet --data.test $STORE/test.parquet \\
  --out /tmp/out --workers 2 --epochs 1 2>&1
echo "train ended with $?"
test -s /tmp/out/metrics.json && test -s /tmp/out/model/config.json && echo "there is a model"
export RAY_AUTH_TOKEN=another-token-0123456789abcdefghij
python -c 'import ray; ray.init(address="auto")' > /tmp/wrong.log 2>&1 && echo "another token was let in"
grep -q -i authentic /tmp/wrong.log && echo "another token was refused"
"""


def reachable(path: Path) -> str:
    """Shell that shows ``path`` to another user where a folder above it is closed to others."""
    closed = [above for above in reversed(path.parents) if not above.stat().st_mode & 0o001]
    if not closed:
        return ""
    return (
        f"mount --bind {path} /mnt\nmount -t tmpfs -o mode=755 tmpfs {closed[0]}\n"
        f"mkdir -p {path}\nmount --move /mnt {path}"
    )


@pytest.mark.cluster
def test_ray_trains_without_rights_on_a_read_only_root_with_a_token() -> None:
    """User 1000, no capability, only /tmp and /dev/shm to write to, a head without work."""
    tried = subprocess.run(
        ["unshare", "-m", "-n", "--pid", "--fork", "--mount-proc", "ip", "link", "set", "lo", "up"],
        capture_output=True, check=False,
    )  # fmt: skip
    if tried.returncode != 0 or shutil.which("setpriv") is None or os.getuid() != 0:
        pytest.skip("namespaces cannot be made here (needs root, unshare, ip and setpriv)")
    sandbox = SANDBOX.format(
        reach=reachable(Path(sys.base_prefix)),
        root=ROOT,
        path=Path(sys.executable).parent,
        token=TOKEN,
    )
    done = subprocess.run(
        ["unshare", "-m", "-n", "--pid", "--fork", "--kill-child", "--mount-proc", "bash", "-c", sandbox],
        env={"PATH": os.environ["PATH"], "INSIDE": INSIDE},
        capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    said = done.stdout
    assert "user 1000, capabilities 0000000000000000" in said, said + done.stderr
    assert "wrote" not in said
    assert "train ended with 0" in said and "there is a model" in said, said[-4000:]
    assert "another token was refused" in said and "was let in" not in said, said[-2000:]


def test_drain_says_how_it_is_used() -> None:
    done = subprocess.run([str(CLUSTER / "drain.sh")], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.startswith("usage:")
