"""Fixtures of the tests of jobs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.helpers.guarded_server import guarded_server
from tests.helpers.server import Server


@pytest.fixture(scope="session")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A scorer that asks for a token. It serves v1 between tests."""
    with guarded_server(tmp_path_factory.mktemp("guarded")) as running:
        yield running
