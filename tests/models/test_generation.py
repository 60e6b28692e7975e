import copy
from collections import Counter
from itertools import pairwise

import pytest
import torch
from scipy.stats import chi2

from temper.errors import InputError
from temper.models.generation import continuations, cut_at_end, cut_at_stop, generate, prompt_ids, prompt_keys, sample
from tests.data.tokenizers import make_tokenizer

TOKENIZER = make_tokenizer()
PROMPTS = [
    "Where was Ada born?",
    "In",
    "The author writes books about",
    "<s><|user|>Where?<|assistant|> <think>",
    "question answer who what",
]


@pytest.fixture
def model(make_llama):
    return make_llama(vocab=len(TOKENIZER), layers=2)


def by_hand(model, tokenizer, prompt, count):
    """Greedy decoding without a cache, padding or batches."""
    ids = tokenizer(prompt, add_special_tokens=not prompt.startswith("<s>"))["input_ids"]
    start = len(ids)
    with torch.no_grad():
        for _ in range(count):
            best = int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
            if best == 2:
                break
            ids.append(best)
    return tokenizer.decode([token for token in ids[start:] if token != 0])


def speaking(model, tokens, after):
    """Make a model say given tokens: from the token `after`, each leads to the next, whatever came before."""
    chain = [after, *tokens]
    width = model.config.hidden_size
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        model.model.embed_tokens.weight.zero_()
        model.lm_head.weight.zero_()
        for place, (now, then) in enumerate(pairwise(chain)):
            model.model.embed_tokens.weight[now, place % width] = 1.0
            model.lm_head.weight[then, place % width] = 1.0
    return model


def test_batched_replies_equal_greedy_decoding_by_hand(model):
    found = generate(model, TOKENIZER, PROMPTS, max_new_tokens=8, batch_size=3)
    assert found == [by_hand(model, TOKENIZER, prompt, 8) for prompt in PROMPTS]


def test_the_size_of_the_batch_does_not_matter(model):
    replies = [generate(model, TOKENIZER, PROMPTS, max_new_tokens=8, batch_size=size) for size in (1, 2, 64)]
    assert replies[0] == replies[1] == replies[2]


def test_no_prompts_give_no_replies(model):
    assert generate(model, TOKENIZER, [], max_new_tokens=4, batch_size=2) == []


def test_an_empty_prompt_gives_an_empty_reply_where_no_begin_token_stands_in(make_llama):
    tokenizer = make_tokenizer(bos=False)
    assert generate(make_llama(vocab=len(tokenizer)), tokenizer, ["", ""], max_new_tokens=4, batch_size=2) == ["", ""]


def test_a_tokenizer_without_pad_token_gives_the_same_replies(model):
    bare = generate(model, make_tokenizer(pad=False), PROMPTS, max_new_tokens=8, batch_size=3)
    # to such a tokenizer <pad> is a word like any other
    assert [reply.replace("<pad>", "") for reply in bare] == generate(model, TOKENIZER, PROMPTS, max_new_tokens=8, batch_size=3)


def test_thought_tags_survive_and_the_reply_stops_at_its_end(model):
    think, close, word = (TOKENIZER.convert_tokens_to_ids(token) for token in ("<think>", "</think>", "e"))
    speaking(model, [think, word, close, word + 1, 2, word], after=TOKENIZER("Ada?")["input_ids"][-1])
    reply = generate(model, TOKENIZER, ["Ada?", "Where was Ada?"], max_new_tokens=12, batch_size=2)
    assert reply == [f"<think>e</think>{TOKENIZER.decode([word + 1])}"] * 2


def test_a_model_that_pads_for_ever_says_nothing(model):
    with torch.no_grad():
        model.lm_head.weight.zero_()  # every logit is equal: the first token of the vocabulary, the pad token, wins
    assert generate(model, TOKENIZER, PROMPTS, max_new_tokens=6, batch_size=2) == [""] * len(PROMPTS)


