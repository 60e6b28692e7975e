"""The objective on the engine: against a plain loop with two whole models, by finite differences, and by what its paper implies."""

import copy

import pytest
import torch
from torch.nn import functional as F

from temper.draws import torch_generator
from temper.models.lora import SelectLora
from temper.models.selection import SelectLayers
from temper.models.trunk import run_trunk
from temper.train.engine import Engine, count_units
from temper.train.masked import masked_adamw
from temper.train.plan import plan_of
from temper.unlearn.context import sketched_context
from temper.unlearn.r2mu import R2MU
from temper.unlearn.rmu import RMU, control_direction
from temper.unlearn.rmu_rtp import RMURTP
from tests.train.batches import rows

LAYER, TRAINED = 3, [1, 2, 3]
NAMES = [f"model.layers.{layer}.mlp.down_proj.weight" for layer in TRAINED]
ROLES = {"forget": 6, "retain": 7, "trace": 8, "reasoning": 9}


def batch(number=0, widths=ROLES, count=4, pad_to=None):
    """Return rows of every role; their lengths differ within a role."""
    found = {}
    for place, (role, width) in enumerate(widths.items()):
        draw = torch_generator(number, "rows", place)
        sequences = [torch.randint(3, 64, (width - row % 3,), generator=draw).tolist() for row in range(count)]
        found[role] = rows(sequences, pad_to=None if pad_to is None else width + pad_to)
    return found


def selected(model):
    return SelectLayers(layers=TRAINED, module="mlp.down_proj").apply(model)


def terms_of(method, topics=("default",), width=32):
    """Return the terms; in a role of four rows, row n is about topic n mod k."""
    context = sketched_context(width=width, topics_of=lambda role: [topics[row % len(topics)] for row in range(4)])
    return method.terms(context), context


def weights_of(model):
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def train(model, method, batches, rate=7.5e-5, decay=0.01, topics=("default",), width=32):
    """Train on batches by the engine and return the optimiser and the values of the terms at each step, by role and label."""
    terms, _ = terms_of(method, topics, width)
    engine = Engine(model, terms)
    optimizer = masked_adamw([(n, p) for n, p in model.named_parameters() if p.requires_grad], lr=rate, weight_decay=decay)
    values = []
    for step in batches:
        optimizer.zero_grad()
        result = engine(step, count_units(terms, step), range(len(terms)))
        result["loss"].backward()
        optimizer.step()
        values.append({terms[index].role: float(value) for index, value in result["values"].items()})
    return optimizer, values


# ---- a plain loop ----


def hidden(model, tensors):
    """Return the states behind block ℓ from a whole pass."""
    out = model(input_ids=tensors["input_ids"], attention_mask=tensors["attention_mask"], output_hidden_states=True)
    return out.hidden_states[LAYER + 1]


def plain_training(model, batches, controls, weights=(1.4, 1.0, 1.0), rate=7.5e-5):
    """Train as the released script does: two whole models, whole passes, all positions, AdamW with weight decay, no clipping.

    Args:
        model: Trained in place.
        batches: Role to tensors, of each step.
        controls: The vector of each step, c·u.
        weights: γ, α, β.
        rate: The learning rate.
    """
    frozen = copy.deepcopy(model)
    gamma, alpha, beta = weights
    optimizer = torch.optim.AdamW([dict(model.named_parameters())[name] for name in NAMES], lr=rate, weight_decay=0.01)
    losses = []
    for step, control in zip(batches, controls, strict=True):
        steered, traced = (hidden(model, step[role]) for role in ("forget", "trace"))
        loss = F.mse_loss(steered, control.expand_as(steered)) + alpha * F.mse_loss(traced, control.expand_as(traced))
        for role, weight in (("retain", gamma), ("reasoning", beta)):
            with torch.no_grad():
                before = hidden(frozen, step[role])
            loss = loss + weight * F.mse_loss(hidden(model, step[role]), before)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_the_engine_trains_like_two_whole_models(make_llama):
    ours, plain = make_llama(layers=6), make_llama(layers=6)
    start = weights_of(plain)
    batches = [batch(number) for number in range(5)]
    control = 6.5 * control_direction(32, 0, "default", "uniform")
    losses = plain_training(plain, batches, [control] * 5)
    method = R2MU(preset="reference", layer=LAYER)
    _, values = train(selected(ours), method, batches)
    totals = [v["forget"] + v["trace"] + 1.4 * v["retain"] + v["reasoning"] for v in values]
    assert totals == pytest.approx(losses, rel=1e-6)
    expected = weights_of(plain)
    assert max((value - expected[name]).abs().max().item() for name, value in weights_of(ours).items()) <= 1e-6
    assert all((expected[name] - start[name]).abs().max() > 1e-4 for name in NAMES)


