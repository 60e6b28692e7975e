"""Claim: writing reasoning traces in batches takes at most a third of the CPU-seconds of writing them one at a time.

Model: the original of the embedded world (default size, seed 0), greedy, float32, one thread, 96 questions about facts to forget, traces that stop at
the closing tag, about 26 tokens each.

- one at a time, the usual way: one prompt a call of the model's `generate`, until the closing tag.
- in batches: `GeneratedTraces` with its usual 32 prompts at a time, sorted by length, everything that it writes to disk included.

Both ways give the same traces. Floor: the multiplications of the prompts and of the tokens written, each through all blocks and the head once,
at the speed of a product of a prompt's size; a step of one token does not reach it, since weights are read for a single row.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from timing import Bar, alternating, cpu_seconds, multiplications_per_second, report

from temper.data.provider import Request
from temper.data.readers import read
from temper.models.generation import continuations
from temper.models.load import load_model, load_tokenizer
from temper.reason.tracefile import Trace
from temper.reason.traces import GeneratedTraces
from temper.recipe import DataSource, WorldSection

ROWS, WORLD = 96, WorldSection()


def main() -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    model = load_model("world:original", world=WORLD)
    tokenizer = load_tokenizer("world:original", world=WORLD)
    source = DataSource(path="world:forget_direct", limit=ROWS)
    rows = read(source, WORLD)
    settings = GeneratedTraces()
    calls: list[int] = []
    model.register_forward_pre_hook(lambda *_: calls.append(1))

    def request(folder: Path | None) -> Request:
        return Request("trace", source, rows, tokenizer, 0, 256, load=lambda: model, identity="world", folder=folder)

    def in_batches() -> list[Trace]:
        with tempfile.TemporaryDirectory() as folder:
            traces = settings.collect(request(Path(folder))).traces
            assert traces is not None
            return traces

    prompts = [trace.prompt for trace in in_batches()]

    def one_at_a_time() -> list[str]:
        found = []
        for prompt in prompts:
            (one,) = continuations(model, tokenizer, [prompt], max_new_tokens=200, batch_size=1, stop=[settings.close_tag])
            found.append(one.text + one.stop)
        return found

    def passes(way: Any) -> int:
        calls.clear()
        way()
        return len(calls)

    ways = {"one at a time": one_at_a_time, "in batches": in_batches}
    traces = in_batches()
    same = [trace.text for trace in traces] == one_at_a_time()
    forwards = {name: passes(way) for name, way in ways.items()}
    best = alternating(ways, repeats=3)
    wall = {}
    for name, way in ways.items():
        with cpu_seconds() as spent:
            way()
        wall[name] = round(spent["wall"], 3)
    config = model.config.get_text_config()
    weights = sum(p.numel() for name, p in model.named_parameters() if p.dim() == 2 and "embed" not in name)
    if config.tie_word_embeddings:
        weights += config.vocab_size * config.hidden_size
    tokens = sum(len(tokenizer(trace.prompt)["input_ids"]) + trace.tokens for trace in traces)
    floor = tokens * weights / multiplications_per_second(config.hidden_size)
    report(
        "reasoning traces in batches against one at a time",
        [
            Bar("CPU-seconds, one at a time / in batches", best["one at a time"] / best["in batches"], at_least=3.0),
            Bar("traces that differ", 0.0 if same else 1.0, at_most=0.0),
        ],
        {
            "cpu_seconds": {name: round(value, 3) for name, value in best.items()},
            "wall_seconds": wall,
            "forward_passes": forwards,
            "traces": {"count": len(traces), "tokens": sum(trace.tokens for trace in traces)},
            "floor": {
                "multiplications": tokens * weights,
                "cpu_seconds": round(floor, 4),
                "floor_over_measured_seconds": {name: round(floor / value, 3) for name, value in best.items()},
            },
        },
    )


if __name__ == "__main__":
    main()
