import json

import pytest
import torch
from transformers import DynamicCache, StaticCache

from temper import assess
from temper.assess.records import score
from temper.data import Item
from temper.errors import ModelError
from temper.models.generation import generate, sample
from temper.models.heads import ScoredHead
from temper.models.load import load_config, load_model, load_tokenizer, resolve_path, weights_hash
from temper.models.offset import LogitOffsetModel, is_offset_folder, offset_logits
from temper.models.unlearned import UnlearnedModel
from temper.recipe import ModelSection, WorldSection, dump, from_dict
from tests.assess.builders import recipe_document, write_models
from tests.data.tokenizers import make_tokenizer

TOKENIZER = make_tokenizer()
WORLD = WorldSection()
PROMPTS = ["Where was Ada born?", "In", "The author writes books about", "question answer who what"]
IDS = torch.tensor([[1, 5, 6, 7], [1, 9, 2, 0]])
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])


@pytest.fixture
def members(make_llama):
    return tuple(make_llama(vocab=len(TOKENIZER), layers=layers, seed=seed) for layers, seed in ((2, 0), (3, 1)))


@pytest.fixture
def model(members):
    return LogitOffsetModel(*members, 0.7)


@pytest.fixture
def saved(model, tmp_path):
    model.save_pretrained(tmp_path / "offset", tokenizer=TOKENIZER)
    return tmp_path / "offset"


def test_the_formula_by_hand():
    z_0, z_reinf = torch.tensor([1.0, 2.0, -1.0]), torch.tensor([3.0, 0.0, -1.0])
    assert offset_logits(z_0, z_reinf, 1.5).tolist() == [-2.0, 2.0, -1.0]


def test_half_precision_stays_half_and_no_logit_rises():
    generator = torch.Generator().manual_seed(0)
    z_0, z_reinf = (torch.randn(1000, generator=generator).to(torch.bfloat16) for _ in range(2))
    found = offset_logits(z_0, z_reinf, 0.3)
    assert found.dtype == torch.bfloat16 and bool((found <= z_0).all())


def test_half_precision_is_rounded_once():
    generator = torch.Generator().manual_seed(0)
    z_0, z_reinf = (torch.randn(1000, generator=generator).to(torch.bfloat16) for _ in range(2))
    wanted = offset_logits(z_0.float(), z_reinf.float(), 0.3).to(torch.bfloat16)
    assert torch.equal(offset_logits(z_0, z_reinf, 0.3), wanted)


def test_strength_zero_gives_the_original_logits_exactly(members):
    found = LogitOffsetModel(*members, 0.0)(input_ids=IDS, attention_mask=MASK).logits
    assert torch.equal(found, members[0](input_ids=IDS, attention_mask=MASK).logits)


def test_no_logit_rises_and_some_fall(model, members):
    found = model(input_ids=IDS, attention_mask=MASK).logits
    original = members[0](input_ids=IDS, attention_mask=MASK).logits
    assert bool((found <= original).all()) and bool((found < original).any())


def test_where_the_reinforced_model_prefers_a_token_less_its_logit_stays(model, members):
    z_0, z_reinf = (member(input_ids=IDS).logits for member in members)
    found = model(input_ids=IDS).logits
    assert torch.equal(found[z_reinf <= z_0], z_0[z_reinf <= z_0])


def test_a_step_with_caches_gives_the_logits_of_the_whole_row(model):
    begun = model(input_ids=IDS[:, :3], use_cache=True)
    stepped = model(input_ids=IDS[:, 3:], past_key_values=begun.past_key_values, use_cache=True).logits
    torch.testing.assert_close(stepped, model(input_ids=IDS).logits[:, 3:])


def test_only_the_positions_wanted_get_logits(model):
    torch.testing.assert_close(model(input_ids=IDS, logits_to_keep=2).logits, model(input_ids=IDS).logits[:, 2:])


def test_a_tuple_is_given_where_it_is_asked_for(model):
    assert torch.equal(model(input_ids=IDS, use_cache=False, return_dict=False)[0], model(input_ids=IDS).logits)


def test_members_that_cannot_leave_positions_out_are_cut_afterwards(members):
    class Whole(type(members[0])):
        def forward(self, input_ids=None, attention_mask=None, past_key_values=None, use_cache=None, return_dict=None):
            return super().forward(
                input_ids=input_ids, attention_mask=attention_mask, past_key_values=past_key_values, use_cache=use_cache
            )

    whole = Whole(members[0].config).eval()
    whole.load_state_dict(members[0].state_dict())
    found = LogitOffsetModel(whole, members[1], 0.7)(input_ids=IDS, logits_to_keep=1).logits
    torch.testing.assert_close(found, LogitOffsetModel(*members, 0.7)(input_ids=IDS).logits[:, -1:])