@pytest.mark.parametrize("counted", ["all", "nonpad"])
def test_the_preset_counts_padding_and_the_default_does_not(make_llama, counted):
    """The plain loop counts every position, so it agrees with one of the two only."""
    step = batch()
    method = R2MU(preset="reference", layer=LAYER) if counted == "all" else R2MU(layer=LAYER, steering_coefficient=6.5)
    loss = plain_training(make_llama(layers=6), [step], [6.5 * control_direction(32, 0, "default", "uniform")])[0]
    _, (values,) = train(selected(make_llama(layers=6)), method, [step])
    ours = values["forget"] + values["trace"]
    assert (ours == pytest.approx(loss, rel=1e-6)) == (counted == "all")


def test_the_preset_gives_way_to_what_the_recipe_says():
    method = R2MU(preset="reference", layer=2, mask="nonpad")
    assert (method.layer, method.mask, method.trace_mask, method.topic_order) == (2, "nonpad", "all", "alternate")
    assert (method.retain_weight, method.trace_weight, method.reasoning_weight) == (1.4, 1.0, 1.0)
    assert method.steering_coefficient == 6.5 and R2MU().steering_coefficient == "auto:2"


# ---- what changes ----


def test_only_the_selected_tensors_change_and_nothing_else_has_a_gradient(make_llama):
    model = selected(make_llama(layers=6))
    before = weights_of(model)
    optimizer, _ = train(model, R2MU(layer=LAYER, steering_coefficient=6.5), [batch(n) for n in range(3)])
    assert [name for name, value in weights_of(model).items() if not torch.equal(value, before[name])] == NAMES
    assert [name for name, parameter in model.named_parameters() if parameter.grad is not None] == NAMES
    assert len(optimizer.state) == len(TRAINED)


# ---- the gradient ----


def tiny_in_float64():
    """Return a model that computes in float64 all through; the norms of Llama are taken in float32."""
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    config = GPTNeoXConfig(
        vocab_size=64,
        hidden_size=8,
        intermediate_size=12,
        num_hidden_layers=5,
        num_attention_heads=2,
        initializer_range=0.3,
        hidden_dropout=0.0,
        attention_dropout=0.0,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return GPTNeoXForCausalLM(config).eval().double()


def test_the_gradient_of_each_term_and_of_the_sum_agrees_with_central_differences():
    model = SelectLayers(layers=TRAINED, module="down_proj").apply(tiny_in_float64())
    names = [name for name, p in model.named_parameters() if p.requires_grad and name.endswith("dense_4h_to_h.weight")]
    terms, _ = terms_of(R2MU(layer=LAYER, steering_coefficient=6.5, retain_weight=1.7, trace_weight=0.6), width=8)
    engine = Engine(model, terms)
    step, counts = batch(count=2), count_units(terms, batch(count=2))
    with torch.no_grad():
        for name in names:  # away from the start, where the anchors have no gradient
            parameter = dict(model.named_parameters())[name]
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch_generator(1, name), dtype=torch.float64))
    weight = dict(model.named_parameters())[names[1]]

    def gradient(active):
        model.zero_grad()
        engine(step, counts, active)["loss"].backward()
        return weight.grad.flatten().clone()

    own = torch.stack([*(gradient([index]) for index in range(len(terms))), gradient(range(len(terms)))])

    def losses():
        values = engine(step, counts, range(len(terms)))["values"]
        each = [terms[index].weight * float(value) for index, value in values.items()]
        return torch.tensor([*each, sum(each)], dtype=torch.float64)

    found, flat = torch.zeros_like(own), weight.data.view(-1)
    with torch.no_grad():
        for entry in range(len(flat)):
            sides = []
            for side in (1, -1):
                flat[entry] += side * 1e-5
                sides.append(losses())
                flat[entry] -= side * 1e-5
            found[:, entry] = (sides[0] - sides[1]) / 2e-5
    errors = (own - found).norm(dim=1) / found.norm(dim=1)
    assert len(terms) == 4 == len(found) - 1 and float(found.norm(dim=1).min()) > 1e-3 and float(errors.max()) <= 1e-6


