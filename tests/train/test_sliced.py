import copy

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode
from transformers.pytorch_utils import Conv1D

from temper.train.masked import masked_adamw

ROWS, COLUMNS = [True, False, False, True, False, False], [True, False, False, False, False, True, False, False]


def layer_of(kind, bias=True):
    """Return a layer from 8 inputs to 6 outputs."""
    torch.manual_seed(0)
    return Conv1D(6, 8) if kind is Conv1D else nn.Linear(8, 6, bias=bias)


def mask_of(layer, what):
    """Return a mask of some of the layer's outputs or inputs."""
    outputs, inputs = torch.tensor(ROWS), torch.tensor(COLUMNS)
    mask = outputs[:, None].expand(6, 8) if what == "outputs" else inputs[None, :].expand(6, 8)
    return (mask.T if isinstance(layer, Conv1D) else mask).contiguous()


def inputs(seed=1, requires_grad=False):
    return torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(seed)).requires_grad_(requires_grad)


def attached(layer, mask):
    optimizer = masked_adamw(list(layer.named_parameters()), {"weight": mask}, lr=0.1)
    optimizer.attach(layer)
    return optimizer


@pytest.mark.parametrize("what", ["outputs", "inputs"])
@pytest.mark.parametrize("kind", [nn.Linear, Conv1D])
def test_a_sliced_layer_has_the_outputs_and_gradients_of_a_whole_one(kind, what):
    layer = layer_of(kind)
    plain, mask = copy.deepcopy(layer), mask_of(layer, what)
    optimizer = attached(layer, mask)
    ours, theirs = inputs(requires_grad=True), inputs(requires_grad=True)
    for scale in (1.0, 2.0):  # two passes add up
        (layer(ours).square().sum() * scale).backward()
        (plain(theirs).square().sum() * scale).backward()
    assert torch.equal(layer(ours), plain(theirs)) and layer.weight.grad is None
    torch.testing.assert_close(optimizer.packed_gradients()["weight"].flatten(), plain.weight.grad[mask], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(layer.bias.grad, plain.bias.grad)
    torch.testing.assert_close(ours.grad, theirs.grad)


@pytest.mark.parametrize("what", ["outputs", "inputs"])
def test_the_backward_pass_multiplies_what_is_selected_alone(what):
    def multiplications(layer):
        x = inputs(requires_grad=True)
        with FlopCounterMode(display=False) as counter:
            layer(x).sum().backward()
        return counter.get_total_flops()

    layer = layer_of(nn.Linear)
    whole = multiplications(layer)
    attached(layer, mask_of(layer, what))
    share = sum(ROWS) / 6 if what == "outputs" else sum(COLUMNS) / 8
    assert multiplications(layer) == pytest.approx(whole * (2 + share) / 3)


def test_a_sliced_layer_under_recomputed_activations_adds_its_gradient_once():
    layer = layer_of(nn.Linear, bias=False)
    plain, mask = copy.deepcopy(layer), mask_of(layer, "outputs")
    optimizer = attached(layer, mask)
    checkpoint(layer, inputs(requires_grad=True), use_reentrant=False).square().sum().backward()
    plain(inputs()).square().sum().backward()
    torch.testing.assert_close(optimizer.packed_gradients()["weight"].flatten(), plain.weight.grad[mask])


def test_a_weight_that_is_read_elsewhere_too_gets_both_gradients():
    layer = layer_of(nn.Linear, bias=False)
    plain, mask = copy.deepcopy(layer), mask_of(layer, "outputs")
    optimizer = attached(layer, mask)
    for one in (layer, plain):
        (one(inputs()).sum() + nn.functional.linear(inputs(2), one.weight).square().sum()).backward()
    torch.testing.assert_close(optimizer.packed_gradients()["weight"].flatten(), plain.weight.grad[mask])


def test_detached_the_layer_is_its_own_again():
    layer = layer_of(nn.Linear)
    optimizer = attached(layer, mask_of(layer, "outputs"))
    assert "forward" in layer.__dict__
    optimizer.detach()
    assert "forward" not in layer.__dict__
    layer(inputs()).sum().backward()
    assert layer.weight.grad is not None


def test_without_gradients_or_under_autocast_the_layer_does_what_it_always_does():
    layer = layer_of(nn.Linear)
    plain = copy.deepcopy(layer)
    optimizer = attached(layer, mask_of(layer, "outputs"))
    with torch.no_grad():
        assert torch.equal(layer(inputs()), plain(inputs()))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = layer(inputs())
    out.float().sum().backward()
    assert out.dtype == torch.bfloat16 and "weight" in optimizer.packed_gradients() and layer.weight.grad is None
