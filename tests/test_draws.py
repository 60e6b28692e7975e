import numpy as np

from temper.draws import generator, key_of, torch_generator


def test_draws_depend_on_every_part_of_the_key():
    keys = {key_of(0), key_of(1), key_of(0, "a"), key_of(0, "a", 1), key_of(0, "a", "1"), key_of(0, "ab"), key_of(0, "a", "b")}
    assert len(keys) == 7


def test_the_same_key_gives_the_same_draws():
    assert np.array_equal(generator(3, "x", 1).random(4), generator(3, "x", 1).random(4))


def test_draws_leave_global_state_alone():
    import torch

    before = torch.random.get_rng_state()
    torch_generator(0, "x")
    assert torch.equal(torch.random.get_rng_state(), before)
