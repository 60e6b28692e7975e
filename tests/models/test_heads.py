import torch

from temper.models.heads import ScoredHead

IDS = torch.tensor([[1, 5, 6, 7], [1, 9, 2, 0]])
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])
WANTED = torch.tensor([[False, True, True, False], [True, False, False, False]])


def test_scored_positions_equal_the_full_logits(make_llama):
    model = make_llama()
    head = ScoredHead(model)
    full = torch.log_softmax(model(input_ids=IDS, attention_mask=MASK).logits[WANTED], dim=-1)
    assert head.is_direct
    torch.testing.assert_close(head.log_probs(IDS, MASK, WANTED), full)


def test_a_model_that_caps_its_logits_takes_the_full_road():
    from transformers import Gemma2Config, Gemma2ForCausalLM

    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = Gemma2Config(
            vocab_size=64,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            head_dim=16,
            final_logit_softcapping=0.5,
            initializer_range=0.5,
            pad_token_id=0,
        )
        model = Gemma2ForCausalLM(config).eval()
    head = ScoredHead(model)
    full = torch.log_softmax(model(input_ids=IDS, attention_mask=MASK).logits[WANTED], dim=-1)
    assert not head.is_direct
    torch.testing.assert_close(head.log_probs(IDS, MASK, WANTED), full)
