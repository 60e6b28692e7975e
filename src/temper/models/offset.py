"""Unlearning at inference: the original model's logits, lowered where a reinforced model prefers a token more.

A model fine-tuned on the forget data (the reinforced model) raises the logits of what it was taught again. Per token v

    z_u(v) = z_0(v) − a · ReLU(z_reinf(v) − z_0(v))

so z_u ≤ z_0 everywhere, and a = 0 is the original model. No weight changes: the original model lies whole inside, and
whoever holds the folder can take the offset off again. It hides knowledge from those who only see the model's answers.

Source: Eldan and Russinovich, Who's Harry Potter? (2023), equation 1.
"""

from __future__ import annotations

import copy
import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache, GenerationConfig, GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from temper.errors import ModelError
from temper.files import folder_aside
from temper.models.offsetfolder import (
    MEMBERS,
    OFFSET_FILE,
    OffsetFolder,
    check_strength,
    holds_tokenizer,
    is_offset_folder,
    read_offset,
    write_offset,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["LogitOffsetModel", "is_offset_folder", "offset_logits"]

_ONE_PATH = ("greedy_search", "sample")
"""Ways of generating in which a row of the cache stays the row it is; all others reorder or roll back one cache of the two."""


def offset_logits(original: torch.Tensor, reinforced: torch.Tensor, strength: float) -> torch.Tensor:
    """Return z_0 − a · ReLU(z_reinf − z_0), in the original's dtype; half precision is computed in float32.

    Args:
        original: z_0, any shape.
        reinforced: z_reinf, the same shape.
        strength: a, at least 0.

    Example:
        >>> offset_logits(torch.tensor([1.0, 2.0]), torch.tensor([3.0, 0.0]), 0.5).tolist()
        [0.0, 2.0]
    """
    wide = torch.promote_types(original.dtype, torch.float32)
    z_0, z_reinf = original.to(wide), reinforced.to(wide)
    return torch.sub(z_0, torch.relu(z_reinf - z_0), alpha=strength).to(original.dtype)


class LogitOffsetModel(PreTrainedModel, GenerationMixin):  # type: ignore[misc]
    """Two causal language models with one tokenizer, answering as one.

    It has the original's configuration and settings of generation. Both members keep a cache while they generate: the
    reinforced one's rides on the original's as its attribute `reinforced`. Beam search and assisted decoding, which
    reorder or roll back one cache, are refused.

    Args:
        original: θ_0.
        reinforced: θ_0 fine-tuned on the forget data.
        strength: a, at least 0.

    Raises:
        ModelError: The vocabularies differ, a member is an adapter, an offset model itself or without a cache of keys and values, or
            the strength is negative.
    """

    main_input_name = "input_ids"

    def __init__(self, original: PreTrainedModel, reinforced: PreTrainedModel, strength: float) -> None:
        for name, member in zip(MEMBERS, (original, reinforced), strict=True):
            _check_member(name, member)
        widths = [int(member.config.get_text_config().vocab_size) for member in (original, reinforced)]
        if widths[0] != widths[1]:
            raise ModelError(
                f"the original model has a vocabulary of {widths[0]} tokens, the reinforced one of {widths[1]}: their logits cannot be compared. "
                "Give a reinforced model that was fine-tuned from the original, with its tokenizer."
            )
        config = copy.deepcopy(original.config)
        # of this shell, which neither attends nor routes to experts; each member keeps its own
        config._attn_implementation = config._experts_implementation = "eager"
        super().__init__(config)
        self.original = original
        self.reinforced = reinforced
        self.strength = check_strength(strength, "strength")
        self.generation_config = original.generation_config  # one object: what is changed here is saved with the original
        self.train(original.training)

    def get_input_embeddings(self) -> torch.nn.Module:
        """Return the original's embedding."""
        embedding: torch.nn.Module = self.original.get_input_embeddings()
        return embedding

    def get_output_embeddings(self) -> None:
        """Return None: no head of one hidden state gives these logits."""
        return

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Any = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        return_dict: bool | None = None,
    ) -> Any:
        """Return the offset logits, (B, L, V), and the pair of caches.

        Args:
            input_ids: (B, L) token ids.
            attention_mask: (B, past + L), 1 where there is a token.
            position_ids: (B, L); counted by the members where they are not given.
            past_key_values: A new `DynamicCache`, or what an earlier call returned.
            use_cache: Whether caches are filled and returned; what the members' configurations say, where it is not given.
            logits_to_keep: How many last positions get logits (0 means all), or which.
            return_dict: False for a tuple.

        Raises:
            ModelError: The cache is of another kind, or was filled by another model.
        """
        riding = self._riding(past_key_values)
        given = {"input_ids": input_ids, "attention_mask": attention_mask, "use_cache": use_cache}
        if position_ids is not None:
            given["position_ids"] = position_ids
        output = _run(self.original, given, past_key_values, logits_to_keep)
        other = _run(self.reinforced, given, riding, logits_to_keep)
        cache = output.past_key_values
        if cache is not None:
            cache.reinforced = other.past_key_values
        joined = CausalLMOutputWithPast(logits=offset_logits(output.logits, other.logits, self.strength), past_key_values=cache)
        return joined.to_tuple() if return_dict is False else joined

    def _riding(self, cache: Any) -> Any:
        """Return the reinforced model's cache for one of the original."""
        if cache is None:
            return None
        if not isinstance(cache, DynamicCache):
            raise ModelError(
                f"past_key_values is a {type(cache).__name__}, but a logit-offset model keeps two caches that grow. Leave cache_implementation out."
            )
        riding = getattr(cache, "reinforced", None)
        if riding is None and cache.get_seq_length() == 0:
            return DynamicCache(config=self.reinforced.config.get_text_config(decoder=True))
        if riding is None or riding.get_seq_length() != cache.get_seq_length():
            raise ModelError(
                "past_key_values was filled or cut by something else than this model, so the reinforced model has no cache of the same tokens. "
                "Start with an empty cache."
            )
        return riding

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """Return prompts with their continuations, as `GenerationMixin.generate` does: greedy or drawn.

        Raises:
            ModelError: Beam search, assisted decoding or another way that reorders or rolls back caches is asked for.
        """
        call = inspect.signature(super().generate).bind_partial(*args, **kwargs)
        settings = copy.deepcopy(call.arguments.get("generation_config") or GenerationConfig())
        settings.update(**self.generation_config.to_dict(), defaults_only=True)
        settings.update(**{name: value for name, value in kwargs.items() if hasattr(settings, name)})
        mode = str(settings.get_generation_mode(kwargs.get("assistant_model")).value)
        if mode not in _ONE_PATH:
            raise ModelError(
                f"generation mode {mode} (num_beams = {settings.num_beams}): a logit-offset model keeps two caches, which this mode would take apart. "
                "Use greedy decoding or sampling with num_beams = 1 and no assistant."
            )
        return super().generate(*args, **kwargs)

    def save_pretrained(self, save_directory: str | Path, *, tokenizer: PreTrainedTokenizerBase | None = None) -> None:
        """Write offset.json and both members as safetensors, whole or not at all.

        Args:
            save_directory: A new folder, an empty one, or one that holds nothing but an earlier save.
            tokenizer: Of both; it is written beside the original's weights.

        Raises:
            ModelError: The folder holds other files, which replacing it would delete.
        """
        target = Path(save_directory)
        others = sorted({item.name for item in target.iterdir()} - {OFFSET_FILE, *MEMBERS}) if target.is_dir() else []
        if others:
            raise ModelError(f"{target}: holds other files ({', '.join(others[:3])}). Give a new or an empty folder.")
        with folder_aside(target) as folder:
            for name in MEMBERS:
                getattr(self, name).save_pretrained(folder / name)
            if tokenizer is not None:
                tokenizer.save_pretrained(folder / MEMBERS[0])
            write_offset(folder, self.strength)

    @classmethod
    def from_pretrained(cls, folder: str | Path, **arguments: Any) -> LogitOffsetModel:
        """Return the model that `save_pretrained` wrote, in evaluation mode.

        Args:
            folder: Holds offset.json.
            arguments: For `AutoModelForCausalLM.from_pretrained` of both members, e.g. dtype.

        Raises:
            ModelError: The folder is no such folder, or its members have different vocabularies.
        """
        saved = read_offset(folder)
        _check_tokenizers(saved)
        original, reinforced = (
            AutoModelForCausalLM.from_pretrained(str(place), **{**arguments, "use_safetensors": True})
            for place in (saved.original, saved.reinforced)
        )
        return cls(original, reinforced, saved.strength).eval()  # type: ignore[no-any-return]


