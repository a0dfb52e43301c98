"""The private names of Ray that this project reads (Serve's proxy aside), all in this module.

Ray may move or rename them in any release. Each is therefore looked up when it is asked for, and what
cannot be found is not known (None): a run then goes on with a less exact message, rather than not at all.
"""

from __future__ import annotations

from collections.abc import Mapping


def autoscaler_limit() -> Mapping[str, float] | None:
    """Sums of resources that the cluster can grow to, where its configuration says so.

    Ray Train's own check before a start reads the same; Ray has no public name for it.
    """
    try:
        from ray._private.state import state

        return state.get_max_resources_from_cluster_config() or None
    except Exception:  # another Ray may raise anything here
        return None


def autoscaler_status() -> bytes | None:
    """What the autoscaler reports of itself, as JSON; None without a report.

    ``ray status`` reads the same. The second version of the autoscaler writes no such report, and its own
    status (``ray.autoscaler.v2.sdk``, private too) names nodes but not the node types that it can start.
    """
    try:
        from ray._private.ray_constants import DEBUG_AUTOSCALING_STATUS
        from ray.experimental.internal_kv import _internal_kv_get

        status: bytes | None = _internal_kv_get(DEBUG_AUTOSCALING_STATUS)
        return status
    except Exception:  # another Ray may raise anything here
        return None
