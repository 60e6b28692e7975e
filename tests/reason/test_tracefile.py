import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from temper.reason import tracefile
from temper.reason.segments import Segment
from temper.reason.tracefile import Trace, alone, read_traces, stored_in_chunks
from tests.reason.builders import request

SEGMENTS = [Segment(f"d{number}", 0, 0, 1, "x", "x", "<think>", {}, request().source, {}) for number in range(12)]

MAKER = """
import os, signal, sys, time
from pathlib import Path
from temper.reason.segments import Segment
from temper.reason.tracefile import Trace, stored_in_chunks
folder, dies_at = Path(sys.argv[1]), int(sys.argv[2])
segments = [Segment(f"d{number}", 0, 0, 1, "x", "x", "<think>", {}, None, {}) for number in range(12)]
made = []
def write(places):
    if len(made) == dies_at:
        os.kill(os.getpid(), signal.SIGKILL)
    made.append(places)
    time.sleep(0.02)
    return [Trace(segments[place].document, 0, 0, 1, "x", "so", 1, "end", "g", None) for place in places]
print("ready", flush=True)
sys.stdin.readline()
traces = stored_in_chunks(folder / "key.jsonl", segments, lambda: [[place] for place in range(12)], write, lambda count: None)
assert [trace.document for trace in traces] == [segment.document for segment in segments]
print(len(made))
"""


def maker(folder, dies_at=-1):
    """Start a process that makes twelve traces, each a chunk, when it is told to."""
    command = [sys.executable, "-c", MAKER, str(folder), str(dies_at)]
    source = str(Path(tracefile.__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": source}
    pipe = subprocess.PIPE
    child = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=environment)
    assert child.stdout.readline() == "ready\n"
    return child


def outcome(children):
    """Let them all begin; return exit code and number of chunks made by each."""
    for child in children:
        child.stdin.write("go\n")
        child.stdin.flush()
    found = []
    for child in children:
        out, err = child.communicate(timeout=60)
        assert child.returncode in (0, -signal.SIGKILL), err
        found.append((child.returncode, out.strip()))
    return found


def test_of_runs_that_want_the_same_file_at_once_one_makes_it_and_the_others_read_it(tmp_path):
    found = outcome([maker(tmp_path) for _ in range(3)])
    assert sorted(found) == [(0, "0"), (0, "0"), (0, "12")]
    assert [path.name for path in tmp_path.iterdir()] == ["key.jsonl"]


def test_a_run_that_is_killed_holds_nobody_up_and_the_next_one_goes_on_where_it_was(tmp_path):
    assert outcome([maker(tmp_path, dies_at=5)]) == [(-signal.SIGKILL, "")]
    assert {path.name for path in tmp_path.iterdir()} == {"key.lock", "key.parts"}
    assert outcome([maker(tmp_path)]) == [(0, "7")]
    assert [path.name for path in tmp_path.iterdir()] == ["key.jsonl"]


def test_a_run_that_waits_for_one_that_is_killed_makes_what_is_left(tmp_path):
    first = maker(tmp_path, dies_at=5)
    first.stdin.write("go\n")
    first.stdin.flush()
    while not (tmp_path / "key.parts").exists():
        assert first.poll() is None
    assert outcome([maker(tmp_path)]) == [(0, "7")]
    first.communicate()
    assert first.returncode == -signal.SIGKILL


def stored(folder, write=None, waiting=lambda: None):
    def made(places):
        return [Trace(SEGMENTS[place].document, 0, 0, 1, "x", "so", 1, "end", "g", None) for place in places]

    return stored_in_chunks(
        folder / "key.jsonl", SEGMENTS, lambda: [[place] for place in range(12)], write or made, lambda count: None, waiting
    )


def test_a_failure_frees_the_lock_and_keeps_what_was_made(tmp_path):
    def failing(places):
        raise OSError("no")

    with pytest.raises(OSError, match="no"):
        stored(tmp_path, failing)
    assert list(tmp_path.iterdir()) == []
    assert len(stored(tmp_path)) == 12


def test_who_waited_for_a_lock_that_was_taken_away_looks_again(tmp_path, monkeypatch):
    """The holder fails and takes its lock away between this run's opening and locking it: a lock on nothing locks nobody out."""
    real, seen = tracefile.fcntl.flock, []

    def flock(handle, how):
        seen.append(how)
        if len(seen) == 1:
            (tmp_path / "key.lock").unlink()
        real(handle, how)

    monkeypatch.setattr(tracefile.fcntl, "flock", flock)
    with alone(tmp_path / "key.jsonl"):
        assert len(seen) == 2 and (tmp_path / "key.lock").exists()
        with (tmp_path / "key.lock").open("w") as other, pytest.raises(BlockingIOError):
            real(other, tracefile.fcntl.LOCK_EX | tracefile.fcntl.LOCK_NB)
    assert list(tmp_path.iterdir()) == []


def test_who_has_to_wait_says_so(tmp_path, monkeypatch):
    told = []

    def flock(handle, how):
        if how & tracefile.fcntl.LOCK_NB:
            raise BlockingIOError

    monkeypatch.setattr(tracefile.fcntl, "flock", flock)
    stored(tmp_path, waiting=lambda: told.append("waits"))
    assert told == ["waits"]


def test_a_file_that_is_there_is_read_without_a_lock(tmp_path, monkeypatch):
    first = stored(tmp_path)
    monkeypatch.setattr(tracefile.fcntl, "flock", lambda handle, how: pytest.fail("locked"))
    assert stored(tmp_path, lambda places: pytest.fail("made again")) == first
    assert read_traces(tmp_path / "key.jsonl", SEGMENTS) == first
