import json
import logging

import pytest

from temper import processes
from temper.data.tokenise import encode
from temper.errors import DataError, ModelError, RunError
from temper.models import generation
from temper.models.generation import generate
from temper.reason import generated
from temper.reason.traces import GeneratedTraces
from tests.reason.builders import DOCUMENTS, QUESTIONS, TOKENIZER, TRIGGER, request, thinker

NAMES = ["Ada", "Bo", "Cy", "Dot", "Eve", "Fay", "Gus", "Hal"]
MANY = [{"id": name, "text": f"{name} was born in London"} for name in NAMES] + [
    {"id": f"{name}2", "text": f"The author {name} writes about {name}"} for name in NAMES[:4]
]


@pytest.fixture
def model(make_llama):
    return make_llama(vocab=len(TOKENIZER), layers=2)


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(generated, "_CHUNK", 3)


def asked(model, folder=None, rows=MANY, identity="weights", **changes):
    return request(rows, load=None if model is None else lambda: model, identity=identity, folder=folder, **changes)


def file_of(model, folder, rows=MANY, identity="weights", seed=0, **settings):
    """Return the bytes of the one file that is made in a folder of its own."""
    source = GeneratedTraces(**{"max_new_tokens": 8, "until": "end", **settings})
    source.collect(asked(model, folder, rows, identity, seed=seed))
    (path,) = folder.glob("*")
    return path.read_bytes()


def lines(data):
    return [json.loads(line) for line in data.decode().splitlines()]


def test_a_trace_is_what_the_model_says_after_the_prompt(model):
    traces = GeneratedTraces(max_new_tokens=8, until="end").collect(asked(model)).traces
    assert [trace.text for trace in traces] == generate(
        model, TOKENIZER, [trace.prompt for trace in traces], max_new_tokens=8, batch_size=1
    )
    assert [trace.document for trace in traces] == [row["id"] for row in MANY]
    assert len({trace.text for trace in traces}) > 3


def test_a_trace_stops_at_its_closing_tag_which_it_holds(make_llama):
    model = thinker(make_llama, "eta</think>oin")
    tokens = len(TOKENIZER("eta</think>", add_special_tokens=False)["input_ids"])
    for trace in GeneratedTraces().collect(asked(model)).traces:
        assert (trace.text, trace.tokens, trace.stopped_by, trace.seed) == ("eta</think>", tokens, "closed", None)


def test_a_trace_that_goes_on_to_the_end_holds_the_answer(make_llama):
    trace = GeneratedTraces(until="end").collect(asked(thinker(make_llama, "eta</think>oin"))).traces[0]
    assert (trace.text, trace.stopped_by) == ("eta</think>oin", "end")


def test_the_file_says_of_each_trace_what_it_is_about_and_where_it_comes_from(make_llama, tmp_path):
    rows = [{"id": "d", "text": "question answer who what where"}]
    data = file_of(
        thinker(make_llama, "eta</think>"), tmp_path, rows, segments_per_doc=2, segment_tokens=3, until="close", trigger=""
    )
    assert lines(data) == [
        {
            "document": "d",
            "segment": number,
            "start": start,
            "end": end,
            "prompt": f"{text}\n<think>",
            "text": "eta</think>",
            "tokens": len(TOKENIZER("eta</think>", add_special_tokens=False)["input_ids"]),
            "stopped_by": "closed",
            "generator": "weights",
            "seed": None,
        }
        for number, start, end, text in ((0, 0, 3, "question answer who"), (1, 3, 5, " what where"))
    ]


def test_rows_of_generated_traces_hold_nothing_of_their_documents(model):
    made = GeneratedTraces(max_new_tokens=8, until="end").make(asked(model))
    items = encode(made.rows, TOKENIZER, made.source, max_length=128, overflow="error", where="data.trace").items
    for item, row in zip(items, made.rows, strict=True):
        assert TOKENIZER.decode(item.input_ids).startswith("<s>Let's reason this step by step.\n<think>")
        assert row["document"] not in TOKENIZER.decode(item.input_ids)


def test_the_size_of_the_batch_changes_no_byte(model, tmp_path):
    found = {file_of(model, tmp_path / str(size), batch_size=size) for size in (1, 5, 64)}
    assert len(found) == 1


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_size_of_a_chunk_changes_no_byte(model, tmp_path, monkeypatch, temperature):
    rows = [*MANY, {**MANY[0], "id": "again"}]  # a prompt that comes twice is drawn anew, wherever it stands
    found = []
    for size in (128, 2):
        monkeypatch.setattr(generated, "_CHUNK", size)
        found.append(file_of(model, tmp_path / str(size), rows, temperature=temperature))
    assert found[0] == found[1]
    texts = {row["document"]: row["text"] for row in lines(found[0])}
    assert (texts["again"] == texts["Ada"]) is (temperature == 0)


