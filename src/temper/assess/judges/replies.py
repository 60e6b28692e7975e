"""What a judge said and was paid for: JSON Lines in the cache folder, one file an endpoint, model, wording and temperature.

A line is ``{"message": HASH, "vote": 1, "category": "C2"}``. Lines are appended one by one as replies come in, so a killed run loses
none, and a torn line is passed over. Only valid replies are kept: nonsense and errors are asked again by the next run.
"""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any, Final, cast, get_args

from temper.assess.judges.judge import Category
from temper.files import append_line, cache_folder, hash_json

__all__ = ["Replies"]

_CATEGORIES: Final = get_args(Category)


class Replies:
    """The valid replies of one judge; safe for several threads.

    Args:
        facts: All that a reply depends on beside the message; names the file.

    Attributes:
        path: The file.
    """

    def __init__(self, facts: Any) -> None:
        self.path: Path = cache_folder() / "judges" / f"{hash_json(facts)[:32]}.jsonl"
        self._lock = threading.Lock()
        self._known: dict[tuple[str, int], Category] = {}
        if self.path.exists():
            for line in self.path.read_bytes().splitlines():
                self._read(line)

    def _read(self, line: bytes) -> None:
        try:
            entry = json.loads(line)
        except ValueError:
            return
        if isinstance(entry, dict) and entry.get("category") in _CATEGORIES and isinstance(entry.get("vote"), int):
            self._known[str(entry.get("message")), entry["vote"]] = cast(Category, entry["category"])

    def __len__(self) -> int:
        """Return how many replies are kept."""
        with self._lock:
            return len(self._known)

    def find(self, message: str, vote: int) -> Category | None:
        """Return what was said to a message by its hash, None where it was not asked or not answered."""
        with self._lock:
            return self._known.get((message, vote))

    def keep(self, message: str, vote: int, category: Category) -> None:
        """Keep a valid reply, on disk at once."""
        with self._lock:
            self._known[message, vote] = category
            self.path.parent.mkdir(parents=True, exist_ok=True)
            append_line(self.path, {"message": message, "vote": vote, "category": category})
