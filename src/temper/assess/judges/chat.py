"""One question to an OpenAI-compatible chat endpoint, asked again where that can help.

| what comes back | what follows |
| --- | --- |
| 200 | its text, None where it holds none |
| nothing in time, a broken connection, 408, 409, 425, 429, 5xx | asked again after a pause, then `NoReply` |
| 401, 403, 404, a redirect | `InputError` at once: key, model or address are wrong, and would be for every case |
| any other status | `NoReply` at once: the same question would be refused again |

After eight questions in a row without any response, from whichever worker, the endpoint is given up with a `RunError`: the rest would cost
hours and give nothing. Any response, an error too, starts the count anew.

The k-th pause lasts between half of and all of ``backoff_s * 2**k`` seconds, at most a minute; a ``Retry-After`` makes it longer, up to two
minutes. The draw is a function of the question and k, so that workers spread out and a run repeats.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Final

from temper.draws import generator
from temper.errors import InputError, RunError

if TYPE_CHECKING:
    import httpx2

__all__ = ["Chat", "NoReply", "pause_of", "retry_after"]

_AGAIN: Final = frozenset({408, 409, 425, 429, *range(500, 600)})
_LONGEST_S: Final = 60.0
_LONGEST_ASKED_S: Final = 120.0
_GIVE_UP: Final = 8
"""Questions in a row without any response after which an endpoint is given up."""
_STOPPED: Final = "the run was stopped"
_WRONG: Final = {
    401: ("key_env", "the key is missing or not accepted"),
    403: ("key_env", "the key may not use this model or address"),
    404: ("url", "there is no such address, or no such model there"),
}


class NoReply(Exception):
    """A question got no answer; the text says why."""


def retry_after(value: str | None, now: datetime) -> float:
    """Return the seconds that a ``Retry-After`` header asks for, 0 where it is missing or cannot be read.

    Example:
        >>> retry_after("3", datetime.now(UTC)), retry_after(None, datetime.now(UTC))
        (3.0, 0.0)
    """
    if value is None:
        return 0.0
    if value.strip().isdigit():
        return float(value)
    try:
        when = parsedate_to_datetime(value)
    except ValueError:
        return 0.0
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    return max(0.0, (when - now).total_seconds())


def pause_of(key: str, attempt: int, backoff_s: float, asked_s: float) -> float:
    """Return how many seconds to wait after an attempt, counted from 0.

    Args:
        key: Of the question.
        attempt: That failed.
        backoff_s: Of the first pause.
        asked_s: By the server, 0 where it says nothing.
    """
    drawn = generator(0, "judge-backoff", key, attempt).uniform(0.5, 1.0)
    own = min(backoff_s * 2.0**attempt, _LONGEST_S) * float(drawn)
    return max(own, min(asked_s, _LONGEST_ASKED_S))


@dataclass(frozen=True, eq=False)
class Chat:
    """An endpoint with the settings of one judge.

    Attributes:
        client: Shared by all workers.
        url: Of the chat completions.
        model: Its name there.
        temperature: None leaves it out of the request.
        key: Sent as a bearer token; None sends none.
        retries: After the first attempt.
        backoff_s: First pause.
        stopped: Set when the run ends early, so that nobody waits on.
    """

    client: httpx2.Client
    url: str
    model: str
    temperature: float | None
    key: str | None
    retries: int
    backoff_s: float
    stopped: threading.Event
    _unheard: list[str] = field(default_factory=list)
    """Why each question since the last response got none; appending and clearing a list are safe for several threads."""

    def ask(self, messages: Sequence[Mapping[str, str]], key: str) -> str | None:
        """Return the text of the reply.

        Args:
            messages: Roles and contents.
            key: Names the question, for the draws of the pauses.

        Raises:
            NoReply: There is none, after all retries.
            InputError: The settings are wrong for every question.
            RunError: Too many questions in a row found nobody.
        """
        body: dict[str, Any] = {"model": self.model, "messages": list(messages)}
        if self.temperature is not None:
            body["temperature"] = self.temperature
        was_heard = False
        for attempt in range(self.retries + 1):
            if self.stopped.is_set():
                raise NoReply(_STOPPED)
            asked_s, why = self._once(body)
            if isinstance(why, _Text):
                return why.text
            was_heard |= why.startswith("HTTP")
            if attempt < self.retries and self.stopped.wait(pause_of(key, attempt, self.backoff_s, asked_s)):
                raise NoReply(_STOPPED)
        why = f"{why} ({self.retries + 1} attempts)"
        if not was_heard:
            self._unheard.append(why)
            if len(self._unheard) >= _GIVE_UP:
                self.stopped.set()
                raise RunError(
                    f"judge prompt: {self.url} has not answered {len(self._unheard)} questions in a row, the last one: {why}. Check that it runs and "
                    "can be reached, then assess again: what it said before is kept."
                )
        raise NoReply(why)

    def _once(self, body: Mapping[str, Any]) -> tuple[float, _Text | str]:
        """Return the reply, or seconds that the server asks for and why another attempt is due."""
        import httpx2

        headers = {"Authorization": f"Bearer {self.key}"} if self.key is not None else {}
        try:
            response = self.client.post(self.url, json=body, headers=headers)
        except httpx2.TimeoutException:
            return 0.0, "timed out"
        except httpx2.RequestError as error:
            return 0.0, f"no connection ({type(error).__name__})"
        except httpx2.InvalidURL as error:
            self.stopped.set()
            raise InputError(
                f"evaluate.judges.prompt.url: {self.url} is no address ({error}). Give one as https://host/v1."
            ) from None
        self._unheard.clear()
        status = response.status_code
        if status == 200:
            return 0.0, _Text(_content(response))
        if status in _AGAIN:
            return retry_after(response.headers.get("Retry-After"), datetime.now(UTC)), f"HTTP {status}"
        if status in _WRONG or 300 <= status < 400:
            self.stopped.set()  # before another worker asks the same in vain
        if status in _WRONG:
            field, what = _WRONG[status]
            raise InputError(
                f"evaluate.judges.prompt.{field}: {self.url} answers HTTP {status} for model {self.model!r}: {what}."
            )
        if 300 <= status < 400:
            raise InputError(
                f"evaluate.judges.prompt.url: {self.url} redirects (HTTP {status}); a key is not sent on. Give the final address."
            )
        raise NoReply(f"HTTP {status}: {self._without_key(response.text)[:200]}")

    def _without_key(self, text: str) -> str:
        return text.replace(self.key, "***") if self.key else text


@dataclass(frozen=True)
class _Text:
    text: str | None


def _content(response: httpx2.Response) -> str | None:
    """Return the text of the first choice, None where the reply has another form."""
    try:
        document = response.json()
        content = document["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError):
        return None
    return content if isinstance(content, str) else None
