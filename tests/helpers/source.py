"""Python source as the tests of architecture and security read it."""

from __future__ import annotations

import ast


def dotted(node: ast.expr) -> str:
    """``torch.distributed.barrier`` of an attribute chain on a plain name, else empty."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        owner = dotted(node.value)
        return f"{owner}.{node.attr}" if owner else ""
    return ""