def test_drawn_traces_depend_on_the_seed_and_greedy_ones_do_not(model, tmp_path):
    drawn = [file_of(model, tmp_path / f"{n}", temperature=1.0, seed=seed) for n, seed in enumerate((0, 0, 1))]
    assert drawn[0] == drawn[1] != drawn[2]
    assert {row["seed"] for row in lines(drawn[2])} == {1}
    greedy = [file_of(model, tmp_path / f"greedy{seed}", seed=seed) for seed in (0, 1)]
    assert greedy[0] == greedy[1]


def test_only_what_decides_the_text_names_the_file(model, tmp_path):
    def name(**settings):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        changes = {key: settings.pop(key) for key in ("seed", "rows", "identity") if key in settings}
        source = GeneratedTraces(**{"max_new_tokens": 4, "until": "end", **settings})
        source.collect(asked(model, folder, **{"rows": DOCUMENTS, **changes}))
        (path,) = folder.glob("*")
        return path.name

    first = name()
    same = [{"max_trace_tokens": 2}, {"min_trace_tokens": 1}, {"batch_size": 1}, {"keep_context": "keep_unscored"}, {"seed": 1}]
    assert {name(**settings) for settings in same} == {first}
    other = [
        {"max_new_tokens": 5},
        {"temperature": 1.0},
        {"temperature": 1.0, "seed": 1},
        {"trigger": "Why?"},
        {"trigger_position": "before"},
        {"segment_tokens": 3},
        {"rows": DOCUMENTS[1:]},
        {"rows": [{**DOCUMENTS[0], "id": "z"}, *DOCUMENTS[1:]]},
        {"identity": "others"},
        {"close_tag": "<|user|>"},
    ]
    names = [name(**settings) for settings in other]
    assert len({first, *names}) == 1 + len(other)


def test_what_is_there_is_not_made_again(model, tmp_path, monkeypatch):
    source = GeneratedTraces(max_new_tokens=4, until="end")
    first = source.make(asked(model, tmp_path))
    monkeypatch.setattr(generation, "continuations", None)
    assert source.make(asked(model, tmp_path)).rows == first.rows
    planned = source.make(asked(None, tmp_path))
    assert planned.rows == first.rows and not planned.is_sketch


def test_a_plan_gets_rows_of_the_expected_number_and_length(tmp_path):
    source = GeneratedTraces(max_trace_tokens=20, segments_per_doc=2, segment_tokens=5)
    sketch = source.make(asked(None, tmp_path))
    assert sketch.is_sketch and len(sketch.rows) == len(source.collect(asked(None, tmp_path)).segments) == 2 * len(MANY)
    items = encode(sketch.rows, TOKENIZER, sketch.source, max_length=128, overflow="error", where="data.trace").items
    assert {sum(label != -100 for label in item.labels) for item in items} <= {18, 19, 20}
    assert list(tmp_path.iterdir()) == []


class Stopped(Exception):
    pass


@pytest.fixture
def generations(monkeypatch):
    """Count generations, and let one after a given number of them fail."""
    real, state = generation.continuations, {"made": 0, "left": 10**9}

    def counted(*args, **kwargs):
        if state["made"] >= state["left"]:
            raise Stopped
        state["made"] += 1
        return real(*args, **kwargs)

    monkeypatch.setattr(generation, "continuations", counted)
    return state


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_generation_that_was_stopped_goes_on_to_the_same_file(model, tmp_path, small_chunks, generations, temperature):
    whole = file_of(model, tmp_path / "whole", temperature=temperature)
    assert generations["made"] == 4
    for left in (0, 1, 3):
        generations |= {"made": 0, "left": left}
        folder = tmp_path / f"after{left}"
        with pytest.raises(Stopped):
            file_of(model, folder, temperature=temperature)
        assert not list(folder.glob("*.jsonl"))
        generations |= {"made": 0, "left": 10**9}
        assert file_of(model, folder, temperature=temperature) == whole
        assert generations["made"] == 4 - left


def test_a_file_that_was_begun_and_not_finished_is_never_read(model, tmp_path, small_chunks, generations):
    generations["left"] = 1
    with pytest.raises(Stopped):
        file_of(model, tmp_path)
    (parts,) = tmp_path.glob("*.parts")
    (parts / ".00001.jsonl.abc").write_text('{"document": "torn')
    generations |= {"made": 0, "left": 10**9}
    source = GeneratedTraces(max_new_tokens=8, until="end")
    assert source.make(asked(None, tmp_path)).is_sketch
    assert file_of(model, tmp_path) == file_of(model, tmp_path / "fresh")
    assert generations["made"] == 3 + 4