def test_members_of_other_architectures_join_where_the_vocabulary_is_one(members):
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=len(TOKENIZER),
        n_positions=64,
        n_embd=32,
        n_layer=1,
        n_head=4,
        initializer_range=0.5,
        bos_token_id=1,
        eos_token_id=2,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        reinforced = GPT2LMHeadModel(config).eval()
    model = LogitOffsetModel(members[0], reinforced, 2.0)
    found = generate(model, TOKENIZER, PROMPTS, max_new_tokens=6, batch_size=3)
    assert found == [by_hand(model, prompt, 6) for prompt in PROMPTS]


@pytest.mark.parametrize("name", ["original", "reinforced"])
def test_positions_reach_both_members(model, name):
    seen = []
    handle = getattr(model, name).register_forward_pre_hook(
        lambda m, args, kwargs: seen.append(kwargs["position_ids"].tolist()), with_kwargs=True
    )
    padded, mask = torch.tensor([[0, 0, 5, 6], [1, 5, 6, 7]]), torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
    model.generate(input_ids=padded, attention_mask=mask, max_new_tokens=2, min_new_tokens=2, do_sample=False)
    handle.remove()
    assert [row[0][-1] for row in seen] == [1, 2] and [row[1][-1] for row in seen] == [3, 4]


def by_hand(model, prompt, count):
    """Greedy decoding without caches, padding or batches."""
    ids = TOKENIZER(prompt)["input_ids"]
    start = len(ids)
    with torch.no_grad():
        for _ in range(count):
            best = int(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax())
            if best == 2:
                break
            ids.append(best)
    return TOKENIZER.decode([token for token in ids[start:] if token != 0])


def test_batched_replies_with_caches_equal_greedy_decoding_by_hand(model):
    found = generate(model, TOKENIZER, PROMPTS, max_new_tokens=8, batch_size=3)
    assert found == [by_hand(model, prompt, 8) for prompt in PROMPTS]


def test_both_members_run_on_one_new_token_a_step(model, members):
    widths = []
    handles = [
        member.register_forward_pre_hook(lambda m, a, k: widths.append(k["input_ids"].shape[1]), with_kwargs=True)
        for member in members
    ]
    model.generate(input_ids=IDS[:1], attention_mask=MASK[:1], max_new_tokens=3, min_new_tokens=3, do_sample=False)
    for handle in handles:
        handle.remove()
    assert widths == [4, 4, 1, 1, 1, 1]


def test_strength_zero_says_what_the_original_says(members):
    settings = {"max_new_tokens": 8, "batch_size": 2}
    assert generate(LogitOffsetModel(*members, 0), TOKENIZER, PROMPTS, **settings) == generate(
        members[0], TOKENIZER, PROMPTS, **settings
    )


def test_samples_do_not_depend_on_the_batch(model):
    drawn = [
        sample(model, TOKENIZER, PROMPTS, samples=2, temperature=1.0, max_new_tokens=6, batch_size=size, seed=0)
        for size in (1, 8)
    ]
    assert drawn[0] == drawn[1]


@pytest.mark.parametrize("settings", [{"num_beams": 2}, {"num_beams": 2, "do_sample": True}, {"prompt_lookup_num_tokens": 2}])
def test_ways_of_generating_that_take_the_caches_apart_are_refused(model, settings):
    with pytest.raises(ModelError, match="num_beams = 1 and no assistant"):
        model.generate(input_ids=IDS[:1], max_new_tokens=2, **settings)


def test_beam_search_by_the_checkpoint_s_own_settings_is_refused(model):
    model.generation_config.num_beams = 3
    with pytest.raises(ModelError, match=r"num_beams = 3"):
        model.generate(input_ids=IDS[:1], max_new_tokens=2)


def test_a_cache_that_cannot_ride_is_refused(model):
    with pytest.raises(ModelError, match="StaticCache"):
        model(input_ids=IDS, past_key_values=StaticCache(config=model.config, max_cache_len=8))


def test_a_cache_that_another_model_filled_is_refused(model, members):
    cache = DynamicCache(config=model.config)
    members[0](input_ids=IDS, past_key_values=cache)
    with pytest.raises(ModelError, match="filled or cut by something else"):
        model(input_ids=IDS, past_key_values=cache)


def test_a_cache_that_was_cut_is_refused(model):
    cache = model(input_ids=IDS, use_cache=True).past_key_values
    cache.crop(-1)
    with pytest.raises(ModelError, match="filled or cut by something else"):
        model(input_ids=IDS[:, 3:], past_key_values=cache)


def test_vocabularies_of_other_sizes_are_refused(make_llama):
    with pytest.raises(ModelError, match="64 tokens, the reinforced one of 80"):
        LogitOffsetModel(make_llama(vocab=64), make_llama(vocab=80), 1.0)


