import copy
from itertools import pairwise

import pytest
import torch

from temper.models.generation import cut_at_end, generate, prompt_ids
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
