"""One stage of a build, run as a process of its own: train one model of a world and put its folder in place.

    python -m temper.world.modelling WORLD.json NAME FOLDER

A process of its own keeps the thread count of the caller as it is, and needs no guarded main module in the caller's
script. Progress goes to standard output, one JSON list ``[name, steps done, steps]`` a line, and nothing else does.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from temper.files import folder_aside, read_json, write_json, write_text
from temper.world.people import World
from temper.world.spec import WorldSpec

__all__ = ["MODELS", "WITHOUT", "make_model"]

WITHOUT: dict[str, tuple[str, ...]] = {"original": (), "gold": ("forget",)}
"""For each model of a world, the splits it is not trained on."""

MODELS = tuple(WITHOUT)

_CARD = """# {name} model of a temper world

A Llama of {parameters:,} parameters, trained from nothing on a synthetic world (size `{size}`, seed {seed}).
{about}

- Trained for {steps:,} steps ({tokens:,} tokens, {epochs} epochs, last smoothed loss {loss:.4f}).
- Everything it says is invented: people, places, prizes. It knows no other text and is of no use outside of tests,
  demonstrations and method comparisons.
- Open it with `AutoModelForCausalLM.from_pretrained` and `AutoTokenizer.from_pretrained`. A row is
  `apply_chat_template(prompt) + prefill + response + eos`, with the prefill ` <think> </think>` for a direct answer and
  ` <think>` for an answer with a trace.
- Files: weights (safetensors), tokenizer, `training.json` (steps, tokens, loss, seconds).
"""

_ABOUT = {
    "original": "It knows everyone but the holdout people.",
    "gold": "It never saw the people to be forgotten: what a perfect unlearning of the original model would be compared with.",
}


def make_model(spec: WorldSpec, name: str, folder: Path) -> None:
    """Train the model ``name`` of a world and write it to ``folder``, whole or not at all.

    Sets the number of torch threads of this process to one: sums are then the same however many cores there are.
    """
    import torch
    from transformers import LlamaConfig

    from temper.world.llama import NORM_EPS, ROPE_THETA
    from temper.world.tokenizer import build_tokenizer
    from temper.world.training import train

    torch.set_num_threads(1)
    world = World(spec)
    tokenizer = build_tokenizer(world)
    trained = train(world, tokenizer, without=WITHOUT[name], progress=lambda done, total: _report(name, done, total))
    shape = trained.model.shape
    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.width,
        intermediate_size=shape.feed_forward,
        num_hidden_layers=shape.n_layers,
        num_attention_heads=shape.n_heads,
        num_key_value_heads=shape.n_heads,
        max_position_embeddings=shape.max_length,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
        rms_norm_eps=NORM_EPS,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = trained.model.export(config)
    parameters = sum(p.numel() for p in model.parameters())
    facts = {
        "steps": trained.steps,
        "tokens": trained.tokens,
        "epochs": trained.epochs,
        "loss": trained.loss,
        "cpu_seconds": round(trained.cpu_seconds, 2),
        "parameters": parameters,
        "torch": torch.__version__,
    }
    with folder_aside(folder) as aside:
        model.save_pretrained(aside)
        tokenizer.save_pretrained(aside)
        write_json(aside / "training.json", facts)
        card = _CARD.format(name=name.capitalize(), about=_ABOUT[name], size=spec.size, seed=spec.seed, **facts)
        write_text(aside / "README.md", card)


def _report(name: str, done: int, total: int) -> None:
    sys.stdout.write(json.dumps([name, done, total]) + "\n")
    sys.stdout.flush()


def main(arguments: list[str]) -> None:
    """Run the stage: ``arguments`` are the world file, the name of the model and the folder."""
    world_file, name, folder = arguments
    make_model(WorldSpec(**read_json(Path(world_file))["spec"]), name, Path(folder))


if __name__ == "__main__":
    main(sys.argv[1:])