@pytest.mark.parametrize("strength", [-0.1, float("nan"), float("inf"), True])
def test_a_strength_that_raises_logits_or_is_no_number_is_refused(members, strength):
    with pytest.raises(ModelError, match="at least 0"):
        LogitOffsetModel(*members, strength)


def test_an_adapter_is_refused_before_it_is_merged(members):
    import peft

    adapted = peft.get_peft_model(members[1], peft.LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    with pytest.raises(ModelError, match="the reinforced model carries an adapter"):
        LogitOffsetModel(members[0], adapted, 1.0)


def test_an_offset_of_an_offset_is_refused(model, members):
    with pytest.raises(ModelError, match="is a LogitOffsetModel"):
        LogitOffsetModel(model, members[1], 1.0)


def test_a_model_without_a_cache_of_keys_and_values_is_refused(members):
    from transformers import MambaConfig, MambaForCausalLM

    config = MambaConfig(
        vocab_size=len(TOKENIZER), hidden_size=16, state_size=4, num_hidden_layers=1, bos_token_id=1, eos_token_id=2
    )
    with pytest.raises(ModelError, match="recurrent state"):
        LogitOffsetModel(members[0], MambaForCausalLM(config), 1.0)


def test_models_with_experts_join(members):
    from transformers import MixtralConfig, MixtralForCausalLM

    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = MixtralConfig(
            vocab_size=len(TOKENIZER),
            hidden_size=32,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=4,
            num_key_value_heads=2,
            num_local_experts=4,
            num_experts_per_tok=2,
            bos_token_id=1,
            eos_token_id=2,
        )
        model = LogitOffsetModel(MixtralForCausalLM(config).eval(), members[1], 0.5)
    found = generate(model, TOKENIZER, PROMPTS, max_new_tokens=6, batch_size=3)
    assert found == [by_hand(model, prompt, 6) for prompt in PROMPTS]


def test_scored_positions_equal_the_full_logits(model):
    wanted = torch.tensor([[False, True, True, False], [True, False, False, False]])
    head = ScoredHead(model)
    full = torch.log_softmax(model(input_ids=IDS, attention_mask=MASK).logits[wanted], dim=-1)
    assert not head.is_direct and head.vocabulary == len(TOKENIZER)
    torch.testing.assert_close(head.log_probs(IDS, MASK, wanted), full)


def test_gradients_reach_both_members(model):
    model(input_ids=IDS).logits.sum().backward()
    assert all(member.lm_head.weight.grad is not None for member in (model.original, model.reinforced))


def test_the_mode_reaches_both_members(model):
    model.train()
    assert model.original.training and model.reinforced.training


def test_both_kinds_of_model_are_unlearned_models(model, members):
    assert isinstance(model, UnlearnedModel) and isinstance(members[0], UnlearnedModel)


def test_a_module_without_generation_is_no_unlearned_model():
    assert not isinstance(torch.nn.Linear(2, 2), UnlearnedModel)


def test_a_saved_folder_is_found_by_its_file_and_holds_safetensors_alone(saved):
    assert is_offset_folder(saved) and not is_offset_folder(saved / "original")
    assert json.loads((saved / "offset.json").read_text()) == {
        "schema": "temper/offset/1",
        "strength": 0.7,
        "members": {"original": "original", "reinforced": "reinforced"},
    }
    assert all((saved / name / "model.safetensors").is_file() for name in ("original", "reinforced"))
    assert not list(saved.rglob("*.bin"))


def test_a_saved_folder_gives_the_same_logits(model, saved):
    assert torch.equal(LogitOffsetModel.from_pretrained(saved)(input_ids=IDS).logits, model(input_ids=IDS).logits)


def test_a_saved_folder_loads_like_any_model(model, saved):
    loaded = load_model(str(saved), world=WORLD).cpu()
    assert isinstance(loaded, LogitOffsetModel) and not loaded.training
    assert torch.equal(loaded(input_ids=IDS, attention_mask=MASK).logits, model(input_ids=IDS, attention_mask=MASK).logits)


def test_a_saved_folder_loads_in_the_dtype_of_the_recipe(saved):
    loaded = load_model(str(saved), section=ModelSection(path=str(saved), dtype="bfloat16"), world=WORLD)
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.bfloat16}


def test_configuration_and_tokenizer_are_the_original_s(saved):
    assert load_config(str(saved), world=WORLD).num_hidden_layers == 2
    assert load_tokenizer(str(saved), world=WORLD).get_vocab() == TOKENIZER.get_vocab()


def test_a_tokenizer_beside_the_members_is_found_too(model, tmp_path):
    model.save_pretrained(tmp_path / "offset")
    TOKENIZER.save_pretrained(tmp_path / "offset")
    assert load_tokenizer(str(tmp_path / "offset"), world=WORLD).get_vocab() == TOKENIZER.get_vocab()


