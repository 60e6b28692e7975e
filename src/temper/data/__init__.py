"""Data: roles, readers, the tokenisation contract, pairing of roles, padding.

What a role's rows are used for belongs to the capabilities; what a model makes of them to `temper.models`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from temper.data.overlap import OverlapReport, check_overlap
    from temper.data.padding import collate
    from temper.data.pairing import RolePairs
    from temper.data.readers import read
    from temper.data.roles import ROLE_MEANINGS, load_role
    from temper.data.tokenise import Dropped, Encoded, Item, encode, join, longest, prompt_text

_HOME = {
    "Dropped": "tokenise",
    "Encoded": "tokenise",
    "Item": "tokenise",
    "OverlapReport": "overlap",
    "ROLE_MEANINGS": "roles",
    "RolePairs": "pairing",
    "check_overlap": "overlap",
    "collate": "padding",
    "encode": "tokenise",
    "join": "tokenise",
    "load_role": "roles",
    "longest": "tokenise",
    "prompt_text": "tokenise",
    "read": "readers",
}

__all__ = [
    "ROLE_MEANINGS",
    "Dropped",
    "Encoded",
    "Item",
    "OverlapReport",
    "RolePairs",
    "check_overlap",
    "collate",
    "encode",
    "join",
    "load_role",
    "longest",
    "prompt_text",
    "read",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:  # readers and padding load pyarrow and torch only when used
        import importlib

        return getattr(importlib.import_module(f"temper.data.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