def test_further_end_tokens_of_the_checkpoint_end_a_reply(model):
    word = TOKENIZER.convert_tokens_to_ids("e")
    speaking(model, [word, word + 1, word + 2], after=TOKENIZER("Ada?")["input_ids"][-1])
    model.generation_config.eos_token_id = [2, word + 1]
    assert generate(model, TOKENIZER, ["Ada?"], max_new_tokens=6, batch_size=1) == ["e"]


def test_settings_of_the_checkpoint_change_nothing_and_are_not_changed(model):
    plain = generate(model, TOKENIZER, PROMPTS, max_new_tokens=8, batch_size=3)
    model.generation_config.do_sample = True
    model.generation_config.temperature = 5.0
    model.generation_config.repetition_penalty = 3.0
    model.generation_config.max_new_tokens = 1
    before = copy.deepcopy(model.generation_config.to_dict())
    assert generate(model, TOKENIZER, PROMPTS, max_new_tokens=8, batch_size=3) == plain
    assert model.generation_config.to_dict() == before


def test_a_prompt_gets_one_begin_token(model):
    ids = prompt_ids(TOKENIZER, ["Where?", "<s>Where?"])
    assert ids[0] == ids[1] and ids[0].count(1) == 1


def test_an_end_token_that_the_tokenizer_adds_is_taken_off_prompts():
    assert prompt_ids(make_tokenizer(adds_eos=True), ["Where?"])[0][-1] != 2


def test_the_mode_of_the_model_is_put_back(model):
    model.train()
    generate(model, TOKENIZER, ["In"], max_new_tokens=2, batch_size=1)
    assert model.training


def test_padding_and_what_follows_the_end_are_cut():
    assert cut_at_end([5, 0, 6, 2, 7], frozenset({2}), 0) == [5, 6]
    assert cut_at_end([5, 0], frozenset(), None) == [5, 0]


def drawn(model, prompts, **changes):
    settings = {"samples": 3, "temperature": 1.0, "max_new_tokens": 8, "batch_size": 4, "seed": 0, **changes}
    return sample(model, TOKENIZER, prompts, **settings)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_the_first_drawn_token_has_the_distribution_of_the_model(model, temperature):
    count = 4000
    found = Counter(
        drawn(model, ["Where was Ada born?"], samples=count, temperature=temperature, max_new_tokens=1, batch_size=500)[0]
    )
    ids = TOKENIZER("Where was Ada born?")["input_ids"]
    with torch.no_grad():
        p_V = torch.softmax(model(input_ids=torch.tensor([ids])).logits[0, -1].double() / temperature, dim=-1)
    expected = Counter()  # tokens that read alike are one outcome
    for token, p in enumerate(p_V.tolist()):
        expected[TOKENIZER.decode(cut_at_end([token], frozenset({2}), 0))] += count * p
    assert set(found) <= set(expected)
    common = [text for text in expected if expected[text] >= 5]
    pairs = [(found[text], expected[text]) for text in common]
    pairs.append((count - sum(seen for seen, _ in pairs), count - sum(wanted for _, wanted in pairs)))
    statistic = sum((seen - wanted) ** 2 / wanted for seen, wanted in pairs)
    assert len(common) > 10 and statistic < chi2.ppf(0.999, len(pairs) - 1)


