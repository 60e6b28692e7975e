"""Batches of made-up tokens for tests of losses and engine."""

import torch


def rows(sequences, prompt=2, pad_to=None, pad=0):
    """Return the tensors of right-padded rows whose first `prompt` tokens are unscored."""
    length = pad_to or max(len(s) for s in sequences)
    ids = torch.tensor([[*s, *[pad] * (length - len(s))] for s in sequences])
    mask = torch.tensor([[1] * len(s) + [0] * (length - len(s)) for s in sequences])
    labels = torch.tensor([[-100] * prompt + list(s[prompt:]) + [-100] * (length - len(s)) for s in sequences])
    return {"input_ids": ids, "attention_mask": mask, "labels": labels, "index": torch.arange(len(sequences))}


FORGET = [[1, 5, 6, 7, 2], [1, 8, 9, 2], [1, 10, 11, 12, 13, 2], [1, 14, 3, 2]]
RETAIN = [[1, 20, 21, 22, 2], [1, 23, 24, 25, 26, 2], [1, 27, 28, 2], [1, 29, 30, 31, 2]]
