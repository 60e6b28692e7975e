"""Train the two models of the TOFU benchmark from nothing: the original, and the gold model that never saw the forget rows.

    python benchmarks/real/tofu_models.py FOLDER [--epochs 40] [--only original]

Rows are the real TOFU pairs (TEMPER_REAL_DATA). The first 200 rows (10 authors) are set aside as holdout before any
training; the last 200 (forget05, which holds forget01) are what the gold model never sees. Both models share one byte-level
BPE tokenizer, trained on the questions and answers of the rows that both see.

A run writes FOLDER/original or FOLDER/gold: a Llama folder with `training.json`, which holds the extraction strength (the
share of an answer that greedy decoding completes) of forget01 and of 100 retain rows every few epochs.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch

from temper.data import read
from temper.draws import generator
from temper.files import folder_aside, write_json
from temper.recipe import DataSource, WorldSection
from temper.world.llama import NORM_EPS, ROPE_THETA, LeanLlama, Shape
from temper.world.products import tied_cross_entropy
from temper.world.training import IGNORED, batches

HOLDOUT, FORGET = 200, 200
VOCABULARY, WIDTH, LAYERS, HEADS, CONTEXT = 2500, 192, 4, 6, 512
BATCH_TOKENS, LEARNING_RATE, WARMUP, DECAY = 1536, 2.5e-3, 100, 0.35
PROMPT = "Question: {prompt}\nAnswer:"


def source(path: Path, **cut: Any) -> DataSource:
    """Return a TOFU file as a data source."""
    return DataSource(path=str(path), prompt="question", response="answer", template="plain", plain_format=PROMPT, **cut)


def tokenizer_of(texts: list[str]) -> Any:
    """Return a byte-level BPE tokenizer trained on texts."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    specials = ["<pad>", "<s>", "</s>"]
    raw.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            special_tokens=specials,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    raw.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", bos_token="<s>", eos_token="</s>")


def encoded(tokenizer: Any, rows: list[dict[str, Any]]) -> list[tuple[list[int], int]]:
    """Return ids and the first scored position of each row; the question is not scored."""
    heads = [PROMPT.replace("{prompt}", row["question"]) for row in rows]
    whole = tokenizer([f"{head} {row['answer']}" for head, row in zip(heads, rows, strict=True)]).input_ids
    starts = tokenizer(heads).input_ids
    return [([*ids, tokenizer.eos_token_id], len(start)) for ids, start in zip(whole, starts, strict=True)]


@torch.no_grad()
def extraction_strength(model: LeanLlama, rows: list[tuple[list[int], int]], pad: int) -> float:
    """Return the mean share of an answer that is right from some place to its end, teacher-forced."""
    strengths = []
    for ids, labels in batches(rows, 4096, pad, generator(0, "strength")):
        hit = (model.hidden(ids) @ model.weights["embed"].T).argmax(-1) == labels
        for line in range(len(ids)):
            right = hit[line][labels[line] != IGNORED].tolist()
            tail = next((n for n, good in enumerate(reversed(right)) if not good), len(right))
            strengths.append(tail / len(right))
    return sum(strengths) / len(strengths)


def train(folder: Path, data: Path, name: str, epochs: int) -> None:
    """Train one model and write its folder whole."""
    from transformers import LlamaConfig

    everything = read(source(data / "full.json"), WorldSection())[HOLDOUT:]
    kept = everything[:-FORGET]
    tokenizer = tokenizer_of([PROMPT.replace("{prompt}", row["question"]) + " " + row["answer"] for row in kept])
    rows = encoded(tokenizer, everything if name == "original" else kept)
    probes = {"forget01": encoded(tokenizer, everything[-40:]), "forget05": encoded(tokenizer, everything[-FORGET:])}
    probes["retain"] = encoded(tokenizer, kept[::36][:100])
    pad = tokenizer.pad_token_id
    model = LeanLlama(Shape(vocabulary=len(tokenizer), width=WIDTH, n_layers=LAYERS, n_heads=HEADS, max_length=CONTEXT), 0)
    optimiser = torch.optim.AdamW(
        [{"params": [model.matrices], "weight_decay": 0.01}, {"params": [model.vectors], "weight_decay": 0.0}],
        lr=LEARNING_RATE,
        betas=(0.9, 0.98),
        fused=True,
    )
    steps = epochs * sum(1 for _ in batches(rows, BATCH_TOKENS, pad, generator(0, "count")))
    started, step, tokens, history = time.process_time(), 0, 0, []
    for epoch in range(epochs):
        total = 0.0
        count = 0
        for ids, labels in batches(rows, BATCH_TOKENS, pad, generator(0, "epoch", epoch)):
            scored = labels != IGNORED
            loss = tied_cross_entropy(model.hidden(ids)[scored], model.weights["embed"], labels[scored])
            for flat in (model.matrices, model.vectors):
                flat.grad.zero_()
            loss.backward()
            torch.nn.utils.clip_grad_norm_([model.matrices, model.vectors], 1.0)
            done = step / steps
            rate = LEARNING_RATE * min(1.0, (step + 1) / WARMUP) * min(1.0, max(0.02, (1 - done) / DECAY))
            for group in optimiser.param_groups:
                group["lr"] = rate
            optimiser.step()
            step, tokens, total, count = step + 1, tokens + ids.numel(), total + loss.item(), count + 1
        line = {"epoch": epoch + 1, "loss": round(total / count, 4), "cpu_s": round(time.process_time() - started, 1)}
        if epoch % 4 == 3 or epoch == epochs - 1:
            line |= {f"es_{probe}": round(extraction_strength(model, part, pad), 4) for probe, part in probes.items()}
        history.append(line)
        sys.stderr.write(f"{name} {line}\n")
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=WIDTH, intermediate_size=model.shape.feed_forward, num_hidden_layers=LAYERS,
        num_attention_heads=HEADS, num_key_value_heads=HEADS, max_position_embeddings=CONTEXT, rms_norm_eps=NORM_EPS,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA}, tie_word_embeddings=True,
        bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    exported = model.export(config)
    with folder_aside(folder / name) as aside:
        exported.save_pretrained(aside)
        tokenizer.save_pretrained(aside)
        facts = {"rows": len(rows), "steps": step, "tokens": tokens, "parameters": sum(p.numel() for p in exported.parameters())}
        write_json(aside / "training.json", {**facts, "history": history})


def main() -> None:
    """Train what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--only", choices=["original", "gold"])
    arguments = parser.parse_args()
    data = os.environ.get("TEMPER_REAL_DATA")
    if not data or not (Path(data) / "tofu").is_dir():
        parser.error("set TEMPER_REAL_DATA to the folder of the real data sets")
    torch.set_num_threads(1)
    for name in [arguments.only] if arguments.only else ["original", "gold"]:
        if not (arguments.folder / name).is_dir():
            train(arguments.folder, Path(data) / "tofu", name, arguments.epochs)


if __name__ == "__main__":
    main()
