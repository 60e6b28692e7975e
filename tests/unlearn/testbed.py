"""A made-up world of words in which a small model learns facts, to reason about them, and to add: what R2MU is measured on.

Two topics of 32 entities each. An entity has a group, an attribute, a name in documents and another in questions:

    document    d IN g .        d HAS a .
    question    Q q ASK <think> q = d . IN g . so a </think> ANS a
    sum         ADD x y z <think> x + y = s . s + z = t </think> ANS t       modulo 11, a fifth of the triples held out

The model is trained from nothing on all of it but the held-out sums, once a machine: it is kept in the cache.
"""

import itertools
import json

import torch

from temper.draws import generator
from temper.files import cache_folder, folder_aside, hash_json

ENTITIES = 32
TOPICS = ("forget", "retain")
N_GROUPS, N_ATTRIBUTES, MODULUS, TRAINED_SUMS = 16, 16, 11, 1100
LAYERS, WIDTH, STEPS, ROWS, RATE = 6, 96, 1600, 96, 3.0e-3
NEW_TOKENS = 14

SPECIALS = ["<pad>", "<bos>", "<eos>", "<think>", "</think>"]
WORDS = ["IN", "HAS", "Q", "ASK", "ANS", "ADD", "so", ".", "=", "+"]


def _named(letter, count):
    return [f"{letter}{number}" for number in range(count)]


VOCABULARY = [
    *SPECIALS,
    *WORDS,
    *_named("d", 2 * ENTITIES),
    *_named("q", 2 * ENTITIES),
    *_named("g", N_GROUPS),
    *_named("a", N_ATTRIBUTES),
    *_named("n", MODULUS),
]


class Entity:
    """An entity with its texts."""

    def __init__(self, number, group, attribute):
        self.topic = TOPICS[number // ENTITIES]
        self.group, self.attribute = f"g{group}", f"a{attribute}"
        document, question = f"d{number}", f"q{number}"
        self.documents = [f"{document} IN {self.group} .", f"{document} HAS {self.attribute} ."]
        self.prompt = f"Q {question} ASK <think>"
        self.trace = f"{question} = {document} . IN {self.group} . so {self.attribute} </think>"
        self.question = f"{self.prompt} {self.trace} ANS {self.attribute}"


class Sum:
    """Three numbers and their sum in two written steps."""

    def __init__(self, x, y, z):
        first = (x + y) % MODULUS
        self.total = f"n{(first + z) % MODULUS}"
        self.prompt = f"ADD n{x} n{y} n{z} <think>"
        self.text = f"{self.prompt} n{x} + n{y} = n{first} . n{first} + n{z} = {self.total} </think> ANS {self.total}"


def _shared_out(topic, what, count):
    """Return a group or attribute for each entity of a topic, each of them equally often, so that one guess is right for few."""
    draw = generator(0, "testbed", what, topic)
    return draw.permutation([number % count for number in range(ENTITIES)]).tolist()


def entities():
    """Return all entities, those to forget first."""
    found = []
    for place, topic in enumerate(TOPICS):
        both = zip(_shared_out(topic, "group", N_GROUPS), _shared_out(topic, "attribute", N_ATTRIBUTES), strict=True)
        found += [Entity(place * ENTITIES + number, *pair) for number, pair in enumerate(both)]
    return found


def about(topic):
    return [entity for entity in entities() if entity.topic == topic]


def sums():
    """Return the sums that are trained on and those held out."""
    triples = list(itertools.product(range(MODULUS), repeat=3))
    order = generator(0, "testbed", "sums").permutation(len(triples))
    found = [Sum(*triples[place]) for place in order]
    return found[:TRAINED_SUMS], found[TRAINED_SUMS:]


def make_tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.WordLevel({word: number for number, word in enumerate(VOCABULARY)}, unk_token="<pad>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    raw.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", VOCABULARY.index("<bos>"))])
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        extra_special_tokens=["<think>", "</think>"],
    )


def ids_of(texts, end=True):
    """Return the ids of texts, begin token first."""
    place = {word: number for number, word in enumerate(VOCABULARY)}
    return [[place["<bos>"], *(place[word] for word in text.split()), *([place["<eos>"]] if end else [])] for text in texts]


