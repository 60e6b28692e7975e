"""Real data sets: found through TEMPER_REAL_DATA, never copied into the project."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real_data():
    folder = os.environ.get("TEMPER_REAL_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("TEMPER_REAL_DATA does not name the folder of the real data sets")
    return Path(folder)
