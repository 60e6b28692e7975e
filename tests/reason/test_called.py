from types import SimpleNamespace

import pytest

from temper.errors import DataError, InputError
from temper.reason import called, tracefile
from temper.reason.traces import CalledTraces
from tests.reason.builders import DOCUMENTS, request


class Point:
    """An entry point of a package that is not there."""

    name, value, dist = "reasoner", "package.module:function", SimpleNamespace(version="1.2")
    calls = 0

    def load(self):
        def function(segments, seed):
            Point.calls += 1
            return [f"{segment.document} with {seed}</think>" for segment in segments]

        return function


@pytest.fixture
def installed(monkeypatch):
    Point.calls = 0
    monkeypatch.setattr(called, "entry_points", lambda group: [Point()] if group == "temper.trace_callable" else [])


def test_a_function_gets_the_segments_and_the_seed():
    seen = []

    def function(segments, seed):
        seen.append(([segment.text for segment in segments], seed))
        return ["so</think>"] * len(segments)

    traces = CalledTraces.from_function(function, trigger="").collect(request(seed=7)).traces
    assert seen == [([row["text"] for row in DOCUMENTS], 7)]
    assert [(trace.text, trace.seed, trace.generator) for trace in traces] == [("so</think>", 7, "function")] * 3


def test_a_recipe_calls_what_an_installed_package_names(installed):
    traces = CalledTraces(callable="reasoner").collect(request(seed=3)).traces
    assert [trace.text for trace in traces] == ["a with 3</think>", "b with 3</think>", "c with 3</think>"]
    assert traces[0].generator == "package.module:function 1.2"


def test_what_a_named_function_gave_is_kept_and_it_is_called_again_for_another_seed_alone(installed, tmp_path):
    source = CalledTraces(callable="reasoner")
    first = source.make(request(folder=tmp_path))
    assert source.make(request(folder=tmp_path)).rows == first.rows and Point.calls == 1
    assert source.make(request(folder=tmp_path, seed=1)).rows != first.rows and Point.calls == 2


def test_a_plan_calls_no_function_and_writes_nothing(installed, tmp_path):
    source = CalledTraces(callable="reasoner", max_trace_tokens=20)
    sketch = source.make(request(folder=tmp_path, load=None))
    assert sketch.is_sketch and len(sketch.rows) == 3 and sketch.facts["to_make"] == 3
    assert Point.calls == 0 and list(tmp_path.iterdir()) == []
    own = CalledTraces.from_function(lambda segments, seed: pytest.fail("called"))
    assert own.make(request(load=None)).is_sketch


def test_a_plan_uses_what_a_named_function_gave_before(installed, tmp_path):
    source = CalledTraces(callable="reasoner")
    first = source.make(request(folder=tmp_path))
    planned = source.make(request(folder=tmp_path, load=None))
    assert planned.rows == first.rows and not planned.is_sketch and Point.calls == 1


def test_a_plan_refuses_a_function_that_no_package_gives(installed):
    with pytest.raises(InputError, match="no installed package"):
        CalledTraces(callable="raesoner").make(request(load=None))


def test_what_another_run_got_while_this_one_waited_is_read_and_the_function_is_not_called_again(
    installed, tmp_path, monkeypatch
):
    source = CalledTraces(callable="reasoner")
    first = source.make(request(folder=tmp_path))
    (path,) = tmp_path.glob("*.jsonl")
    text = path.read_text()
    path.unlink()
    real = tracefile.fcntl.flock

    def slow(handle, how):
        real(handle, how)
        path.write_text(text)  # the other one finishes just before this one has the lock

    monkeypatch.setattr(tracefile.fcntl, "flock", slow)
    assert source.make(request(folder=tmp_path)).rows == first.rows and Point.calls == 1


@pytest.mark.parametrize("name", ["raesoner", "os:system", "temper.reason.called:CalledTraces"])
def test_a_name_that_no_package_gives_is_refused_and_never_imported(installed, name):
    with pytest.raises(InputError, match="no installed package has an entry point of that name") as error:
        CalledTraces(callable=name).collect(request())
    assert ("did you mean 'reasoner'?" in str(error.value)) is (name == "raesoner")


@pytest.mark.parametrize("texts", [["one"], ["one", "two", 3], ["1", "2", "3", "4"]])
def test_a_function_that_gives_something_else_than_a_text_for_each_segment_is_an_error(texts):
    with pytest.raises(DataError, match=f"gave {len(texts)} traces for 3 segments"):
        CalledTraces.from_function(lambda segments, seed: texts).collect(request())
