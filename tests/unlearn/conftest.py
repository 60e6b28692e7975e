"""Keeps runs of a blink a blink."""

import gc

import pytest


@pytest.fixture(scope="session", autouse=True)
def _few_objects_to_collect():
    """Take what the libraries made out of the collector's sight: the trainer collects twice a run, half a second each."""
    import peft
    import transformers.trainer  # noqa: F401

    assert peft.LoraConfig
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()