def test_later_tokens_are_drawn_anew(make_llama):
    flat = make_llama(vocab=len(TOKENIZER), layers=1)
    with torch.no_grad():
        flat.lm_head.weight.zero_()
    texts = drawn(flat, ["In"], samples=50, max_new_tokens=2, batch_size=50)[0]
    whole = [text for text in texts if text and "\ufffd" not in text]
    twice = [text for text in whole if text[: len(text) // 2] * 2 == text]
    assert len(whole) > 10 and len(twice) <= 1  # with the noise of the first step again, every token would come twice


def test_samples_do_not_depend_on_the_size_of_the_batch(model):
    found = [drawn(model, PROMPTS, batch_size=size) for size in (1, 4, 64)]
    assert found[0] == found[1] == found[2]


def test_samples_do_not_depend_on_the_order_of_the_prompts_or_on_what_else_is_asked(model):
    whole = drawn(model, PROMPTS)
    assert drawn(model, PROMPTS[::-1]) == whole[::-1]
    assert drawn(model, PROMPTS[2:3]) == whole[2:3]


def test_more_samples_go_on_where_fewer_stopped(model):
    assert [texts[:3] for texts in drawn(model, PROMPTS, samples=5)] == drawn(model, PROMPTS)


def test_the_same_seed_gives_the_same_samples_and_another_seed_others(model):
    assert drawn(model, PROMPTS) == drawn(model, PROMPTS) != drawn(model, PROMPTS, seed=1)


def test_sampling_neither_reads_nor_moves_the_global_generator(model):
    torch.manual_seed(0)
    state = torch.get_rng_state()
    drawn(model, PROMPTS[:1])
    assert torch.equal(torch.get_rng_state(), state)


def test_samples_of_one_prompt_differ_and_a_prompt_asked_twice_gets_new_ones(model):
    first, second = drawn(model, ["In", "In"])
    assert len({*first, *second}) == 6


def test_a_very_low_temperature_decodes_greedily(model):
    greedy = generate(model, TOKENIZER, PROMPTS, max_new_tokens=8, batch_size=3)
    assert drawn(model, PROMPTS, samples=1, temperature=1e-6) == [[reply] for reply in greedy]


def test_a_sample_ends_at_its_end_token(model):
    word = TOKENIZER.convert_tokens_to_ids("e")
    speaking(model, [word, 2, word + 1], after=TOKENIZER("Ada?")["input_ids"][-1])
    assert drawn(model, ["Ada?"], temperature=1e-3) == [["e", "e", "e"]]


def test_a_sample_is_cut_before_the_first_stop_text(model):
    letters = [TOKENIZER.convert_tokens_to_ids(letter) for letter in "etaoin"]
    speaking(model, letters, after=TOKENIZER("Ada?")["input_ids"][-1])
    assert drawn(model, ["Ada?"], samples=1, temperature=1e-3, max_new_tokens=6, stop=["oi", "ao"]) == [["et"]]


def test_stop_texts_save_steps_and_change_nothing_before_them(model):
    steps = []
    handle = model.register_forward_pre_hook(lambda m, a: steps.append(1))
    free = drawn(model, ["In"], samples=1, max_new_tokens=40)[0][0]
    without = len(steps)
    stop = free[len(free) // 3 : len(free) // 3 + 4]
    assert drawn(model, ["In"], samples=1, max_new_tokens=40, stop=[stop]) == [[free[: free.index(stop)]]]
    handle.remove()
    assert len(steps) - without < without


def test_samples_with_stop_texts_do_not_depend_on_the_batch(model):
    found = [drawn(model, PROMPTS, batch_size=size, max_new_tokens=16, stop=["e", "a"]) for size in (1, 64)]
    assert found[0] == found[1] and not any("e" in text or "a" in text for texts in found[0] for text in texts)


def test_no_prompts_give_no_samples(model):
    assert drawn(model, []) == []


def test_the_first_stop_text_counts_whatever_their_order():
    assert cut_at_stop("a Q: b Question: c", ["Question:", "Q:"]) == "a "


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"samples": 0}, "samples = 0"),
        ({"temperature": 0.0}, "temperature = 0.0"),
        ({"temperature": float("inf")}, "temperature = inf"),
        ({"stop": [""]}, "stop = "),
        ({"stop": "Q:"}, "list of texts"),
    ],
)
def test_settings_of_sampling_that_cannot_be_are_refused(model, changes, said):
    with pytest.raises(InputError, match=said):
        drawn(model, PROMPTS, **changes)


