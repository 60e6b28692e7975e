import json
from dataclasses import asdict
from itertools import permutations

import pytest

from temper.errors import DataError, InputError
from temper.reason.traces import ColumnTraces
from tests.reason.builders import DOCUMENTS, QUESTIONS, request, saying


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def collected(rows=DOCUMENTS, source=None, **settings):
    return ColumnTraces(**settings).collect(request(rows, source=source or {})).traces


def test_a_column_of_the_rows_holds_their_traces():
    rows = [{**row, "cot": f"trace of {row['id']}"} for row in DOCUMENTS]
    traces = collected(rows, column="cot")
    assert [(trace.document, trace.text, trace.stopped_by) for trace in traces] == [
        ("a", "trace of a", "end"),
        ("b", "trace of b", "end"),
        ("c", "trace of c", "end"),
    ]
    assert traces[0].seed is None and traces[0].generator == "rows.jsonl: cot"


def test_a_list_holds_the_traces_of_the_segments_in_order():
    rows = [{"id": "d", "text": "question answer who what where", "trace": ["one", "two"]}]
    traces = collected(rows, segments_per_doc=2, segment_tokens=3)
    assert [(trace.segment, trace.text) for trace in traces] == [(0, "one"), (1, "two")]


def test_a_file_is_joined_by_document_whatever_the_order_of_its_rows(tmp_path):
    held = [{"document": name, "text": f"trace of {name}"} for name in "cab"]
    traces = collected(path=write(tmp_path / "t.jsonl", held), column="text")
    assert [(trace.document, trace.text) for trace in traces] == [(name, f"trace of {name}") for name in "abc"]
    named = [{"id": name, "text": f"trace of {name}"} for name in "cab"]
    assert [trace.text for trace in collected(path=write(tmp_path / "u.jsonl", named), column="text")] == [t.text for t in traces]


def test_tags_that_the_text_brings_are_not_doubled_and_what_follows_the_closing_tag_is_left_out():
    rows = [{"id": "d", "text": "Ada", "trace": "\n<think> so it is</think> London"}]
    closed, whole = collected(rows)[0], collected(rows, until="end")[0]
    assert (closed.text, closed.stopped_by) == (" so it is</think>", "closed")
    assert (whole.text, whole.stopped_by) == (" so it is</think> London", "end")


def test_what_a_file_of_traces_says_of_their_ends_is_believed(tmp_path):
    held = [
        {"document": name, "text": "so", "stopped_by": how} for name, how in zip("abc", ("length", "end", "closed"), strict=True)
    ]
    path = write(tmp_path / "t.jsonl", held)
    assert [trace.stopped_by for trace in collected(path=path, column="text")] == ["length", "end", "closed"]
    made = ColumnTraces(path=path, column="text").make(request())
    assert [row["whole"] for row in made.rows] == [False, True, False]


def test_a_file_without_traces_of_some_documents_is_an_error_with_names_and_counts(tmp_path):
    path = write(tmp_path / "t.jsonl", [{"document": "b", "text": "so"}])
    with pytest.raises(DataError) as error:
        collected(path=path, column="text")
    assert "does not match its documents: 2 of 3 have no trace (a, c)" in str(error.value)


def test_a_file_about_other_documents_is_an_error_with_names_and_counts(tmp_path):
    path = write(tmp_path / "t.jsonl", [{"document": name, "text": "so"} for name in "abcxy"])
    with pytest.raises(DataError) as error:
        collected(path=path, column="text")
    assert "2 of the 5 documents that it has traces of are not among the 3 of rows.jsonl (x, y); 3 are" in str(error.value)


def test_a_file_may_hold_more_where_only_a_part_of_the_rows_is_used(tmp_path):
    path = write(tmp_path / "t.jsonl", [{"document": name, "text": name} for name in "abcxy"])
    assert [trace.text for trace in collected(path=path, column="text", source={"limit": 3})] == ["a", "b", "c"]


def test_another_number_of_traces_than_segments_is_an_error(tmp_path):
    path = write(tmp_path / "t.jsonl", [{"document": name, "text": name} for name in "abbc"])
    with pytest.raises(DataError, match=r"1 have another number of traces than segments. 'b' has 2 for 1 segments"):
        collected(path=path, column="text")


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"trase": "x"}, r"row 'd': column 'trace' is not there \(did you mean 'trase'\?\). Its columns: text, trase\."),
        ({"trace": 7}, "row 'd': column 'trace' holds 7, expected text or a list of texts"),
        ({"trace": ["x", None]}, "expected text or a list of texts"),
        ({"trace": []}, "expected text or a list of texts"),
    ],
)
def test_a_column_that_is_not_there_or_holds_no_text_is_an_error_that_names_the_row(row, said):
    with pytest.raises(DataError, match=said):
        collected([{"id": "d", "text": "Ada", **row}])


