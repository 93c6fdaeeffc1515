"""Fixtures that every folder of tests may use."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# How long an example takes says how busy the machine is, and nothing of what is tested.
settings.register_profile("any machine", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


@pytest.fixture
def store_path(tmp_path: Path) -> Path:
    """Where a test's store lies; nothing is there yet."""
    return tmp_path / "espalier.db"


@pytest.fixture(autouse=True)
def _nothing_of_the_developer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a store of whoever runs the tests nor the width of a terminal, which pytest's workers are told."""
    monkeypatch.delenv("ESPALIER_STORE", raising=False)
    monkeypatch.delenv("COLUMNS", raising=False)
