"""A folder with tiny models and a cache of its own."""

import pytest

from tests.assess.builders import write_models


@pytest.fixture
def folder(tmp_path, make_llama, monkeypatch):
    monkeypatch.setenv("TEMPER_CACHE", str(tmp_path / "cache"))
    write_models(tmp_path, make_llama)
    return tmp_path