def changed(content, **columns):
    """Return the content of a file with other values in its third row."""
    rows = content.split("\n")
    rows[2] = json.dumps(json.loads(rows[2]) | columns)
    return "\n".join(rows)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda text: text[: len(text) // 2], "is no trace"),
        (lambda text: text.split("\n", 1)[1], "holds 11 traces that are not those of the 12 segments"),
        (lambda text: text.replace('"tokens"', '"count"'), "line 1: is no trace"),
        (lambda text: changed(text, text=None), r"line 3: is no trace \(text holds None\)"),
        (lambda text: changed(text, tokens="8"), r"line 3: is no trace \(tokens holds '8'\)"),
        (lambda text: changed(text, tokens=True), r"line 3: is no trace \(tokens holds True\)"),
        (lambda text: changed(text, stopped_by="tired"), r"line 3: is no trace \(stopped_by holds 'tired'\)"),
        (lambda text: changed(text, seed=0.5), r"line 3: is no trace \(seed holds 0.5\)"),
        (lambda text: "", "line 1: is no trace"),
        (lambda text: "7\n" + text, "line 1: is no trace"),
    ],
)
def test_a_file_that_was_changed_is_an_error_that_names_it(model, tmp_path, spoil, said):
    file_of(model, tmp_path)
    (path,) = tmp_path.glob("*.jsonl")
    path.write_text(spoil(path.read_text()))
    with pytest.raises(DataError, match=f"{path.name}.*{said}.*Remove the file"):
        GeneratedTraces(max_new_tokens=8, until="end").collect(asked(model, tmp_path))


def test_bytes_that_are_no_text_are_an_error_that_names_the_file_and_the_line(model, tmp_path):
    file_of(model, tmp_path)
    (path,) = tmp_path.glob("*.jsonl")
    path.write_bytes(path.read_bytes().replace(b"{", b"\xff{", 1))
    with pytest.raises(DataError, match=f"{path.name} line 1: is no trace.*Remove the file"):
        GeneratedTraces(max_new_tokens=8, until="end").collect(asked(model, tmp_path))


def test_processes_share_the_chunks_and_the_first_joins_them(model, tmp_path, small_chunks, generations, monkeypatch):
    whole = file_of(model, tmp_path / "one")
    state = {"rank": 1, "waits": 0}
    monkeypatch.setattr(processes, "count", lambda: 2)
    monkeypatch.setattr(processes, "rank", lambda: state["rank"])
    generations["made"] = 0
    folder = tmp_path / "two"

    def wait():
        state["waits"] += 1
        if state["waits"] == 2:  # the second process waits here for the first, which has made nothing yet
            assert generations["made"] == 2 and not list(folder.glob("*.jsonl"))
            state["rank"] = 0
            assert file_of(model, folder) == whole
            state["rank"] = 1

    monkeypatch.setattr(processes, "wait", wait)
    assert file_of(model, folder) == whole
    assert generations["made"] == 4 and state["waits"] == 6


def test_a_part_that_another_process_wrote_elsewhere_is_missed(model, tmp_path, small_chunks, monkeypatch):
    monkeypatch.setattr(processes, "count", lambda: 2)
    monkeypatch.setattr(processes, "wait", lambda: None)
    with pytest.raises(RunError, match="part 1 is not there.*TEMPER_CACHE"):
        file_of(model, tmp_path)


def test_the_record_of_a_run_says_what_was_made_and_where_it_is(model, tmp_path):
    facts = GeneratedTraces(max_new_tokens=8, until="end", max_trace_tokens=4).make(asked(model, tmp_path)).facts
    (path,) = tmp_path.glob("*.jsonl")
    assert facts["file"] == str(path) and facts["traces"] == facts["documents"] == 12 and facts["cut"] > 0
    assert "file" not in GeneratedTraces(max_new_tokens=8, until="end").make(asked(model)).facts


def test_without_a_folder_nothing_is_written_and_without_an_identity_the_model_is_named(model, tmp_path):
    traces = GeneratedTraces(max_new_tokens=4, until="end").collect(asked(model, None, identity=None)).traces
    assert len(traces) == len(MANY) and {trace.generator for trace in traces} == {"LlamaForCausalLM"}
    assert file_of(model, tmp_path, identity=None) == file_of(model, tmp_path / "again", identity=None)


def test_a_model_that_ends_without_closing_does_not_know_the_tags(make_llama):
    model = thinker(make_llama, "etaoin")
    with pytest.raises(ModelError) as error:
        GeneratedTraces().collect(asked(model))
    for part in ("none of the 12 traces has the closing tag '</think>' (12 end without it)", "open_tag", "until=end"):
        assert part in str(error.value)
    assert len(GeneratedTraces(until="end").collect(asked(model)).traces) == 12


