"""What all tests share: where the real data lies, when it is there."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest

# Tests run two at a time on two cores: libraries that start a thread per core would fight.
os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real slides and tiles beside the project; the test is skipped where it is absent."""
    data = SHARED / "data"
    if not data.is_dir():
        pytest.skip("the folder ../shared/data with real slides is not here")
    return data


@pytest.fixture(scope="session")
def shared_tools() -> Path:
    """The folder with the slide composer; the test is skipped where it is absent."""
    tools = SHARED / "tools"
    if not tools.is_dir():
        pytest.skip("the folder ../shared/tools is not here")
    return tools


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with the most slow tests first: at the end no worker waits for another's long file."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])
