import pytest

from tests.train.losses.passes import moved


@pytest.fixture
def frozen(make_llama):
    """The model from before: two blocks, float64."""
    return make_llama(layers=2, width=32, vocab=300).double()


@pytest.fixture
def model(make_llama):
    """The same weights, to be trained."""
    return make_llama(layers=2, width=32, vocab=300).double()


@pytest.fixture
def trained(model):
    """The model after a step."""
    return moved(model)