def test_a_continuation_says_what_ended_it_and_how_many_tokens_it_has(model):
    letters = [TOKENIZER.convert_tokens_to_ids(letter) for letter in "etaoin"]
    speaking(model, [*letters, 2], after=TOKENIZER("Ada?")["input_ids"][-1])

    def found(**settings):
        (one,) = continuations(model, TOKENIZER, ["Ada?"], **{"max_new_tokens": 20, "batch_size": 1, **settings})
        return one.text, one.tokens, one.stopped_by, one.stop

    assert found() == ("etaoin", 6, "end", "")
    assert found(max_new_tokens=6) == ("etaoin", 6, "length", "")
    assert found(stop=["oi", "ta"]) == ("e", 3, "stop", "ta")
    assert found(stop=["ta", "tao"]) == ("e", 3, "stop", "ta")
    assert found(stop=["in"], max_new_tokens=6) == ("etao", 6, "stop", "in")
    assert found(stop=["no"]) == ("etaoin", 6, "end", "")


@pytest.mark.parametrize("changes", [{}, {"pad": False}, {"eos": False}])
def test_a_row_that_stops_early_counts_its_own_tokens_whatever_its_batch_does(model, changes):
    tokenizer = make_tokenizer(**changes)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    letters = [tokenizer.convert_tokens_to_ids(letter) for letter in "etaoin"]
    speaking(model, letters, after=tokenizer("Ada?")["input_ids"][-1])
    alone, beside = (
        continuations(model, tokenizer, prompts, max_new_tokens=12, batch_size=2, stop=["oi"])
        for prompts in (["Ada?"], ["Ada?", "In London"])
    )
    assert alone[0] == beside[0] and alone[0].stopped_by == "stop" and alone[0].tokens == 5


def test_greedy_stop_texts_save_steps_and_change_nothing_before_them(model):
    steps = []
    handle = model.register_forward_pre_hook(lambda m, a: steps.append(1))
    free = generate(model, TOKENIZER, ["In"], max_new_tokens=40, batch_size=1)[0]
    without = len(steps)
    stop = free[len(free) // 3 : len(free) // 3 + 4]
    assert generate(model, TOKENIZER, ["In"], max_new_tokens=40, batch_size=1, stop=[stop]) == [free[: free.index(stop)]]
    handle.remove()
    assert len(steps) - without < without


def test_a_stop_text_is_found_when_its_characters_are_split_over_tokens(model):
    tokens = TOKENIZER("na😀é", add_special_tokens=False)["input_ids"]
    assert len(tokens) > len("na😀é")
    speaking(model, [*tokens, 2], after=TOKENIZER("Ada?")["input_ids"][-1])
    (one,) = continuations(model, TOKENIZER, ["Ada?"], max_new_tokens=20, batch_size=1, stop=["😀"])
    assert (one.text, one.stopped_by, one.tokens) == ("na", "stop", len(TOKENIZER("na😀", add_special_tokens=False)["input_ids"]))


def test_continuations_drawn_in_parts_under_the_names_of_the_whole_are_those_of_the_whole(model):
    prompts = ["In", "Where?", "In"]
    settings = {"max_new_tokens": 8, "batch_size": 2, "temperature": 1.0, "seed": 3}
    whole = continuations(model, TOKENIZER, prompts, **settings)
    keys = prompt_keys(prompt_ids(TOKENIZER, prompts))
    parts = [
        continuations(model, TOKENIZER, [prompt], keys=[key], **settings)[0] for prompt, key in zip(prompts, keys, strict=True)
    ]
    assert parts == whole and whole[0] != whole[2]
    assert [one.text for one in whole[:2]] == [texts[0] for texts in drawn(model, prompts[:2], samples=1, seed=3)]


@pytest.mark.parametrize("changes", [{"temperature": -1.0}, {"temperature": float("nan")}, {"stop": "no list"}, {"stop": [""]}])
def test_settings_of_continuations_that_cannot_be_are_refused(model, changes):
    with pytest.raises(InputError):
        continuations(model, TOKENIZER, ["In"], max_new_tokens=2, batch_size=1, **changes)
