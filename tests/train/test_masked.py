import copy
import os

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from temper.errors import ModelError, RunError
from temper.models.places import _bits_of, _blocks_of, place_of
from temper.train import checkpoint
from temper.train.bases import decay_groups
from temper.train.masked import MaskedOptimizer, masked_adamw

SETTINGS = {"lr": 0.05, "betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0.1}


class Small(nn.Module):
    def __init__(self, dtype=torch.float32, seed=0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        for name, shape in (("first", (7, 5)), ("second", (4, 7)), ("bias", (4,)), ("scale", ())):
            self.register_parameter(name, nn.Parameter(torch.randn(shape, generator=generator).to(dtype)))


def gradients(model, step):
    generator = torch.Generator().manual_seed(100 + step)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator).to(parameter.dtype)


def train(model, optimizer, steps, begin=0, scheduler=None):
    for step in range(begin, begin + steps):
        gradients(model, step)
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
        optimizer.zero_grad()


def entry_masks(model):
    generator = torch.Generator().manual_seed(9)
    return {name: torch.rand(p.shape, generator=generator) < 0.5 for name, p in model.named_parameters() if p.dim() > 0}


def row_masks():
    return {
        "first": torch.tensor([True, False, True, True, False, False, False])[:, None].expand(7, 5),
        "second": torch.tensor([False, True, False, True, False, False, False])[None, :].expand(4, 7),
    }


def selected(model, masks=None, **settings):
    return masked_adamw(list(model.named_parameters()), masks, **{**SETTINGS, **settings})


def plain(model, **settings):
    groups = [
        {"params": [p for p in model.parameters() if p.dim() > 1], "weight_decay": SETTINGS["weight_decay"]},
        {"params": [p for p in model.parameters() if p.dim() <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, **{**SETTINGS, **settings})


BASES = {
    "adamw": (torch.optim.AdamW, {"fused": True}),
    "adamw, one by one": (torch.optim.AdamW, {"foreach": False}),
    "amsgrad": (torch.optim.Adam, {"amsgrad": True}),
    "sgd": (torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
    "sgd, no momentum": (torch.optim.SGD, {"fused": True}),
    "rmsprop": (torch.optim.RMSprop, {"momentum": 0.5, "centered": True}),
    "adagrad": (torch.optim.Adagrad, {"initial_accumulator_value": 0.1}),
    "adamax": (torch.optim.Adamax, {}),
    "nadam": (torch.optim.NAdam, {}),
    "radam": (torch.optim.RAdam, {}),
    "adadelta": (torch.optim.Adadelta, {}),
}


def base_over(model, name, lr=0.01):
    kind, settings = BASES[name]
    return kind(decay_groups(list(model.named_parameters()), 0.1), lr=lr, **settings)


def follow(model, optimizer, steps, clip, accumulate=1, begin=0):
    """Train on the same gradients as `gradients` gives, through the backward pass, clipped and on a schedule."""
    scheduler = LambdaLR(optimizer, lambda step: 1 / (1 + begin + step))
    for step in range(begin, begin + steps):
        for part in range(accumulate):
            generator = torch.Generator().manual_seed(1000 * part + step)
            loss = sum((p * torch.randn(p.shape, generator=generator).to(p.dtype)).sum() for p in model.parameters())
            loss.backward()
        clip(optimizer)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
    return model


def state_of(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def equal(one, two):
    return all(torch.equal(one[name], two[name]) for name in one)


# ---- what it computes ----


def test_without_masks_it_is_the_fused_adamw_bit_for_bit():
    ours, theirs = Small(), Small()
    train(ours, selected(ours), 20)
    train(theirs, plain(theirs, fused=True), 20)
    assert equal(state_of(ours), state_of(theirs))


def test_without_masks_a_model_trains_like_the_fused_adamw_bit_for_bit(make_llama):
    results = []
    for build in (selected, lambda model: plain(model, fused=True)):
        model = make_llama()
        optimizer = build(model)
        for step in range(3):
            ids = torch.arange(16).reshape(2, 8) + step
            model(input_ids=ids, labels=ids).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        results.append(state_of(model))
    assert equal(*results)


def test_masks_that_select_everything_change_nothing():
    ours, theirs = Small(), Small()
    whole = {name: torch.ones(p.shape, dtype=torch.bool) for name, p in ours.named_parameters()}
    train(ours, selected(ours, whole), 5)
    train(theirs, selected(theirs), 5)
    assert equal(state_of(ours), state_of(theirs))


@pytest.mark.parametrize("masks", [entry_masks(Small()), row_masks()], ids=["entries", "rows"])
def test_selected_entries_get_the_step_of_plain_adamw(masks):
    ours, theirs = Small(), Small()
    train(ours, selected(ours, masks), 10)
    train(theirs, plain(theirs), 10)
    for name, parameter in ours.named_parameters():
        mask = masks.get(name, torch.ones(parameter.shape, dtype=torch.bool))
        torch.testing.assert_close(parameter[mask], dict(theirs.named_parameters())[name][mask], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("lr", [1e-6, 0.1, 10.0])
@pytest.mark.parametrize("masks", [entry_masks(Small()), row_masks()], ids=["entries", "rows"])
def test_entries_outside_the_masks_are_bit_identical_after_many_steps(dtype, lr, masks):
    model = Small(dtype)
    before = state_of(model)
    train(model, selected(model, masks, lr=lr, weight_decay=0.5), 50)
    after = state_of(model)
    assert all(torch.equal(before[name][~mask], after[name][~mask]) for name, mask in masks.items())
    if lr >= 0.1:
        assert all((before[name][mask] != after[name][mask]).all() for name, mask in masks.items())


def test_signed_zeros_and_nan_outside_the_masks_keep_their_bits():
    model = Small()
    masks = entry_masks(model)
    outside = ~masks["first"]
    with torch.no_grad():
        model.first[outside] = torch.tensor([-0.0, float("nan")]).repeat(35)[: int(outside.sum())]
    before = model.first.detach().view(torch.int32).clone()
    train(model, selected(model, masks), 3)
    assert torch.equal(model.first.detach().view(torch.int32)[outside], before[outside])


def test_a_mask_that_selects_nothing_freezes_its_parameter():
    model = Small()
    before = state_of(model)
    optimizer = selected(model, {"first": torch.zeros(7, 5, dtype=torch.bool)})
    train(model, optimizer, 3)
    assert torch.equal(model.first, before["first"]) and model.first not in optimizer.state


def test_vectors_do_not_decay():
    model = Small()
    optimizer = selected(model, {"bias": torch.tensor([True, True, False, True])}, weight_decay=0.5)
    before = state_of(model)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert torch.equal(model.bias, before["bias"]) and torch.equal(model.scale, before["scale"])
    assert not torch.equal(model.first, before["first"])


def test_a_parameter_without_a_gradient_at_a_later_step_is_passed_over():
    model = Small()
    optimizer = selected(model, entry_masks(model))
    train(model, optimizer, 1)
    before = state_of(model)
    gradients(model, 1)
    model.first.grad = None
    optimizer.step()
    assert torch.equal(model.first, before["first"]) and not torch.equal(model.second, before["second"])


def test_a_closure_is_evaluated_with_gradients():
    model = Small()

    def closure():
        loss = model.first.square().sum()
        loss.backward()
        return loss.item()

    assert selected(model).step(closure) > 0


# ---- half precision ----


@pytest.mark.parametrize("masked", [False, True])
def test_half_precision_is_stepped_on_float32_masters(masked):
    half, full = Small(torch.bfloat16), Small()
    full.load_state_dict({name: p.float() for name, p in half.state_dict().items()})
    masks = entry_masks(half) if masked else {}
    ours, theirs = selected(half, masks), selected(full, masks)
    for step in range(10):
        gradients(half, step)
        for one, other in zip(half.parameters(), full.parameters(), strict=True):
            other.grad = one.grad.float()
        ours.step()
        theirs.step()
    assert equal(state_of(half), {name: p.bfloat16() for name, p in state_of(full).items()})


def test_steps_too_small_for_bfloat16_add_up_on_the_masters():
    model = nn.Linear(8, 8, bias=False).bfloat16()
    with torch.no_grad():
        model.weight.fill_(1.0)
    optimizer = masked_adamw(list(model.named_parameters()), lr=1e-4)
    for _ in range(100):  # one step is a fortieth of half a unit in the last place
        model.weight.grad = torch.ones_like(model.weight)
        optimizer.step()
    torch.testing.assert_close(model.weight.float(), torch.full((8, 8), 0.9900), atol=0.004, rtol=0)
    assert (model.weight != 1.0).all()


def test_float64_is_stepped_in_float64():
    model = Small(torch.float64)
    theirs = Small(torch.float64)
    train(model, selected(model), 5)
    train(theirs, plain(theirs, fused=True), 5)
    assert equal(state_of(model), state_of(theirs))


# ---- what it holds ----


@pytest.mark.parametrize("dtype, kept", [(torch.float32, 2), (torch.bfloat16, 3)])
@pytest.mark.parametrize("masks", [entry_masks(Small()), row_masks()], ids=["entries", "rows"])
def test_state_is_held_for_selected_entries_alone(dtype, kept, masks):
    model = Small(dtype)
    optimizer = selected(model, masks)
    count = sum(int(masks[name].sum()) if name in masks else p.numel() for name, p in model.named_parameters())
    assert optimizer.selected == count and optimizer.state_bytes() == 4 * kept * count
    train(model, optimizer, 1)
    held = [value for entry in optimizer.state.values() for key, value in entry.items() if key != "step"]
    assert sum(value.numel() * value.element_size() for value in held) == optimizer.state_bytes()


def test_gradients_outside_the_masks_are_zeroed_on_request():
    model = Small()
    masks = {**row_masks(), "bias": torch.tensor([True, False, False, True])}
    gradients(model, 0)
    before = {name: p.grad.clone() for name, p in model.named_parameters()}
    selected(model, masks).zero_unselected_gradients()
    for name, parameter in model.named_parameters():
        mask = masks.get(name, torch.ones(parameter.shape, dtype=torch.bool))
        assert torch.equal(parameter.grad, torch.where(mask, before[name], torch.zeros(())))


def test_a_norm_for_clipping_counts_what_trains_alone():
    model = Small()
    masks = entry_masks(model)
    gradients(model, 0)
    expected = torch.cat([p.grad[masks.get(n, ...)].flatten() for n, p in model.named_parameters()]).norm()
    selected(model, masks).zero_unselected_gradients()
    torch.testing.assert_close(nn.utils.clip_grad_norm_(model.parameters(), 1e9), expected)


# ---- schedules and wrappers ----


def test_a_schedule_moves_the_learning_rate_of_masked_entries():
    ours, theirs = Small(), Small()
    masks = entry_masks(ours)
    optimizers = selected(ours, masks), plain(theirs, fused=True)
    for model, optimizer in zip((ours, theirs), optimizers, strict=True):
        train(model, optimizer, 6, scheduler=LambdaLR(optimizer, lambda step: 1 / (1 + step)))
    assert optimizers[0].param_groups[0]["lr"] == optimizers[1].param_groups[0]["lr"]
    torch.testing.assert_close(ours.first[masks["first"]], theirs.first[masks["first"]])


def test_it_works_inside_the_wrapper_of_accelerate():
    from accelerate import Accelerator

    bare, wrapped = Small(torch.bfloat16), Small(torch.bfloat16)
    masks = entry_masks(bare)
    train(bare, selected(bare, masks), 4)
    optimizer = Accelerator(cpu=True).prepare(selected(wrapped, masks))
    train(wrapped, optimizer, 4, scheduler=LambdaLR(optimizer, lambda step: 1.0))
    assert equal(state_of(bare), state_of(wrapped))


# ---- saving and going on ----


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("masks", [{}, entry_masks(Small()), row_masks()], ids=["whole", "entries", "rows"])
def test_a_run_goes_on_from_a_checkpoint_bit_for_bit(tmp_path, dtype, masks):
    def build():
        model = Small(dtype)
        optimizer = selected(model, masks)
        return model, optimizer, LambdaLR(optimizer, lambda step: 1 / (1 + step))

    straight, optimizer, scheduler = build()
    train(straight, optimizer, 4, scheduler=scheduler)
    trained, state = state_of(straight), optimizer.whole_state_dict()
    checkpoint.save(tmp_path / "checkpoint-4", trained, state, scheduler, "{}", {}, checkpoint.random_states())
    train(straight, optimizer, 4, begin=4, scheduler=scheduler)

    resumed, optimizer, scheduler = build()
    checkpoint.load_trained(tmp_path / "checkpoint-4", resumed)
    checkpoint.load_optimizer(tmp_path / "checkpoint-4", optimizer, scheduler)
    train(resumed, optimizer, 4, begin=4, scheduler=scheduler)
    assert equal(state_of(straight), state_of(resumed))


def test_masters_are_part_of_the_state():
    model = Small(torch.bfloat16)
    optimizer = selected(model, entry_masks(model))
    train(model, optimizer, 2)
    again = selected(model, entry_masks(model))
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for parameter in model.parameters():
        assert again.state[parameter]["master"].dtype == torch.float32
        assert all(torch.equal(optimizer.state[parameter][key], again.state[parameter][key]) for key in again.state[parameter])


def test_the_state_of_another_selection_is_refused():
    model = Small()
    optimizer = selected(model, entry_masks(model))
    train(model, optimizer, 1)
    with pytest.raises(RunError, match=r"the stored optimiser state of first is for \d+ entries; the selection trains 35"):
        selected(model).load_state_dict(optimizer.state_dict())


def test_the_state_of_other_parameters_is_refused():
    model = Small()
    state = selected(model).state_dict()
    with pytest.raises(RunError, match=r"first difference: first stored, second here"):
        masked_adamw([("second", model.second)], lr=0.1).load_state_dict(state)
    with pytest.raises(RunError, match="belongs to other parameters"):
        masked_adamw(list(model.named_parameters())[:3], lr=0.1).load_state_dict(state)


def test_a_state_without_masters_is_refused_for_half_precision():
    model, half = Small(), Small(torch.bfloat16)
    optimizer = selected(model)
    train(model, optimizer, 1)
    with pytest.raises(RunError, match="is without a float32 master, but the parameter is torch.bfloat16"):
        selected(half).load_state_dict(optimizer.state_dict())


# ---- masks that do not fit ----


def test_a_mask_that_does_not_fit_is_refused():
    model = Small()
    for masks, message in [
        ({"first": torch.ones(5, 7, dtype=torch.bool)}, r"has the shape \[5, 7\], but the parameter has \[7, 5\]"),
        ({"first": torch.ones(7, 5)}, "has the type torch.float32; a mask is boolean"),
        ({"model.first": torch.ones(7, 5, dtype=torch.bool)}, "selects 35 entries, but no parameter of this name trains"),
    ]:
        with pytest.raises(ModelError, match=message):
            selected(model, masks)


def test_an_empty_mask_of_a_frozen_parameter_is_passed_over():
    model = Small()
    optimizer = masked_adamw([("second", model.second)], {"first": torch.zeros(7, 5, dtype=torch.bool)}, lr=0.1)
    assert optimizer.selected == model.second.numel()


# ---- sharded models ----


def _sharded_against_whole(rank, init_file, dtype, masks, results):
    """Train one model whole and one sharded over two processes on the same gradients."""
    import torch.distributed as dist
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import distribute_tensor

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{init_file}", rank=rank, world_size=2)
    whole, sharded = (nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 3)).to(dtype) for _ in range(2))
    generator = torch.Generator().manual_seed(0)
    for one, other in zip(whole.parameters(), sharded.parameters(), strict=True):
        with torch.no_grad():
            one.copy_(torch.randn(one.shape, generator=generator))
            other.copy_(one)
    fully_shard(sharded)
    before = state_of(whole)
    optimizers = selected(whole, masks), selected(sharded, masks)

    def step(number, sharded_optimizer):
        gradients(whole, number)
        for one, other in zip(whole.parameters(), sharded.parameters(), strict=True):
            other.grad = distribute_tensor(one.grad, other.device_mesh, other.placements)
        for optimizer in (optimizers[0], sharded_optimizer):
            optimizer.zero_unselected_gradients()
            optimizer.step()

    for number in range(4):
        step(number, optimizers[1])
    if not masks:  # torch's own tools carry the state over
        last = selected(sharded)
        set_optimizer_state_dict(sharded, last, get_optimizer_state_dict(sharded, optimizers[1]))
        step(4, last)
        step(5, last)
    else:
        last = optimizers[1]
        step(4, last)
        step(5, last)
    # and so does a state that one process wrote, and the other way round
    ours, theirs = (optimizer.whole_state_dict() for optimizer in (last, optimizers[0]))
    joined = all(
        torch.allclose(value.flatten(), theirs["state"][index][part].flatten(), rtol=1e-5, atol=1e-7)
        for index, entry in ours["state"].items()
        for part, value in entry.items()
    )
    optimizers[0].load_whole_state_dict(copy.deepcopy(ours))
    last = selected(sharded, masks)
    last.load_whole_state_dict(copy.deepcopy(theirs))
    for number in range(6, 9):
        step(number, last)
    gathered = {name: p.full_tensor().detach() for name, p in sharded.named_parameters()}
    close = all(torch.allclose(gathered[name], p, rtol=1e-6, atol=1e-6) for name, p in whole.named_parameters())
    kept = all(torch.equal(gathered[name][~mask], before[name][~mask]) for name, mask in masks.items())
    share = torch.tensor(last.state_bytes())
    dist.all_reduce(share)
    results.put((rank, close, kept, joined, int(share) == optimizers[0].state_bytes()))
    dist.barrier()
    # taking the process group down aborts now and then ("terminate called without an active exception", torch 2.13, gloo)
    os._exit(0)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("masked", [False, True])
def test_a_sharded_model_trains_like_a_whole_one(tmp_path, dtype, masked):
    masks = {}
    if masked:
        pattern = torch.rand(3, 7, generator=torch.Generator().manual_seed(3)) < 0.5
        rows = torch.tensor([True, False, True, False, False, False, True])[:, None].expand(7, 5)
        # every form of place, and shards in which everything or nothing is selected
        masks = {"0.weight": rows, "1.weight": pattern, "0.bias": torch.arange(7) > 4, "1.bias": torch.arange(3) < 2}
    context = torch.multiprocessing.get_context("spawn")
    results = context.SimpleQueue()
    torch.multiprocessing.spawn(_sharded_against_whole, (str(tmp_path / "init"), dtype, masks, results), nprocs=2)
    assert sorted(results.get() for _ in range(2)) == [(0, True, True, True, True), (1, True, True, True, True)]


# ---- any elementwise optimiser ----


@pytest.mark.parametrize("storage", ["packed", "dense_compat"])
@pytest.mark.parametrize("name", BASES)
def test_all_selected_is_the_plain_optimiser_bit_for_bit(name, storage):
    for dtype in (torch.float32, torch.bfloat16):
        ours, theirs = Small(dtype), Small(dtype)
        whole = {n: torch.ones(p.shape, dtype=torch.bool) for n, p in ours.named_parameters()}
        masked = MaskedOptimizer(base_over(ours, name), whole, storage=storage, precision="bf16_pure")
        masked.attach(ours)
        follow(ours, masked, 20, lambda optimizer: optimizer.clip_gradients(0.5), accumulate=2)
        mine = list(theirs.parameters())
        follow(theirs, base_over(theirs, name), 20, lambda _, mine=mine: nn.utils.clip_grad_norm_(mine, 0.5), accumulate=2)
        assert equal(state_of(ours), state_of(theirs))


@pytest.mark.parametrize("name", BASES)
def test_nothing_selected_changes_nothing(name):
    model = Small()
    before = state_of(model)
    none = {n: torch.zeros(p.shape, dtype=torch.bool) for n, p in model.named_parameters()}
    optimizer = MaskedOptimizer(base_over(model, name), none)
    optimizer.attach(model)
    follow(model, optimizer, 3, lambda optimizer: optimizer.clip_gradients(0.5))
    assert equal(state_of(model), before) and not optimizer.state and optimizer.selected == 0


@pytest.mark.parametrize("storage", ["packed", "delta", "dense_compat"])
@pytest.mark.parametrize("name", ["adamw", "sgd", "rmsprop"])
def test_what_is_not_selected_keeps_its_bits_through_decay_momentum_clipping_and_a_schedule(name, storage):
    for dtype in (torch.float32, torch.bfloat16):
        model = Small(dtype)
        masks, before = entry_masks(model), state_of(model)
        optimizer = MaskedOptimizer(base_over(model, name, lr=0.1), masks, storage=storage)
        optimizer.attach(model)
        follow(model, optimizer, 50, lambda optimizer: optimizer.clip_gradients(0.5), accumulate=2)
        after = state_of(model)
        assert all(torch.equal(before[n][~mask], after[n][~mask]) for n, mask in masks.items())
        assert all((before[n][mask] != after[n][mask]).all() for n, mask in masks.items() if dtype == torch.float32)


@pytest.mark.parametrize("masks", [entry_masks(Small()), row_masks()], ids=["entries", "rows"])
@pytest.mark.parametrize("name", BASES)
def test_every_storage_gives_the_same_weights(name, masks):
    found = []
    for storage in ("packed", "delta", "dense_compat"):
        model = Small()
        optimizer = MaskedOptimizer(base_over(model, name), masks, storage=storage)
        optimizer.attach(model)
        follow(model, optimizer, 20, lambda optimizer: optimizer.clip_gradients(0.5))
        found.append(state_of(model))
    for other in found[1:]:
        assert max((found[0][n] - other[n]).abs().max() for n in other) <= 1e-6
    assert max((found[0][n] - value).abs().max() for n, value in state_of(Small()).items()) > 5e-5


@pytest.mark.parametrize("name", BASES)
def test_the_bytes_of_any_state_are_known_before_the_first_step(name):
    for dtype, storage in ((torch.float32, "packed"), (torch.bfloat16, "packed"), (torch.bfloat16, "delta")):
        model = Small(dtype)
        optimizer = MaskedOptimizer(base_over(model, name), entry_masks(model), storage=storage)
        expected = optimizer.state_bytes()
        train(model, optimizer, 1)
        held = [value for entry in optimizer.state.values() for key, value in entry.items() if key not in ("step", "mu_product")]
        assert sum(value.numel() * value.element_size() for value in held) == expected


@pytest.mark.parametrize("storage", ["packed", "delta", "dense_compat"])
@pytest.mark.parametrize("name", ["adamw", "sgd", "adagrad", "nadam"])
def test_any_state_goes_on_from_a_checkpoint_bit_for_bit(tmp_path, name, storage):
    def build():
        model = Small(torch.bfloat16)
        optimizer = MaskedOptimizer(base_over(model, name), entry_masks(model), storage=storage)
        optimizer.attach(model)
        return model, optimizer, LambdaLR(optimizer, lambda step: 1.0)

    def clip(optimizer):
        optimizer.clip_gradients(0.5)

    straight, optimizer, scheduler = build()
    follow(straight, optimizer, 3, clip)
    state = optimizer.whole_state_dict()
    checkpoint.save(tmp_path / "checkpoint-3", state_of(straight), state, scheduler, "{}", {}, checkpoint.random_states())
    follow(straight, optimizer, 3, clip, begin=3)
    resumed, optimizer, scheduler = build()
    checkpoint.load_trained(tmp_path / "checkpoint-3", resumed)
    checkpoint.load_optimizer(tmp_path / "checkpoint-3", optimizer, scheduler)
    follow(resumed, optimizer, 3, clip, begin=3)
    assert equal(state_of(straight), state_of(resumed))


def test_the_state_of_another_storage_is_refused():
    model = Small()
    optimizer = selected(model, entry_masks(model), storage="delta")
    train(model, optimizer, 1)
    with pytest.raises(RunError, match="is with δ. Train with the train.storage of before"):
        selected(model, entry_masks(model)).load_state_dict(optimizer.state_dict())


def test_state_that_the_base_has_is_taken_over():
    ours, theirs = Small(), Small()
    masks = entry_masks(ours)
    bases = base_over(ours, "adamw"), base_over(theirs, "adamw")
    for model, base in zip((ours, theirs), bases, strict=True):
        train(model, base, 3)
    train(ours, MaskedOptimizer(bases[0], masks), 3, begin=3)
    train(theirs, bases[1], 3, begin=3)
    assert all(torch.allclose(ours.get_parameter(n)[m], theirs.get_parameter(n)[m], atol=1e-7) for n, m in masks.items())


def test_a_schedule_over_the_base_acts_too():
    model = Small()
    base = base_over(model, "adamw", lr=1.0)
    optimizer = MaskedOptimizer(base, entry_masks(model))
    LambdaLR(base, lambda step: 0.25)
    assert [group["lr"] for group in optimizer.param_groups] == [0.25, 0.25]


def test_names_can_be_given_beside_a_base_that_has_none():
    ours, theirs = Small(), Small()
    masks = entry_masks(ours)
    base = torch.optim.SGD(ours.parameters(), lr=0.1)
    with pytest.raises(ModelError, match=r"does not know the names of its parameters.*model.named_parameters\(\)"):
        MaskedOptimizer(base, masks)
    with pytest.raises(ModelError, match="named: lacks 4 parameters"):
        MaskedOptimizer(base, masks, named=theirs.named_parameters())
    train(ours, MaskedOptimizer(base, masks, named=ours.named_parameters()), 2)
    train(theirs, MaskedOptimizer(torch.optim.SGD(theirs.named_parameters(), lr=0.1), masks), 2)
    assert equal(state_of(ours), state_of(theirs))


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        (torch.optim.LBFGS, "LBFGS cannot step a part of the weights: its line search reads all weights at once"),
        (torch.optim.Adafactor, "Adafactor .* means of whole rows and columns"),
        (torch.optim.SparseAdam, "SparseAdam .* reads sparse gradients"),
        (torch.optim.ASGD, "ASGD .* not known to step every weight by its own gradient alone. Use one of AdamW, Adam"),
    ],
)
def test_an_optimiser_that_couples_weights_is_refused(kind, why):
    with pytest.raises(ModelError, match=why):
        MaskedOptimizer(kind([nn.Parameter(torch.zeros(3))], lr=0.1))


# ---- the weights of before ----


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("masks", [{}, entry_masks(Small()), row_masks()], ids=["whole", "entries", "rows"])
def test_delta_storage_gives_the_weights_of_before_for_nothing(dtype, masks):
    model = Small(dtype)
    before = state_of(model)
    optimizer = selected(model, masks, storage="delta")
    with optimizer.original():
        assert equal(state_of(model), before)
    train(model, optimizer, 5)
    after = state_of(model)
    with pytest.raises(ZeroDivisionError), optimizer.original():
        assert equal(state_of(model), before)
        raise ZeroDivisionError
    assert equal(state_of(model), after) and not equal(after, before)


def test_other_storages_have_no_weights_of_before():
    with (
        pytest.raises(RunError, match="storage packed does not keep the entries of before; take storage delta"),
        selected(Small()).original(),
    ):
        pass


# ---- pure half precision ----


def test_small_steps_round_away_without_masters_and_reach_every_selected_weight_with_them():
    shares = {}
    for precision in ("master", "bf16_pure"):
        model = nn.Linear(100, 100, bias=False)
        with torch.no_grad():
            model.weight.normal_(0, 0.02, generator=torch.Generator().manual_seed(0))
        model.bfloat16()
        mask = torch.rand(100, 100, generator=torch.Generator().manual_seed(1)) < 0.4
        before = model.weight.detach()[mask].float()
        optimizer = masked_adamw(list(model.named_parameters()), {"weight": mask}, lr=7e-6, precision=precision)
        train(model, optimizer, 5)
        state = optimizer.state[model.weight]
        assert state["exp_avg"].dtype == (torch.bfloat16 if precision == "bf16_pure" else torch.float32)
        after = state.get("master", model.weight.detach()[mask].float())
        shares[precision] = (after != before).float().mean().item()
    assert shares["master"] == 1.0 and 0.0 < shares["bf16_pure"] < 0.2


def test_differences_in_float32_are_not_pure_half_precision():
    with pytest.raises(ModelError, match="storage delta keeps a float32 δ, so it cannot be bf16_pure"):
        selected(Small(), storage="delta", precision="bf16_pure")


# ---- packed gradients ----


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_attached_optimiser_steps_as_on_whole_gradients_and_leaves_none(dtype):
    found = []
    for attached in (True, False):
        model = Small(dtype)
        optimizer = selected(model, {**entry_masks(model), "second": row_masks()["second"]})
        if attached:
            optimizer.attach(model)
        sum((p * p).sum() for p in model.parameters()).backward()
        assert [p.grad is None for p in model.parameters()] == [attached, attached, attached, False]
        norm = optimizer.clip_gradients(0.5)
        optimizer.step()
        found.append((state_of(model), norm))
    assert equal(found[0][0], found[1][0]) and found[0][1] == pytest.approx(found[1][1], rel=1e-2)


def test_packed_gradients_add_up_are_dropped_by_zero_grad_and_used_up_by_a_step():
    model = Small()
    optimizer = selected(model, entry_masks(model))
    optimizer.attach()

    def norm():
        return optimizer.clip_gradients(float("inf"))

    def backward():
        sum(p.sum() for p in model.parameters()).backward()

    backward()
    one = norm()
    backward()
    assert norm() == pytest.approx(2 * one)
    optimizer.zero_grad()
    assert norm() == 0.0
    backward()
    optimizer.step()
    model.scale.grad = None  # selected whole, so that its gradient is the plain one
    assert norm() == 0.0
    optimizer.detach()
    backward()
    assert model.first.grad is not None


def test_clipping_by_the_dense_norm_counts_what_is_not_selected():
    model = Small()
    masks = entry_masks(model)
    gradients(model, 0)
    dense = torch.cat([p.grad.flatten() for p in model.parameters()]).norm().item()
    before = model.first.grad.clone()
    optimizer = selected(model, masks)
    assert optimizer.clip_gradients(dense / 2, dense=True) == pytest.approx(dense)
    torch.testing.assert_close(model.first.grad, before / 2)
    assert optimizer.clip_gradients(float("inf")) < dense / 2


@pytest.mark.parametrize("attached", [False, True])
def test_a_gradient_that_is_not_finite_is_refused_by_name(attached):
    model = Small()
    optimizer = selected(model, {"second": torch.tensor([[True, False] * 3 + [True]]).expand(4, 7)})
    if attached:
        optimizer.attach(model)
    (model.second * float("inf")).sum().backward()
    model.first.sum().backward()
    with pytest.raises(RunError, match="infinite or NaN at step 7, first in second. Lower train.learning_rate"):
        optimizer.clip_gradients(1.0, step=7)


def test_a_selected_parameter_that_the_objective_does_not_reach_is_refused_at_the_first_step():
    model = Small()
    optimizer = selected(model, {"first": entry_masks(model)["first"], "second": torch.zeros(4, 7, dtype=torch.bool)})
    optimizer.attach(model)
    model.bias.sum().backward()
    with pytest.raises(RunError, match=r"first: \d+ of its entries are selected, but the objective gave it no gradient"):
        optimizer.step()


def test_an_index_that_was_made_before_serves_as_a_mask():
    one, other = Small(), Small()
    masks = entry_masks(one)
    places = {name: place_of(mask, one.get_parameter(name)) for name, mask in masks.items()}
    train(one, selected(one, masks), 3)
    train(other, selected(other, places), 3)
    assert equal(state_of(one), state_of(other))


@pytest.mark.parametrize("form", [place_of, _blocks_of, _bits_of])
@pytest.mark.parametrize("shape", [(7, 5), (1,), (3, 4, 5), (300, 400)])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9])
def test_every_form_of_place_reads_and_writes_the_selected_entries(form, shape, share):
    generator = torch.Generator().manual_seed(4)
    mask, tensor = torch.rand(shape, generator=generator) < share, torch.randn(shape, generator=generator)
    place = form(mask, tensor) if form is place_of else form(mask, int(mask.sum()), tensor.device)
    assert place.count == int(mask.sum()) and torch.equal(place.gather(tensor).flatten(), tensor[mask])
    for written in (tensor.clone(), tensor.flatten().repeat_interleave(2)[::2].view(shape)):
        place.scatter(written, place.gather(tensor) + 1)
        assert torch.equal(written, torch.where(mask, tensor + 1, tensor))
        place.clear_outside(written)
        assert torch.equal(written, torch.where(mask, tensor + 1, 0.0))
