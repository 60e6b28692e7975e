"""What a step of R2MU costs: block passes counted by hooks, and the largest sum of live tensors."""

import copy
import weakref

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from temper.models.cut import load_cut
from temper.recipe import WorldSection
from temper.train.engine import Engine, count_units
from temper.train.masked import masked_adamw
from temper.train.plan import plan_of
from temper.train.reference import RoleReference
from temper.unlearn.r2mu import R2MU
from tests.unlearn.test_r2mu import LAYER, NAMES, TRAINED, batch, selected, terms_of

WIDE, LENGTH = 256, 24
LONG = dict.fromkeys(("forget", "retain", "trace", "reasoning"), LENGTH)


class Stored(RoleReference):
    """States from before in memory, by row."""

    def __init__(self, states):
        super().__init__()
        self._states = states

    def holds(self, need):
        return need == f"ref_hidden:{LAYER}"

    def hidden(self, layer, index, length):
        return self._states[index, :length]


def stored_of(model, step):
    def states(tensors):
        with torch.no_grad():
            return model(
                input_ids=tensors["input_ids"], attention_mask=tensors["attention_mask"], output_hidden_states=True
            ).hidden_states[LAYER + 1]

    return {role: Stored(states(step[role])) for role in ("retain", "reasoning")}


def rows_through_blocks(model, engine, step, terms):
    """Return (block, rows, with a graph) of each pass of a block in one step."""
    seen = []
    handles = [
        block.register_forward_hook(
            lambda module, args, output, number=number: seen.append((number, len(output), torch.is_grad_enabled()))
        )
        for number, block in enumerate(model.model.layers)
    ]
    engine(step, count_units(terms, step), range(len(terms)))["loss"].backward()
    for handle in handles:
        handle.remove()
    return seen


@pytest.mark.parametrize("stored", [False, True], ids=["recomputed", "stored"])
@pytest.mark.parametrize("spread", [1, 6], ids=["merged", "apart"])
def test_the_block_passes_of_a_step_are_those_that_are_planned(make_llama, stored, spread):
    """Rows x blocks: four roles through blocks 0 to ℓ, and retain and reasoning once more through the blocks that train."""
    widths = {role: 6 + spread * place for place, role in enumerate(LONG)}
    model, step = selected(make_llama(layers=6)), batch(widths=widths)
    terms, _ = terms_of(R2MU(layer=LAYER, steering_coefficient=6.5))
    engine = Engine(model, terms, stored_of(model, step) if stored else None)
    seen = rows_through_blocks(model, engine, step, terms)
    plan = plan_of(terms)
    assert plan.trunk_layer == LAYER and list(plan.roles) == ["forget", "trace", "reasoning", "retain"]
    trunk = 4 * len(plan.roles) * (plan.trunk_layer + 1)
    branch = 0 if stored else 4 * 2 * len(TRAINED)
    assert sum(rows for _, rows, graph in seen if graph) == trunk == 64
    assert sum(rows for _, rows, graph in seen if not graph) == branch
    assert {number for number, _, graph in seen if not graph} == (set() if stored else set(TRAINED))
    # the released form: twelve whole passes
    assert 12 * 4 * 6 / (trunk + branch) > 3


class LargestSum(TorchDispatchMode):
    """Follows the tensors that operations make and notes the largest number of bytes that were alive at once."""

    def __init__(self):
        super().__init__()
        self.alive, self.largest, self._known = 0, 0, set()

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        given = {tensor.untyped_storage()._cdata for tensor in tree_leaves((args, kwargs)) if isinstance(tensor, torch.Tensor)}
        result = operation(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage()._cdata not in given:  # a view makes nothing
                self._follow(tensor.untyped_storage())
        return result

    def _follow(self, storage):
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self.alive += size
        self.largest = max(self.largest, self.alive)
        weakref.finalize(storage, self._drop, key, size)

    def _drop(self, key, size):
        self._known.discard(key)
        self.alive -= size


def kept_for_backward(block, states, positions):
    """Return the bytes that a block keeps for its backward pass, its input included, its weights not."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in block.parameters()}
    kept = {}

    def note(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)  # held, so that no address is used twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        block(states, position_embeddings=positions)
    return sum(size for size, _ in kept.values())


def test_the_memory_of_a_step_is_that_of_the_blocks_that_train(make_llama, tmp_path):
    """Beyond the model: copies, gradients and two moments of three tensors, and the activations of three blocks."""
    make_llama(layers=12, width=WIDE).save_pretrained(tmp_path)
    model = selected(load_cut(str(tmp_path), LAYER, world=WorldSection()))
    step = batch(widths=LONG, count=4)
    terms, _ = terms_of(R2MU(layer=LAYER, steering_coefficient=6.5), width=WIDE)
    engine = Engine(model, terms)
    trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    optimizer = masked_adamw(trained, lr=7.5e-5)

    def once():
        optimizer.zero_grad()
        engine(step, count_units(terms, step), range(len(terms)))["loss"].backward()
        optimizer.step()

    with LargestSum() as memory:
        for _ in range(2):
            once()
    tensors = sum(parameter.numel() * parameter.element_size() for _, parameter in trained)
    assert len(trained) == 3 and engine._frozen.original.stored_bytes == tensors
    rows = 4 * len(LONG)
    states = torch.randn(rows, LENGTH, WIDE, requires_grad=True)
    positions = model.model.rotary_emb(states, torch.arange(LENGTH).unsqueeze(0))
    block = kept_for_backward(model.model.layers[LAYER], states, positions)
    # the copies were made before; gradients and two moments are made in the steps
    assert 3 * tensors < memory.largest <= 3 * tensors + len(TRAINED) * block
    assert memory.largest < 0.4 * two_whole_models(make_llama(layers=12, width=WIDE), step)


def two_whole_models(model, step):
    """Return the largest sum of live tensors of the plain form: whole passes of two models, gradients of every parameter."""
    frozen = copy.deepcopy(model)
    parameters = dict(model.named_parameters())
    optimizer = torch.optim.AdamW([parameters[name] for name in NAMES], lr=7.5e-5)

    def hidden(which, tensors):
        return which(
            input_ids=tensors["input_ids"], attention_mask=tensors["attention_mask"], output_hidden_states=True
        ).hidden_states[LAYER + 1]

    control = torch.ones(WIDE)
    with LargestSum() as memory:
        for _ in range(2):
            optimizer.zero_grad()
            loss = torch.zeros(())
            for role in ("forget", "trace"):
                states = hidden(model, step[role])
                loss = loss + F.mse_loss(states, control.expand_as(states))
            for role in ("retain", "reasoning"):
                with torch.no_grad():
                    before = hidden(frozen, step[role])
                loss = loss + F.mse_loss(hidden(model, step[role]), before)
            loss.backward()
            optimizer.step()
    return memory.largest
