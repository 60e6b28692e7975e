"""What a term is given, by one plain full forward pass, so that tests of a loss need no engine."""

import torch

from temper.train.losses.term import Batch, Cache, Outputs, positions_BL, token_nll_BL
from tests.train.batches import FORGET, rows

ANSWERS = [[1, 5, 17, 2], [1, 8, 18, 19, 20, 2], [1, 10, 17, 2], [1, 14, 18, 19, 2]]
"""Other answers to the prompts of FORGET."""

KINDS = ("labelled", "nonpad", "all")


def batch_of(sequences=FORGET, alternatives=None, pad_to=None, prompt=2):
    """Return rows as a batch, with the alternatives beside them if there are any."""
    beside = None if alternatives is None else Batch(**rows(alternatives, prompt, pad_to))
    return Batch(**rows(sequences, prompt, pad_to), alternative=beside)


def run(model, batch, layers=()):
    """Return everything a term may read of the model as it is."""
    out = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, output_hidden_states=True)
    log_probs = {kind: torch.log_softmax(out.logits[positions_BL(batch, kind)], dim=-1) for kind in KINDS}
    return Outputs(
        token_nll=token_nll_BL(batch, positions_BL(batch, "all"), log_probs["all"]),
        log_probs=log_probs,
        logits={kind: out.logits[positions_BL(batch, kind)] for kind in KINDS},
        hidden={layer: out.hidden_states[layer + 1] for layer in layers},
        alternative=None if batch.alternative is None else run(model, batch.alternative, layers),
    )


@torch.no_grad()
def before(model, batch, layers=()):
    """Return what a term may read of the weights from before."""
    out = run(model, batch, layers)
    beside = None if batch.alternative is None else before(model, batch.alternative, layers)
    return Cache(out.token_nll.sum(dim=1), out.log_probs, out.logits, out.hidden, beside)


def mean_of(term, model, frozen, batch, layers=()):
    """Return the term over these rows, divided by its units: what the engine makes of one micro-batch."""
    return term(run(model, batch, layers), batch, before(frozen, batch, layers)).total / max(term.count(batch), 1)


def gradient_of(loss, model):
    """Return the gradient over all parameters as one vector."""
    model.zero_grad()
    loss.backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()])


def moved(model, size=0.02, seed=7):
    """Return the model after a random step of its parameters."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(size * torch.randn(parameter.shape, generator=draw, dtype=parameter.dtype))
    return model


def padding_changes(term, model, frozen, alternatives=None, layers=()):
    """Return by how much five cells of padding change the term."""
    narrow, wide = batch_of(alternatives=alternatives), batch_of(alternatives=alternatives, pad_to=11)
    return abs(mean_of(term, model, frozen, narrow, layers) - mean_of(term, model, frozen, wide, layers)).item()


def gradient_at(function, at):
    """Return the gradient of a scalar function at a tensor."""
    at = at.clone().requires_grad_()
    function(at).backward()
    return at.grad


def normal(*shape, seed=0):
    """Return normal numbers in float64."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def random_log_probs(*shape, seed=0):
    """Return random distributions over the last axis."""
    return torch.log_softmax(normal(*shape, seed=seed), dim=-1)