def test_a_file_whose_rows_name_no_document_is_an_error(tmp_path):
    path = write(tmp_path / "t.jsonl", [{"document": None, "text": "so"}])
    with pytest.raises(DataError, match="names no document"):
        collected(path=path, column="text")


def test_a_trace_of_no_text_in_another_file_is_named_by_its_row_and_document_without_a_suggestion(tmp_path):
    held = [{"document": name, "text": None if name == "b" else "so"} for name in "abc"]
    with pytest.raises(DataError) as error:
        collected(path=write(tmp_path / "t.jsonl", held), column="text")
    assert "t.jsonl row 2 (document 'b'): column 'text' holds None, expected text" in str(error.value)
    assert "did you mean" not in str(error.value)
    with pytest.raises(DataError, match=r"row 1 \(document 'a'\): column 'txet' is not there \(did you mean 'text'\?\)"):
        collected(path=write(tmp_path / "t.jsonl", held), column="txet")


CUT = {"segments_per_doc": 2, "segment_tokens": 3}
LONG = [
    {"id": "d", "text": "question answer who what where"},
    {"id": "e", "text": "Ada was born in London and writes novels"},
]


def written(**changes):
    """Return the rows that `temper traces` would write about LONG, with changes to the one about segment 1 of d."""
    traces = saying(*"pqrs", **CUT).collect(request(LONG)).traces
    rows = [asdict(trace) for trace in traces]
    assert [(row["document"], row["segment"]) for row in rows] == [("d", 0), ("d", 1), ("e", 0), ("e", 1)]
    rows[1] |= changes
    return rows


@pytest.mark.parametrize("left_out", [(), ("start", "end"), ("prompt",), ("start", "end", "prompt")])
def test_traces_go_to_their_segments_whatever_the_order_of_the_file(tmp_path, left_out):
    rows = [{name: value for name, value in row.items() if name not in left_out} for row in written()]
    for number, order in enumerate(permutations(rows)):
        path = write(tmp_path / f"{number}.jsonl", order)
        assert [trace.text for trace in collected(LONG, path=path, column="text", **CUT)] == list("pqrs")


@pytest.mark.parametrize(
    ("changes", "column"),
    [
        ({"segment": 0}, "segment"),
        ({"segment": 7}, "segment"),
        ({"segment": "1"}, "segment"),
        ({"segment": True}, "segment"),
        ({"start": 900}, "start"),
        ({"start": None}, "start"),
        ({"prompt": "SOMETHING ELSE ENTIRELY\n<think>"}, "prompt"),
        ({"prompt": None, "end": 1400}, "end"),
    ],
)
def test_a_trace_of_something_else_than_its_segment_is_an_error_that_names_document_and_column(tmp_path, changes, column):
    path = write(tmp_path / "t.jsonl", written(**changes))
    with pytest.raises(DataError) as error:
        collected(LONG, path=path, column="text", **CUT)
    for part in ("does not match its documents", "'d'", f"column '{column}' holds {changes[column]!r}"):
        assert part in str(error.value)


def test_traces_that_are_about_each_others_segments_are_an_error(tmp_path):
    rows = written()
    rows[0]["prompt"], rows[1]["prompt"] = rows[1]["prompt"], rows[0]["prompt"]
    with pytest.raises(DataError, match="'d', segment 0, is about something else: column 'prompt'"):
        collected(LONG, path=write(tmp_path / "t.jsonl", rows), column="text", **CUT)


def test_traces_that_another_model_wrote_about_the_same_question_are_taken(tmp_path):
    asked = {
        "document": "q",
        "segment": 0,
        "start": 0,
        "end": 99,
        "prompt": "<user>Where was Ada born?\nThink.<bot><r>",
        "text": "so",
    }
    path = write(tmp_path / "t.jsonl", [asked])
    assert [trace.text for trace in collected(QUESTIONS[:1], path=path, column="text")] == ["so"]


def test_a_list_in_another_file_holds_the_traces_of_a_document_in_order(tmp_path):
    path = write(tmp_path / "t.jsonl", [{"document": "d", "text": ["p", "q"]}, {"document": "e", "text": ["r", "s"]}])
    assert [trace.text for trace in collected(LONG, path=path, column="text", **CUT)] == list("pqrs")


def test_a_world_path_is_not_joined():
    with pytest.raises(InputError, match="world: path"):
        collected(path="world:forget_think", column="response")
