"""Tiny tokenizers trained on the spot."""

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

CORPUS = [
    "Where was Ada born? Ada was born in London.",
    "The author writes books about history and travel.",
    "question answer who what where when how many novels plays",
    "In this town people speak of the old library.",
] * 4
CHAT = (
    "{{ bos_token }}{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}"
    "{% if m['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def make_tokenizer(*, chat=False, pad=True, bos=True, eos=True, adds_eos=False, corpus=None, vocabulary=400):
    """Return a byte-level BPE tokenizer with the wanted special tokens."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    specials = ["<pad>", "<s>", "</s>", "<|user|>", "<|assistant|>", "<|system|>", "<think>", "</think>"]
    raw.train_from_iterator(
        corpus or CORPUS,
        trainers.BpeTrainer(vocab_size=vocabulary, special_tokens=specials, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()),
    )
    if bos or adds_eos:
        front = "<s> " if bos else ""
        end = " </s>" if adds_eos else ""
        raw.post_processor = processors.TemplateProcessing(
            single=f"{front}$A{end}", special_tokens=[(token, raw.token_to_id(token)) for token in ("<s>", "</s>")]
        )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        pad_token="<pad>" if pad else None,
        bos_token="<s>" if bos else None,
        eos_token="</s>" if eos else None,
        extra_special_tokens=specials[3:],
    )
    if chat:
        tokenizer.chat_template = CHAT
    return tokenizer
