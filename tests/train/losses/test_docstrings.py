import doctest
import importlib
import pkgutil

import pytest

import temper.train.losses

NAMES = [module.name for module in pkgutil.iter_modules(temper.train.losses.__path__)]


@pytest.mark.parametrize("name", NAMES)
def test_the_numbers_worked_by_hand_hold(name):
    result = doctest.testmod(importlib.import_module(f"temper.train.losses.{name}"))
    assert result.failed == 0 and (result.attempted > 0 or name == "term")
