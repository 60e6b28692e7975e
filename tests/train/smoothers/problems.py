"""Losses with known derivatives, and a tiny language model to forget with."""

import torch
import torch.nn.functional as F


def adds(*losses):
    """Return a pass over micro-batches: backward of each loss, and their sum."""

    def run():
        total = 0.0
        for loss in losses:
            value = loss()
            value.backward()
            total += value.item()
        return total

    return run


def nothing():
    return 0.0


class Cubic:
    """F = x³ + x y² at (1, 2): F = 5, ∇F = (7, 4), H = [[6, 4], [4, 2]]. R = 5 x, so ∇R = (5, 0)."""

    def __init__(self, x=1.0, y=2.0):
        self.x = torch.nn.Parameter(torch.tensor([x], dtype=torch.float64))
        self.y = torch.nn.Parameter(torch.tensor([y], dtype=torch.float64))
        self.parameters = [self.x, self.y]
        self.forget_at = []
        self.retain_at = []

    @property
    def point(self):
        return torch.cat([p.detach() for p in self.parameters]).clone()

    @property
    def gradient(self):
        return torch.cat([p.grad for p in self.parameters])

    def forget(self):
        self.forget_at.append(self.point)
        return adds(lambda: (self.x**3 + self.x * self.y**2).sum())()

    def retain(self):
        self.retain_at.append(self.point)
        return adds(lambda: 5 * self.x.sum())()


class Forgetting:
    """Ascent on one set of rows and descent on another, on a tiny Llama."""

    def __init__(self, model, micro_batches=1):
        self.model = model
        self.parameters = list(model.parameters())
        generator = torch.Generator().manual_seed(5)
        draw = lambda: torch.randint(3, 64, (4, 12), generator=generator)  # noqa: E731
        self.forget_rows, self.retain_rows = draw(), draw()
        self.micro_batches = micro_batches

    def _loss(self, rows, total_rows):
        logits = self.model(input_ids=rows).logits[:, :-1]
        nll = F.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten(), reduction="none").view(len(rows), -1)
        return nll.mean(dim=1).sum() / total_rows

    def forget(self):
        parts = self.forget_rows.chunk(self.micro_batches)
        return adds(*(lambda part=part: -self._loss(part, len(self.forget_rows)) for part in parts))()

    def retain(self):
        parts = self.retain_rows.chunk(self.micro_batches)
        return adds(*(lambda part=part: self._loss(part, len(self.retain_rows)) for part in parts))()

    def forget_loss(self):
        return -self._loss(self.forget_rows, len(self.forget_rows))

    def weights(self):
        return [p.detach().clone() for p in self.parameters]

    def gradients(self):
        return [p.grad.clone() for p in self.parameters]

    def plain(self):
        for parameter in self.parameters:
            parameter.grad = None
        self.forget()
        self.retain()
        return self.gradients()


def equal(first, second):
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def relative_gap(first, second):
    gap = sum((a - b).square().sum() for a, b in zip(first, second, strict=True)).sqrt()
    return (gap / sum(b.square().sum() for b in second).sqrt()).item()