def _run(member: Any, given: dict[str, Any], cache: Any, logits_to_keep: int | torch.Tensor) -> Any:
    """Return a member's output; logits at the wanted positions alone, also where the architecture cannot leave the others out."""
    if "logits_to_keep" in inspect.signature(member.forward).parameters:
        return member(**given, past_key_values=cache, logits_to_keep=logits_to_keep, return_dict=True)
    output = member(**given, past_key_values=cache, return_dict=True)
    wanted = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep  # −0 is 0: all of them
    output.logits = output.logits[:, wanted]
    return output


def _check_member(name: str, member: Any) -> None:
    if hasattr(member, "get_base_model"):
        raise ModelError(
            f"the {name} model carries an adapter, which would be saved without its model. Merge it first (merge_and_unload)."
        )
    if not isinstance(member, PreTrainedModel) or isinstance(member, LogitOffsetModel) or not member.can_generate():
        raise ModelError(f"the {name} model is a {type(member).__name__}. Give a causal language model of transformers.")
    if "past_key_values" not in inspect.signature(member.forward).parameters:
        raise ModelError(
            f"the {name} model is a {type(member).__name__}, which keeps a recurrent state in place of a cache of keys and values. "
            "Give a model with attention."
        )


def _check_tokenizers(saved: OffsetFolder) -> None:
    """Compare the members' tokenizers where both have one: equal widths alone do not make tokens the same."""
    places = (saved.original, saved.reinforced)
    if all(holds_tokenizer(place) for place in places):
        first, second = (AutoTokenizer.from_pretrained(str(place)).get_vocab() for place in places)
        if first != second:
            raise ModelError(
                f"{saved.folder}: the tokenizers of {saved.original.name} ({len(first)} tokens) and {saved.reinforced.name} ({len(second)} tokens) "
                "differ, so their logits cannot be compared. Give a reinforced model that was fine-tuned from the original."
            )