# ---- the first step ----


@pytest.mark.parametrize("widths", [ROLES, {"forget": 5, "retain": 30, "trace": 12, "reasoning": 9}], ids=["merged", "apart"])
def test_at_the_start_the_anchors_are_zero_and_so_are_their_gradients(make_llama, widths):
    model = selected(make_llama(layers=6))
    terms, _ = terms_of(R2MU(layer=LAYER, steering_coefficient=6.5))
    step = batch(widths=widths)
    engine, counts = Engine(model, terms), count_units(terms, step)

    def gradients(active):
        model.zero_grad()
        result = engine(step, counts, active)
        result["loss"].backward()
        return result["values"], [dict(model.named_parameters())[name].grad.clone() for name in NAMES]

    anchors = [index for index, term in enumerate(terms) if term.label == "anchor"]
    assert sorted(terms[index].role for index in anchors) == ["reasoning", "retain"]
    values, held = gradients(anchors)
    assert [float(value) for value in values.values()] == [0.0, 0.0] and not any(bool(each.any()) for each in held)
    together = gradients(range(4))[1]
    steering = gradients([index for index in range(4) if index not in anchors])[1]
    for one, other in zip(together, steering, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
        assert one.abs().max() > 1e-4


# ---- limits ----


def test_without_traces_and_reasoning_it_is_rmu_bit_for_bit(make_llama):
    both = []
    for method in (
        R2MU(layer=LAYER, steering_coefficient=6.5, retain_weight=1.4, trace_weight=0.0, reasoning_weight=0.0),
        RMU(layer=LAYER, steering_coefficient=6.5, retain_weight=1.4),
    ):
        model = selected(make_llama(layers=6))
        train(model, method, [batch(number) for number in range(5)], rate=1e-3)
        both.append(weights_of(model))
    assert all(torch.equal(value, both[1][name]) for name, value in both[0].items())


def test_roles_of_weight_zero_are_not_read():
    assert R2MU().roles == ("forget", "retain", "trace", "reasoning") and R2MU().roles_unread == ()
    collapsing = R2MU(reasoning_weight=0.0)
    assert collapsing.roles == ("forget", "retain", "trace") and collapsing.roles_unread == ("reasoning",)
    assert {term.role for term in terms_of(collapsing)[0]} == {"forget", "retain", "trace"}


def test_a_large_retain_weight_holds_the_retain_states(make_llama):
    """All four terms act; only γ differs."""
    moved = {}
    step = batch()
    for weight in (1.4, 1.0e6):
        model = selected(make_llama(layers=6))
        before = hidden(model, step["retain"]).detach()
        method = R2MU(layer=LAYER, steering_coefficient=6.5, retain_weight=weight)
        train(model, method, [step] * 20, rate=1e-5, decay=0.0)
        there = step["retain"]["attention_mask"] == 1
        moved[weight] = float(((hidden(model, step["retain"]) - before)[there].abs().max() / before[there].abs().max()).detach())
    assert moved[1.0e6] <= 1e-3
    assert moved[1.4] > 3 * moved[1.0e6]


# ---- padding ----


@pytest.mark.parametrize("counted", ["nonpad", "all"])
def test_padding_changes_a_loss_only_where_it_is_counted(make_llama, counted):
    masks = {f"{name}mask": counted for name in ("", "trace_", "retain_", "reasoning_")}
    model = selected(make_llama(layers=6).double())
    terms, _ = terms_of(R2MU(layer=LAYER, steering_coefficient=6.5, **masks))
    engine = Engine(model, terms)
    with torch.no_grad():
        for name in NAMES:
            dict(model.named_parameters())[name].mul_(1.05)
        narrow, wide = (engine(step, count_units(terms, step), range(4))["values"] for step in (batch(), batch(pad_to=5)))
    changes = [abs(float(narrow[index] - wide[index])) / float(narrow[index]) for index in range(4)]
    assert max(changes) <= 1e-7 if counted == "nonpad" else min(changes) > 1e-4


# ---- masters ----


def test_with_masters_almost_every_selected_entry_of_bfloat16_weights_moves(make_llama, record_property):
    """A step of 7.5e-5 is less than half a unit of bfloat16 weights from 1/32 up, which never move without a master."""
    shares, step = {}, batch()
    terms, _ = terms_of(R2MU(layer=LAYER, steering_coefficient=6.5))
    for masters in (True, False):
        model = selected(make_llama(layers=6, std=0.02).bfloat16())
        before = weights_of(model)
        trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
        optimizer = (
            masked_adamw(trained, lr=7.5e-5)
            if masters
            else torch.optim.AdamW([p for _, p in trained], lr=7.5e-5, weight_decay=0.0)
        )
        engine = Engine(model, terms)
        for _ in range(20):
            optimizer.zero_grad()
            engine(step, count_units(terms, step), range(4))["loss"].backward()
            optimizer.step()
        changed = torch.cat([(parameter != before[name]).flatten() for name, parameter in trained])
        large = torch.cat([(before[name].abs() > 2**-5).flatten() for name, _ in trained])
        shares[masters] = (changed.float().mean().item(), changed[large].float().mean().item())
    record_property("share of changed entries with and without masters", shares)
    assert shares[True][0] >= 0.99 and shares[True][1] > 0.9
    assert shares[False][0] < 0.95 and shares[False][1] == 0.0


# ---- adapters, and the reflection penalty ----


def test_an_adapter_merges_to_the_same_states(make_llama):
    model = SelectLora(rank=4, target=["down_proj"]).apply(make_llama(layers=6))
    step = batch()
    train(model, R2MU(layer=LAYER, steering_coefficient=6.5), [step] * 10, rate=1e-2)
    ids, mask = step["retain"]["input_ids"], step["retain"]["attention_mask"]
    with torch.no_grad():
        wrapped = run_trunk(model, LAYER, ids, mask)[0]
        merged = run_trunk(model.merge_and_unload(), LAYER, ids, mask)[0]
        start = run_trunk(make_llama(layers=6), LAYER, ids, mask)[0]
    assert float((wrapped - merged).norm() / wrapped.norm()) <= 1e-5 < 1e-2 < float((wrapped - start).norm() / start.norm())


def test_the_head_runs_in_the_pass_of_the_states(make_llama):
    """The released penalty runs a second whole pass for its logits; here one pass serves both."""
    model, passes = make_llama(layers=6), []
    method = RMURTP(layer=LAYER, steering_coefficient=6.5)
    terms, context = terms_of(method)
    assert plan_of(terms).trunk_layer is None and context.facts["reflection_words_without_token"] == []
    for block in model.model.layers:
        block.register_forward_hook(lambda *_: passes.append(torch.is_grad_enabled()))
    engine = Engine(selected(model), terms)
    passes.clear()
    step = batch()
    engine(step, count_units(terms, step), range(len(terms)))
    assert passes.count(True) == 6, "one pass with a graph through all blocks"
    assert passes.count(False) == LAYER + 1, "the frozen branch: blocks 0 to 3 for the retain rows"