def test_changed_settings_of_generation_are_saved(model, tmp_path):
    model.generation_config.eos_token_id = [2, 7]
    model.save_pretrained(tmp_path / "offset")
    assert LogitOffsetModel.from_pretrained(tmp_path / "offset").generation_config.eos_token_id == [2, 7]


def test_the_hash_covers_strength_and_both_members(members, saved, tmp_path):
    LogitOffsetModel(*members, 0.7).save_pretrained(tmp_path / "same")
    LogitOffsetModel(*members, 0.8).save_pretrained(tmp_path / "stronger")
    LogitOffsetModel(*reversed(members), 0.7).save_pretrained(tmp_path / "swapped")
    hashes = [weights_hash(tmp_path / name) for name in ("offset", "same", "stronger", "swapped")]
    assert hashes[0] == hashes[1] and len(set(hashes)) == 3


def test_saving_again_replaces_the_earlier_save(members, saved):
    LogitOffsetModel(*members, 0.2).save_pretrained(saved)
    assert LogitOffsetModel.from_pretrained(saved).strength == 0.2


def test_a_folder_with_other_files_is_not_replaced(model, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ModelError, match=r"notes\.txt"):
        model.save_pretrained(tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_save_that_fails_leaves_nothing(model, tmp_path, monkeypatch):
    def fails(folder):
        raise OSError("no")

    monkeypatch.setattr(model.reinforced, "save_pretrained", fails)
    with pytest.raises(OSError, match="no"):
        model.save_pretrained(tmp_path / "offset")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_without_one_member_is_refused(saved):
    (saved / "reinforced").rename(saved / "elsewhere")
    with pytest.raises(ModelError, match=r"members\.reinforced = 'reinforced': no such folder"):
        resolve_path(str(saved), WORLD)


def test_a_member_without_weights_is_refused(saved):
    (saved / "reinforced" / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="reinforced: holds no safetensors weights"):
        resolve_path(str(saved), WORLD)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"schema": "temper/offset/9"}, "schema = 'temper/offset/9'"),
        ({"strength": -1}, "strength = -1"),
        ({"strength": "much"}, "strength = 'much'"),
        ({"members": ["original"]}, "must name the folders"),
        ({"members": {"original": "original", "reinforced": "../other"}}, "leaves the folder"),
    ],
)
def test_a_file_of_another_form_is_refused_by_its_field(saved, change, said):
    content = json.loads((saved / "offset.json").read_text())
    (saved / "offset.json").write_text(json.dumps({**content, **change}))
    with pytest.raises(ModelError, match=said):
        load_model(str(saved), world=WORLD)


def test_a_folder_without_the_file_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"offset\.json: no such file"):
        LogitOffsetModel.from_pretrained(tmp_path)


def test_members_with_other_tokenizers_of_one_size_are_refused(saved):
    other = make_tokenizer(corpus=["zebra quagga okapi gnu kudu bongo"] * 8, vocabulary=len(TOKENIZER))
    other.save_pretrained(saved / "reinforced")
    with pytest.raises(ModelError, match="tokenizers of original"):
        load_model(str(saved), world=WORLD)


def test_records_of_a_loaded_folder_equal_its_full_logits(model, saved):
    item = Item("a", (1, 5, 6, 7, 2), (-100, -100, 6, 7, 2), {}, "", "")
    found = score(load_model(str(saved), world=WORLD), [item], pad_id=0, eos_id=2)[0]
    with torch.no_grad():
        rows = model(input_ids=torch.tensor([item.input_ids])).logits[0, 1:4].log_softmax(-1)
    torch.testing.assert_close(torch.from_numpy(found.logp), rows[range(3), [6, 7, 2]])


def test_an_offset_folder_is_assessed_like_any_model(tmp_path, make_llama):
    write_models(tmp_path, make_llama)
    parts = [load_model(str(tmp_path / name), world=WORLD) for name in ("original", "gold")]
    tokenizer = load_tokenizer(str(tmp_path / "original"), world=WORLD)
    found = {}
    for strength in (0.0, 2.0):
        folder = tmp_path / f"offset-{strength}"
        LogitOffsetModel(*parts, strength).save_pretrained(folder, tokenizer=tokenizer)
        document = recipe_document(tmp_path, roles=("forget",), gold=None)
        document["model"]["path"] = str(folder)
        recipe = tmp_path / f"{strength}.yaml"
        recipe.write_text(dump(from_dict(document)))
        evidence = assess.run(assess.given(str(recipe), [], tmp_path / f"run-{strength}"))
        found[strength] = [evidence.find("probability", "forget", which).value for which in ("unlearned", "original")]
    assert found[0.0][0] == pytest.approx(found[0.0][1], rel=1e-5)
    assert found[2.0][0] != pytest.approx(found[2.0][1], rel=1e-3)
