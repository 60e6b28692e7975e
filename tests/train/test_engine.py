import pytest
import torch
from torch.nn import functional as F

from temper.errors import ModelError
from temper.models.lora import SelectLora
from temper.models.selection import SelectLayers
from temper.train.engine import Engine, count_units
from temper.train.losses.activation import Anchor, Steer
from temper.train.losses.ceu import CrossEntropyUnlearning
from temper.train.losses.dpo import DPO
from temper.train.losses.entropy import UniformKL
from temper.train.losses.kl import KL
from temper.train.losses.margin import Margin
from temper.train.losses.nll import NLL
from temper.train.losses.npo import NPO
from temper.train.losses.preservation import AnswerPreservation
from temper.train.losses.reflection import ReflectionPenalty
from temper.train.losses.saturation import WGA, SatImp
from temper.train.losses.simnpo import SimNPO
from temper.train.losses.undial import Undial
from temper.train.plan import plan_of
from temper.train.reference import RoleReference
from tests.train.batches import FORGET, RETAIN, rows

CONTROL = torch.full((32,), 0.5)
OTHER = [[1, 5, 40, 41, 2], [1, 8, 42, 43, 44, 2], [1, 10, 45, 2], [1, 14, 46, 47, 2]]
TRACE = [[1, 5, 50, 51, 6, 2], [1, 8, 52, 53, 9, 50, 2], [1, 10, 54, 51, 2], [1, 14, 52, 2]]
REASONING = [[1, 55, 56, 57, 2], [1, 58, 55, 59, 2], [1, 56, 57, 2], [1, 59, 55, 58, 57, 56, 2]]
SEQUENCES = {
    "forget": FORGET,
    "retain": RETAIN,
    "forget.alternative": OTHER,
    "retain.alternative": OTHER,
    "trace": TRACE,
    "reasoning": REASONING,
}
NPO_TERMS = (NPO("forget", beta=0.5), NLL("retain", 2.0))
RMU_TERMS = (Steer("forget", layer=1, control_D=CONTROL, mask="nonpad"), Anchor("retain", 3.0, layer=1))
OBJECTIVES = {
    "ga": (NLL("forget", sign=-1),),
    "graddiff": (NLL("forget", sign=-1), NLL("retain")),
    "klmin": (NLL("forget", sign=-1), KL("retain")),
    "npo": NPO_TERMS,
    "simnpo": (SimNPO("forget", beta=2.0), NLL("retain")),
    "rmu": RMU_TERMS,
    "rmu_rtp": (*RMU_TERMS, ReflectionPenalty("forget", 2.0, tokens=(5, 9))),
    "r2mu": (
        *RMU_TERMS,
        Steer("trace", 1.5, layer=1, control_D=CONTROL, mask="answer"),
        Anchor("reasoning", 2.0, layer=1),
    ),
    "two topics": (
        Steer("forget", layer=1, control_D=torch.stack([CONTROL, -CONTROL]), topic_of=torch.tensor([0, 1, 1, 0])),
        Anchor("retain", layer=1),
    ),
    "adaptive rmu": (Steer("forget", layer=1, control_D=CONTROL, mask="answer", factor=2.0), Anchor("retain", layer=0)),
    "dpo": (DPO("forget", beta=0.5), NLL("retain")),
    "ap": (UniformKL("forget"), AnswerPreservation("retain", beta=0.5)),
    "undial": (Undial("forget", beta=3.0), NLL("retain")),
    "ceu": (CrossEntropyUnlearning("forget"), KL("retain", mask="labelled")),
    "wga": (WGA("forget", beta=1.0), NLL("retain")),
    "satimp": (SatImp("forget"), Anchor("retain", layer=1)),
    "pdu": (Margin("forget"), NLL("retain", 2.0)),
}


def both(pad_to=None):
    """Return rows of both roles with other responses to each, and thoughts about either."""
    return {role: rows(sequences, pad_to=pad_to) for role, sequences in SEQUENCES.items()}


def counts(batches, terms):
    return count_units(terms, batches)


def reference(model, batches):
    """Sequence sums of the rows by a plain full forward."""
    return {role: RoleReference(row_nll=row_nll(model, tensors).detach()) for role, tensors in batches.items()}


def row_nll(model, tensors):
    logits = model(input_ids=tensors["input_ids"], attention_mask=tensors["attention_mask"]).logits[:, :-1]
    labels = tensors["labels"][:, 1:]
    loss = F.cross_entropy(logits.transpose(1, 2), labels.clamp(min=0), reduction="none")
    return (loss * (labels != -100)).sum(1)