def test_a_tag_of_ordinary_tokens_that_never_comes_is_an_error_and_one_that_comes_works(make_llama):
    pieces = TOKENIZER("[x]", add_special_tokens=False)["input_ids"]
    assert len(pieces) == 3
    model = thinker(make_llama, "eta[x]oin")
    traces = GeneratedTraces(close_tag="[x]").collect(asked(model)).traces
    assert {(trace.text, trace.stopped_by, trace.tokens) for trace in traces} == {
        ("eta[x]", "closed", len(TOKENIZER("eta[x]", add_special_tokens=False)["input_ids"]))
    }
    with pytest.raises(ModelError, match="3 ordinary tokens to this tokenizer"):
        GeneratedTraces(close_tag="[y]", max_new_tokens=3).collect(asked(model))


def test_traces_that_are_all_cut_are_kept_and_it_is_said_where_a_user_reads_it(make_llama, tmp_path, caplog):
    told = []
    model, source = thinker(make_llama, "etaoinsh</think>"), GeneratedTraces(max_new_tokens=3)
    with caplog.at_level(logging.WARNING, "temper"):
        made = source.make(asked(model, tmp_path, progress=lambda *state: told.append(state)))
    assert {row["response"] for row in made.rows} == {"eta"} and {row["whole"] for row in made.rows} == {False}
    note = "none of the 12 traces closes: each was cut, the longest after 3 tokens"
    assert note in caplog.text and note in made.facts["note"] and made.facts["closed_rate"] == 0
    assert told[-1] == ("traces", 12, 12, "none closed, all were cut")
    assert note in source.make(asked(None, tmp_path)).facts["note"]  # in the plan too, once they are there


def test_traces_of_which_some_close_bring_no_note(make_llama, tmp_path):
    told = []
    source = GeneratedTraces()
    made = source.make(asked(thinker(make_llama, "eta</think>oin"), tmp_path, progress=lambda *state: told.append(state)))
    assert "note" not in made.facts and made.facts["closed_rate"] == 1 and told[-1] == ("traces", 12, 12, "12 closed")


def test_the_context_cuts_traces_at_a_length_that_depends_on_their_own_prompt(make_llama):
    model = thinker(make_llama, "etaoinshrdlucmfwypvbgkqjxz.,0123456789ETAOINSHRDLUCMFWYPVBGK", ends=False, context=64)
    rows = [DOCUMENTS[0], {"id": "long", "text": "question answer who what where when how many novels plays " * 3}]
    traces = GeneratedTraces(trigger="", until="end").collect(asked(model, rows=rows)).traces
    for trace in traces:
        room = 64 - len(TOKENIZER(trace.prompt)["input_ids"])
        assert trace.tokens == room - room % 16 and trace.stopped_by == "length"
    assert traces[0].tokens > traces[1].tokens > 0


def test_a_prompt_that_fills_the_context_is_an_error_that_names_its_row(make_llama):
    model = make_llama(vocab=len(TOKENIZER), context=16)
    with pytest.raises(
        DataError, match="row 'a': its prompt has .* leaves no room in the model's context of 16. Set segment_tokens lower"
    ):
        GeneratedTraces().collect(asked(model, rows=DOCUMENTS[:1]))


def test_a_prompt_that_fills_a_known_context_is_refused_before_a_model_is_loaded_and_in_a_plan(tmp_path):
    for in_plan in (False, True):
        tokens = len(TOKENIZER(f"{DOCUMENTS[0]['text']}\n{TRIGGER}\n<think>")["input_ids"])
        plan = {"load": None} if in_plan else {}
        wanted = request(DOCUMENTS[:1], folder=tmp_path, identity="weights", context=tokens, **plan)
        with pytest.raises(DataError, match="row 'a': its prompt has .* leaves no room"):
            GeneratedTraces().make(wanted)
    wanted.context += 1
    assert GeneratedTraces().make(wanted).is_sketch
    assert list(tmp_path.iterdir()) == []


def test_progress_counts_the_traces_and_ends_with_how_many_closed(model, tmp_path, small_chunks):
    told = []
    source = GeneratedTraces(max_new_tokens=4, until="end")
    source.collect(asked(model, tmp_path, progress=lambda *state: told.append(state)))
    assert told == [*(("traces", count, 12, "") for count in (0, 3, 6, 9)), ("traces", 12, 12, "0 closed")]
    told.clear()
    source.collect(asked(model, tmp_path, progress=lambda *state: told.append(state)))
    assert told == [("traces", 12, 12, "0 closed")]


def test_questions_are_reasoned_about_too(model):
    traces = GeneratedTraces(max_new_tokens=4, until="end", trigger="").collect(asked(model, rows=QUESTIONS)).traces
    assert [trace.prompt for trace in traces] == ["Where was Ada born?<think>", "Who writes {prompt} books?<think>"]
