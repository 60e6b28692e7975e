import threading
from datetime import UTC, datetime

import httpx2
import pytest

from temper.assess.judges.chat import Chat, NoReply, pause_of, retry_after
from temper.errors import InputError

NOW = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)


class Stopped:
    """In place of an event: keeps how long each pause was to be, and ends the run after some of them."""

    def __init__(self, after=99):
        self.waited = []
        self.after = after

    def is_set(self):
        return False

    def wait(self, seconds):
        self.waited.append(seconds)
        return len(self.waited) >= self.after


def chat(respond, stopped, retries=2, backoff_s=0.001):
    client = httpx2.Client(transport=httpx2.MockTransport(respond))
    return Chat(client, "http://localhost/v1/chat/completions", "m", 0.0, None, retries, backoff_s, stopped)


def test_too_many_requests_wait_as_long_as_the_server_asks():
    stopped = Stopped()
    with pytest.raises(NoReply, match=r"HTTP 429 \(3 attempts\)"):
        chat(lambda request: httpx2.Response(429, headers={"Retry-After": "7"}), stopped).ask([], "key")
    assert stopped.waited == [7.0, 7.0]  # none after the last attempt


def test_no_server_can_ask_for_more_than_two_minutes():
    assert pause_of("key", 0, 1.0, 3600.0) == 120.0


def test_pauses_double_and_keep_within_half_of_themselves():
    pauses = [pause_of("key", attempt, 2.0, 0.0) for attempt in range(4)]
    assert all(2.0**k <= pause <= 2.0 ** (k + 1) for k, pause in enumerate(pauses))
    assert 30.0 <= pause_of("key", 50, 2.0, 0.0) <= 60.0


def test_pauses_repeat_for_a_question_and_differ_between_questions():
    assert pause_of("a", 1, 1.0, 0.0) == pause_of("a", 1, 1.0, 0.0) != pause_of("b", 1, 1.0, 0.0)


def test_nobody_waits_on_when_the_run_is_stopped():
    stopped = Stopped(after=1)
    with pytest.raises(NoReply, match="stopped"):
        chat(lambda request: httpx2.Response(500), stopped, retries=9).ask([], "key")
    assert len(stopped.waited) == 1


def test_a_broken_connection_is_tried_again():
    seen = []

    def respond(request):
        seen.append(request)
        if len(seen) < 3:
            raise httpx2.ReadError("broken", request=request)
        return httpx2.Response(200, json={"choices": [{"message": {"content": "2"}}]})

    assert chat(respond, threading.Event()).ask([], "key") == "2"


def test_an_address_that_the_client_cannot_read_is_an_error_of_the_input():
    def respond(request):
        raise httpx2.InvalidURL("odd")

    with pytest.raises(InputError, match=r"evaluate\.judges\.prompt\.url.*odd"):
        chat(respond, threading.Event()).ask([], "key")


def test_a_reply_that_cannot_be_unpacked_counts_as_a_broken_connection():
    def respond(request):
        return httpx2.Response(200, headers={"Content-Encoding": "gzip"}, stream=httpx2.ByteStream(b"no gzip"))

    with pytest.raises(NoReply, match="DecodingError"):
        chat(respond, Stopped(), retries=0).ask([], "key")


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, 0.0),
        ("3", 3.0),
        ("soon", 0.0),
        ("-5", 0.0),
        ("Thu, 01 Jan 2026 12:00:09 GMT", 9.0),
        ("Thu, 01 Jan 2026 11:00:00 GMT", 0.0),
        ("Thu, 01 Jan 2026 12:00:09 -0000", 9.0),
    ],
)
def test_retry_after_is_read_in_seconds_or_as_a_date(value, seconds):
    assert retry_after(value, NOW) == seconds