def loss_and_gradients(model, terms, batches, references=None, engine=None, of=None):
    engine = engine or Engine(model, terms, references)
    model.zero_grad()
    result = engine(batches, of or counts(batches, terms), range(len(terms)))
    result["loss"].backward()
    return result["loss"].detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def test_npo_equals_a_plain_three_forward_form(make_llama):
    model, frozen = make_llama(seed=1), make_llama(seed=1)
    batches = {"forget": rows(FORGET), "retain": rows(RETAIN)}
    engine = Engine(model, NPO_TERMS, reference(model, batches))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * parameter.sign())
    ours, gradients = loss_and_gradients(model, NPO_TERMS, batches, engine=engine)
    model.zero_grad()
    lost = row_nll(model, batches["forget"]) - row_nll(frozen, batches["forget"]).detach()
    retain = row_nll(model, batches["retain"]).sum() / (batches["retain"]["labels"] != -100).sum()
    plain = -(2 / 0.5) * F.logsigmoid(0.5 * lost).mean() + 2.0 * retain
    plain.backward()
    torch.testing.assert_close(ours, plain.detach(), rtol=1e-5, atol=1e-6)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-4, atol=1e-6)


def test_rmu_on_the_trunk_equals_two_full_models(make_llama):
    model, frozen = SelectLayers(layers=[0, 1]).apply(make_llama(layers=4)), make_llama(layers=4)
    batches = {"forget": rows(FORGET), "retain": rows(RETAIN)}
    engine = Engine(model, RMU_TERMS)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05)
    ours, gradients = loss_and_gradients(model, RMU_TERMS, batches, engine=engine)
    model.zero_grad()

    def hidden(which, tensors):
        return which(
            input_ids=tensors["input_ids"], attention_mask=tensors["attention_mask"], output_hidden_states=True
        ).hidden_states[2]

    def mean_square(h, target, tensors):
        mask = tensors["attention_mask"].float()
        return (((h - target) ** 2).mean(-1) * mask).sum(1).div(mask.sum(1)).mean()

    plain = mean_square(hidden(model, batches["forget"]), CONTROL, batches["forget"]) + 3.0 * mean_square(
        hidden(model, batches["retain"]), hidden(frozen, batches["retain"]).detach(), batches["retain"]
    )
    plain.backward()
    torch.testing.assert_close(ours, plain.detach(), rtol=1e-5, atol=1e-6)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_four_micro_batches_of_one_equal_one_of_four(make_llama, name):
    terms = OBJECTIVES[name]
    model = make_llama(layers=3)
    whole = both()
    engine = Engine(model, terms, reference(model, whole))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.03)
    loss, gradients = loss_and_gradients(model, terms, whole, engine=engine)
    model.zero_grad()
    parts = 0.0
    for n in range(4):
        one = {role: rows([sequences[n]]) for role, sequences in SEQUENCES.items()}
        for tensors in one.values():
            tensors["index"] = torch.tensor([n])
        result = engine(one, counts(whole, terms), range(len(terms)))
        result["loss"].backward()
        parts += result["loss"].detach()
    torch.testing.assert_close(loss, parts, rtol=1e-5, atol=1e-6)
    for parameter_name, parameter in model.named_parameters():
        if parameter_name in gradients:
            torch.testing.assert_close(gradients[parameter_name], parameter.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_extra_padding_changes_nothing(make_llama, name):
    model = make_llama(layers=3)
    narrow, wide = both(), both(pad_to=11)
    references = reference(model, narrow)
    first, _ = loss_and_gradients(model, OBJECTIVES[name], narrow, references)
    second, _ = loss_and_gradients(model, OBJECTIVES[name], wide, references)
    torch.testing.assert_close(first, second, rtol=1e-6, atol=1e-6)


def test_roles_of_like_length_share_one_forward(make_llama):
    model = make_llama()
    forwards = []
    model.model.embed_tokens.register_forward_hook(lambda *_: forwards.append(1))
    batches = {"forget": rows(FORGET), "retain": rows(RETAIN)}
    engine = Engine(model, OBJECTIVES["graddiff"])
    forwards.clear()
    engine(batches, counts(batches, engine.terms), range(2))
    assert len(forwards) == 1


def test_roles_of_unlike_length_run_apart_with_the_same_loss(make_llama):
    model = make_llama()
    long = [s + [3] * 40 for s in RETAIN]
    batches = {"forget": rows(FORGET), "retain": rows(long)}
    forwards = []
    model.model.embed_tokens.register_forward_hook(lambda *_: forwards.append(1))
    engine = Engine(model, OBJECTIVES["graddiff"])
    forwards.clear()
    apart = engine(batches, counts(batches, engine.terms), range(2))["loss"]
    assert len(forwards) == 2
    tokens = {role: (tensors["labels"] != -100).sum() for role, tensors in batches.items()}
    plain = (
        -row_nll(model, batches["forget"]).sum() / tokens["forget"] + row_nll(model, batches["retain"]).sum() / tokens["retain"]
    )
    torch.testing.assert_close(apart, plain, rtol=1e-5, atol=1e-6)


def test_a_term_that_does_not_act_costs_no_forward(make_llama):
    model = make_llama()
    batches = {"forget": rows(FORGET), "retain": rows(RETAIN)}
    engine = Engine(model, OBJECTIVES["graddiff"])
    seen = []
    model.model.embed_tokens.register_forward_hook(lambda module, args, out: seen.append(args[0].shape[0]))
    engine(batches, counts(batches, engine.terms), [1])
    assert seen == [4]


def test_the_plan_names_trunk_and_references():
    rmu, npo, klmin = (plan_of(OBJECTIVES[name]) for name in ("rmu", "npo", "klmin"))
    assert (rmu.trunk_layer, rmu.frozen_layers, rmu.original_logits, rmu.reference_rows) == (1, (1,), False, ())
    assert (npo.trunk_layer, npo.original_logits, npo.reference_rows) == (None, False, ("forget",))
    assert klmin.original_logits and "original weights" in klmin.describe()[1]


def test_kl_is_zero_with_zero_gradient_before_training(make_llama):
    model = make_llama()
    terms = (KL("retain"),)
    loss, gradients = loss_and_gradients(model, terms, {"retain": rows(RETAIN)})
    assert abs(loss.item()) < 1e-6 and max(g.abs().max().item() for g in gradients.values()) < 1e-6


def test_an_adapter_is_its_own_reference(make_llama):
    model = SelectLora(rank=2).apply(make_llama(layers=3))
    terms = (Anchor("retain", layer=1), Steer("forget", layer=1, control_D=CONTROL, mask="nonpad"))
    batches = {"forget": rows(FORGET), "retain": rows(RETAIN)}
    engine = Engine(model, terms)
    assert engine(batches, counts(batches, engine.terms), range(2))["statistics"]["retain.moved"].item() == pytest.approx(
        0.0, abs=1e-12
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.add_(0.1)
    assert engine(batches, counts(batches, engine.terms), range(2))["statistics"]["retain.moved"].item() > 1e-4
    assert engine._frozen.original.stored_bytes == 0


def test_only_selected_tensors_get_a_gradient(make_llama):
    model = SelectLayers(layers=[1], module="mlp.down_proj").apply(make_llama(layers=3))
    _, gradients = loss_and_gradients(model, RMU_TERMS, {"forget": rows(FORGET), "retain": rows(RETAIN)})
    assert list(gradients) == ["model.layers.1.mlp.down_proj.weight"]


def test_a_selection_above_the_block_that_is_read_is_refused(make_llama):
    model = SelectLayers(layers=[2]).apply(make_llama(layers=3))
    with pytest.raises(ModelError, match="trains nothing at or below it"):
        Engine(model, RMU_TERMS)


def test_anchors_on_two_blocks_are_the_sum_of_both(make_llama):
    model, batches = make_llama(layers=3), {"retain": rows(RETAIN)}
    terms = (Anchor("retain", layer=0), Anchor("retain", 2.0, layer=1))
    engines = [Engine(model, terms), Engine(model, terms[:1]), Engine(model, terms[1:])]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05)
    whole, first, second = (
        engine(batches, counts(batches, engine.terms), range(len(engine.terms)))["loss"] for engine in engines
    )
    assert first > 1e-4 and second > 1e-4
    torch.testing.assert_close(whole, first + second)


@pytest.mark.parametrize("name", ["klmin", "rmu"])
def test_where_single_weights_train_the_original_values_of_those_alone_give_the_same(make_llama, name):
    """The model from before is read between the forward and the backward pass, after the selected weights have moved."""
    batches, terms, found = both(), OBJECTIVES[name], []
    draw = torch.Generator().manual_seed(0)
    masks = {n: torch.rand(p.shape, generator=draw) < 0.2 for n, p in make_llama().named_parameters() if p.dim() == 2}
    for given in (masks, None):
        model = SelectLayers(layers=[0, 1], module="mlp.down_proj").apply(make_llama())
        engine = Engine(model, terms, masks=given)
        kept = engine._original if engine._frozen is None else engine._frozen.original
        with torch.no_grad():
            for n, parameter in model.named_parameters():
                parameter += 0.1 * (masks[n] if parameter.requires_grad else 0.0)
        found.append((kept.stored_bytes, *loss_and_gradients(model, terms, batches, engine=engine)))
    trained = [n for n in masks if "down_proj" in n and "layers.2" not in n]
    assert found[0][0] == 4 * sum(int(masks[n].sum()) for n in trained) < found[1][0]
    assert torch.equal(found[0][1], found[1][1])
    assert found[0][2].keys() == found[1][2].keys()
    assert all(torch.equal(value, found[1][2][n]) for n, value in found[0][2].items())