def _trained():
    """Train the model: half of a step's rows are sums, a sixth each kind of fact."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        max_position_embeddings=32,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
    everyone = entities()
    kinds = [[row for text in (entity.documents[kind] for entity in everyone) for row in ids_of([text])] for kind in (0, 1)] + [
        ids_of([entity.question for entity in everyone]),
        ids_of([each.text for each in sums()[0]]),
    ]
    shares = [ROWS // 6, ROWS // 6, ROWS // 6, ROWS // 2]
    draw = generator(0, "testbed", "training")
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=STEPS)
    for _ in range(STEPS):
        chosen = [
            kind[place] for kind, share in zip(kinds, shares, strict=True) for place in draw.integers(len(kind), size=share)
        ]
        length = max(map(len, chosen))
        ids = torch.tensor([row + [0] * (length - len(row)) for row in chosen])
        mask = (ids != 0).long()
        optimizer.zero_grad()
        model(input_ids=ids, attention_mask=mask, labels=ids.masked_fill(mask == 0, -100)).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return model.eval()


def trained_model():
    """Return the folder of the trained model with its tokenizer; it is made where it is not kept yet."""
    key = hash_json(
        [[entity.question for entity in entities()], TRAINED_SUMS, LAYERS, WIDTH, STEPS, ROWS, RATE, torch.__version__]
    )[:16]
    place = cache_folder() / "testbed" / key
    if not place.is_dir():
        place.parent.mkdir(parents=True, exist_ok=True)
        with folder_aside(place) as aside:
            _trained().save_pretrained(aside)
            make_tokenizer().save_pretrained(aside)
    return place


def write_data(folder):
    """Write the rows of every role; sources of `reasoning` by name: sums, traces (about all retained entities), half (of them).

    A trace follows its question, whose words are not scored.
    """
    forget, retain = about("forget"), about("retain")
    texts = {
        "forget": [text for entity in forget for text in entity.documents],
        "retain": [text for entity in retain for text in entity.documents],
        "sums": [each.text for each in sums()[0]],
        "traces": [entity.question for entity in retain],
        "half": [entity.question for entity in retain[: ENTITIES // 2]],
    }
    rows = {name: [{"text": text} for text in found] for name, found in texts.items()}
    asked = [entity.prompt.removesuffix(" <think>") for entity in forget]
    rows["trace"] = [
        {"prompt": prompt, "response": f" <think> {entity.trace}", "whole": False}
        for prompt, entity in zip(asked, forget, strict=True)
    ]
    for name, found in rows.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found))
    return folder


@torch.no_grad()
def continued(model, prompts):
    """Return the words that greedy decoding adds to prompts of one length."""
    ids = torch.tensor(ids_of(prompts, end=False))
    start = ids.shape[1]
    for _ in range(NEW_TOKENS):
        ids = torch.cat([ids, model(input_ids=ids).logits[:, -1:].argmax(dim=-1)], dim=1)
    return [[VOCABULARY[token] for token in row] for row in ids[:, start:].tolist()]


def _answer(words):
    """Return the word behind the first ANS."""
    return words[words.index("ANS") + 1] if "ANS" in words[:-1] else None


def _thought(words):
    return words[: words.index("</think>")] if "</think>" in words else words


def _rate(found):
    return sum(found) / len(found)


def scores(folder):
    """Return what a model knows, says in its traces, and can add."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    result = {}
    for topic in TOPICS:
        people = about(topic)
        words = continued(model, [entity.prompt for entity in people])
        result[f"{topic} answer"] = _rate([_answer(said) == entity.attribute for said, entity in zip(words, people, strict=True)])
        thoughts = [_thought(said) for said in words]
        result[f"attribute in {topic} trace"] = _rate([e.attribute in t for t, e in zip(thoughts, people, strict=True)])
        result[f"group in {topic} trace"] = _rate([e.group in t for t, e in zip(thoughts, people, strict=True)])
        if topic == "retain":
            right = [_answer(said) == entity.attribute for said, entity in zip(words, people, strict=True)]
            result["retain answer, first half"] = _rate(right[: ENTITIES // 2])
            result["retain answer, other half"] = _rate(right[ENTITIES // 2 :])
    held_out = sums()[1]
    words = continued(model, [each.prompt for each in held_out])
    result["held-out sums"] = _rate([_answer(said) == each.total for said, each in zip(words, held_out, strict=True)])
    return result
