import pytest
import torch

from temper.models.original import OriginalWeights
from temper.models.places import place_of


def copies(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def same(one, two):
    return all(torch.equal(one[name], two[name]) for name in one)


def places_in(model, share=0.1):
    draw = torch.Generator().manual_seed(0)
    masks = {name: torch.rand(p.shape, generator=draw) < share for name, p in model.named_parameters() if p.dim() == 2}
    return masks, {name: place_of(mask, model.get_parameter(name)) for name, mask in masks.items()}


def move(model, masks):
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter[masks.get(name, ...)] += 1


def test_of_single_weights_that_train_those_alone_are_kept(make_llama):
    model = make_llama()
    masks, places = places_in(model)
    original = OriginalWeights(model, places=places)
    vectors = sum(p.numel() for p in model.parameters() if p.dim() == 1)
    assert original.stored_bytes == 4 * (vectors + sum(int(mask.sum()) for mask in masks.values()))
    before = copies(model)
    move(model, masks)
    after = copies(model)
    with pytest.raises(ZeroDivisionError), original.active():
        assert same(copies(model), before)
        raise ZeroDivisionError
    assert same(copies(model), after) and not same(after, before)


def test_a_pass_that_waits_for_its_backward_is_not_disturbed(make_llama):
    """The frozen branch runs between the forward and the backward pass of the trained one."""
    model = make_llama()
    masks, places = places_in(model)
    original = OriginalWeights(model, places=places)
    move(model, masks)
    ids = torch.arange(8)[None]
    found = []
    for swapped in (False, True):
        loss = model(input_ids=ids, labels=ids).loss
        if swapped:
            with original.active():
                model(input_ids=ids)
        loss.backward()
        found.append({name: p.grad for name, p in model.named_parameters()})
        model.zero_grad()
    assert same(*found)


def test_nothing_is_kept_where_something_else_has_the_original_weights(make_llama):
    import contextlib

    seen = []

    @contextlib.contextmanager
    def elsewhere():
        seen.append("in")
        yield
        seen.append("out")

    original = OriginalWeights(make_llama())
    original.keep_nothing(elsewhere)
    with original.active():
        assert seen == ["in"] and original.stored_bytes == 0 and not torch.is_grad_enabled()
    assert seen == ["in", "out"]
