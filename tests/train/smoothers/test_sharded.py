"""Every smoother on weights that FSDP2 shards over two processes gives what it gives on whole weights."""

import datetime
import os

import pytest
import torch

from temper.train.smoothers import CR, GP, RS, SAM, WA

SMOOTHERS = {
    "sam": SAM(rho=0.5),
    "sam by tensor": SAM(rho=0.5, scope="tensor"),
    "sam adaptive": SAM(rho=0.5, adaptive=True),
    "rs": RS(rho=0.1),
    "gp": GP(coefficient=2.0),
    "cr": CR(coefficient=2.0),
    "wa": WA(start=1, every=1),
}


def network():
    # 5 rows do not divide by 2, so that one shard is smaller
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3)).double()


def whole(tensor):
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def trained(model, smoother):
    """Return per step whether the weights came back, then the gradients and the weights at the end."""
    rows = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    parameters = list(model.parameters())

    def adds(sign):
        def run():
            loss = sign * model(rows).square().mean()
            loss.backward()
            return loss.item()

        return run

    smoothing = smoother.begin(parameters)
    result = {}
    for step in range(2):
        before = [whole(p.detach()).clone() for p in parameters]
        smoothing.step(adds(-1.0), adds(0.5), (0, step))
        result[f"restored {step}"] = torch.tensor(
            [torch.equal(whole(p.detach()), b) for p, b in zip(parameters, before, strict=True)]
        )
        for number, parameter in enumerate(parameters):
            result[f"gradient {step} {number}"] = whole(parameter.grad).clone()
        with torch.no_grad():
            for parameter in parameters:
                parameter.sub_(parameter.grad, alpha=0.1)
        smoothing.after_step(step + 1)
        state = smoothing.state()
        smoothing = smoother.begin(parameters)
        smoothing.load_state(state)
    smoothing.finish()
    for number, parameter in enumerate(parameters):
        result[f"weight {number}"] = whole(parameter.detach()).clone()
    return result


def worker(rank, port_file, folder):
    import torch.distributed as dist
    from safetensors.torch import save_file
    from torch.distributed.fsdp import fully_shard

    os.environ["OMP_NUM_THREADS"] = "1"
    store = dist.FileStore(port_file, 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2, timeout=datetime.timedelta(seconds=60))
    mesh = dist.init_device_mesh("cpu", (2,))
    for name, smoother in SMOOTHERS.items():
        model = network()
        for layer in (model[0], model[2], model):
            fully_shard(layer, mesh=mesh)
        result = trained(model, smoother)
        if rank == 0:
            save_file(result, f"{folder}/{name}.safetensors")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    import torch.multiprocessing as mp

    folder = tmp_path_factory.mktemp("sharded")
    mp.spawn(worker, args=(str(folder / "store"), str(folder)), nprocs=2)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", SMOOTHERS)
def test_sharded_weights_give_the_gradients_and_the_end_of_whole_ones(sharded, name):
    from safetensors.torch import load_file

    expected = trained(network(), SMOOTHERS[name])
    found = load_file(sharded / f"{name}.safetensors")
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert torch.allclose(found[key].double(), value.double(), rtol=1e-9, atol=1e-12), key
    assert all(value.all() for key, value in found.items() if key.startswith("restored"))
