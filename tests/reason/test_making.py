import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from temper.errors import DataError, InputError, RecipeError
from temper.files import cache_folder
from temper.models import generation
from temper.reason import make_traces
from tests.reason.builders import DOCUMENTS, TOKENIZER, thinker

TEXT = "eta</think>oin"


@pytest.fixture
def folder(tmp_path, make_llama, monkeypatch):
    """A folder with model/ that thinks, rows.jsonl, and a cache of its own."""
    monkeypatch.setenv("TEMPER_CACHE", str(tmp_path / "cache"))
    thinker(make_llama, TEXT).save_pretrained(tmp_path / "model")
    TOKENIZER.save_pretrained(tmp_path / "model")
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in DOCUMENTS))
    return tmp_path


def made(folder, *settings, **more):
    return make_traces(
        str(folder / "rows.jsonl"), folder / "traces.jsonl", model=str(folder / "model"), settings=settings, **more
    )


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_traces_are_written_to_the_file_with_their_health(folder):
    found = made(folder)
    assert [(row["document"], row["text"]) for row in lines(found.path)] == [(name, "eta</think>") for name in "abc"]
    facts = found.facts()
    assert (facts["documents"], facts["rows"], facts["closed_rate"], facts["dropped"]) == (3, 3, 1.0, [])


def test_settings_reach_the_traces_the_data_and_the_rest(folder):
    found = made(folder, "until=end", "source.limit=2", "min_trace_tokens=2", "trigger=", "model.attention=eager", "seed=4")
    assert [row["text"] for row in lines(found.path)] == [TEXT, TEXT]
    assert found.traces[0].prompt == f"{DOCUMENTS[0]['text']}\n<think>"


def test_what_was_made_can_be_given_as_a_column_and_gives_the_same_traces(folder):
    first = made(folder).traces
    (folder / "traces.jsonl").rename(folder / "kept.jsonl")
    again = made(folder, "column=text", f"path={folder / 'kept.jsonl'}", provider="trace_column").traces
    assert [(one.document, one.text, one.tokens, one.stopped_by) for one in again] == [
        (one.document, one.text, one.tokens, one.stopped_by) for one in first
    ]


@pytest.mark.parametrize(
    ("settings", "more", "error", "said"),
    [
        (["triger=x"], {}, RecipeError, "did you mean 'trigger'?"),
        (["source.limt=1"], {}, RecipeError, "did you mean 'limit'?"),
        ([], {"provider": "trace"}, RecipeError, "did you mean 'traces'?"),
        (["min_trace_tokens=50"], {}, DataError, "none of the 3 traces"),
    ],
)
def test_wrong_settings_are_named(folder, settings, more, error, said):
    with pytest.raises((error, InputError)) as caught:
        made(folder, *settings, **more)
    assert said in str(caught.value)


def test_a_folder_is_no_file_to_write(folder):
    (folder / "traces.jsonl").mkdir()
    with pytest.raises(DataError, match="is a folder"):
        made(folder)


def test_a_prompt_that_fills_the_context_is_refused_before_the_model_is_loaded(folder, monkeypatch):
    (folder / "rows.jsonl").write_text(json.dumps({"id": "L", "text": "question " * 300}) + "\n")
    monkeypatch.setattr("temper.models.workshop.load_model", None)
    with pytest.raises(DataError, match="row 'L': its prompt has .* leaves no room in the model's context of 128"):
        made(folder)


@pytest.mark.parametrize("out", ["rows.jsonl/t.jsonl", "rows.jsonl/deep/t.jsonl"])
def test_a_place_under_a_file_is_refused_with_its_path_before_anything_is_made(folder, monkeypatch, out):
    monkeypatch.setattr(generation, "continuations", None)
    with pytest.raises(DataError) as error:
        make_traces(str(folder / "rows.jsonl"), folder / out, model=str(folder / "model"))
    assert f"{folder / out}: {folder / 'rows.jsonl'} is a file. Name a file in a folder" in str(error.value)


def test_a_folder_that_is_not_there_yet_is_made(folder):
    found = make_traces(str(folder / "rows.jsonl"), folder / "new" / "deep" / "t.jsonl", model=str(folder / "model"))
    assert len(lines(found.path)) == 3


def test_what_is_read_is_never_replaced(folder, monkeypatch):
    before = (folder / "rows.jsonl").read_bytes()
    (folder / "link.jsonl").symlink_to(folder / "rows.jsonl")
    monkeypatch.chdir(folder)
    for data, out in (
        ("rows.jsonl", "rows.jsonl"),
        ("rows.jsonl", "link.jsonl"),
        ("link.jsonl", "../" + folder.name + "/rows.jsonl"),
    ):
        with pytest.raises(DataError, match=r"is what is read, and would be replaced by the traces. Give another file"):
            make_traces(data, Path(out), model=str(folder / "model"))
    made(folder)
    kept = (folder / "traces.jsonl").read_bytes()
    with pytest.raises(DataError, match="is what is read"):
        made(folder, "column=text", f"path={folder / 'traces.jsonl'}", provider="trace_column")
    assert (folder / "rows.jsonl").read_bytes() == before and (folder / "traces.jsonl").read_bytes() == kept


def test_a_kept_file_of_another_form_names_file_and_line(folder):
    made(folder)
    (kept,) = (cache_folder() / "made").glob("*.jsonl")
    first, rest = kept.read_text().split("\n", 1)
    kept.write_text(json.dumps(json.loads(first) | {"text": None}) + "\n" + rest)
    with pytest.raises(DataError, match=rf"{kept.name} line 1: is no trace \(text holds None\). Remove the file"):
        made(folder)


def test_a_model_that_never_closes_is_told_with_its_share_and_a_note(folder):
    facts = made(folder, "max_new_tokens=2").facts()
    assert facts["closed_rate"] == 0 and "none of the 3 traces closes" in facts["note"]
    assert "note" not in made(folder).facts()


def test_another_configuration_or_another_end_with_the_same_weights_writes_other_traces(folder, make_llama):
    make_llama(vocab=len(TOKENIZER), layers=2).save_pretrained(folder / "model")
    settings = ["until=end", "max_new_tokens=12"]
    first, kept = [trace.text for trace in made(folder, *settings).traces], made(folder, *settings).health["stopped_by"]
    generator = {trace.generator for trace in made(folder, *settings).traces}
    config = json.loads((folder / "model" / "config.json").read_text())
    changed = {**config, "rms_norm_eps": 0.5, "rope_parameters": {"rope_type": "default", "rope_theta": 3.0}}
    (folder / "model" / "config.json").write_text(json.dumps(changed))
    other = made(folder, *settings).traces
    assert [trace.text for trace in other] != first and {trace.generator for trace in other} != generator
    (folder / "model" / "config.json").write_text(json.dumps(config))
    assert [trace.text for trace in made(folder, *settings).traces] == first
    place = folder / "model" / "generation_config.json"
    ends = list(range(2, len(TOKENIZER), 4))  # every fourth token ends a reply: none lasts
    place.write_text(json.dumps(json.loads(place.read_text()) | {"eos_token_id": ends}))
    ended = made(folder, *settings).health["stopped_by"]
    assert ended["end"] > 0 and kept["end"] == 0


def test_two_models_that_nothing_tells_apart_share_no_traces_in_one_folder(folder, make_llama, monkeypatch):
    monkeypatch.setattr("temper.models.workshop.model_identity", lambda section, world: None)
    first = made(folder, "until=end", "max_new_tokens=8").traces
    make_llama(vocab=len(TOKENIZER), layers=1, seed=1).save_pretrained(folder / "other")
    TOKENIZER.save_pretrained(folder / "other")
    settings = ["until=end", "max_new_tokens=8"]
    other = make_traces(str(folder / "rows.jsonl"), folder / "o.jsonl", model=str(folder / "other"), settings=settings).traces
    assert [trace.text for trace in other] != [trace.text for trace in first]
    assert {str(folder / "model") in trace.generator for trace in first} == {True}
    assert not (cache_folder() / "made").exists()


KILLED = """
import os, signal, sys
from temper.models import generation
from temper.reason import generated, make_traces
from pathlib import Path
generated._CHUNK = 1
real, made = generation.continuations, []
def counted(*args, **kwargs):
    if len(made) == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    made.append(1)
    return real(*args, **kwargs)
generation.continuations = counted
folder = Path(sys.argv[1])
make_traces(str(folder / "rows.jsonl"), folder / "traces.jsonl", model=str(folder / "model"), settings=["temperature=1.0", "until=end"])
print(len(made))
"""


@pytest.mark.slow
def test_a_generation_that_is_killed_goes_on_to_the_same_file(folder, make_llama):
    make_llama(vocab=len(TOKENIZER)).save_pretrained(folder / "model")

    def run(cache, after):
        return subprocess.run(
            [sys.executable, "-c", KILLED, str(folder), str(after)],
            env={**os.environ, "TEMPER_CACHE": str(folder / cache)},
            capture_output=True,
            text=True,
            timeout=120,
        )

    assert run("whole", 99).stdout == "3\n"
    whole = (folder / "traces.jsonl").read_bytes()
    (folder / "traces.jsonl").unlink()
    assert run("killed", 2).returncode == -signal.SIGKILL and not (folder / "traces.jsonl").exists()
    done = run("killed", 99)
    assert done.stdout == "1\n", done.stderr
    assert (folder / "traces.jsonl").read_bytes() == whole


@pytest.mark.slow
def test_two_processes_write_the_file_that_one_writes(folder, make_llama):
    make_llama(vocab=len(TOKENIZER)).save_pretrained(folder / "model")
    rows = [{"id": f"d{number}", "text": f"{number} was born in London"} for number in range(150)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    whole = made(folder, "until=end", "max_new_tokens=8").path.read_bytes()
    torchrun = str(Path(sys.executable).with_name("torchrun"))
    command = [torchrun, "--standalone", "--nproc_per_node", "2", "-m", "temper.cli", "traces", str(folder / "rows.jsonl")]
    done = subprocess.run(
        [
            *command,
            "until=end",
            "max_new_tokens=8",
            "--model",
            str(folder / "model"),
            "--out",
            str(folder / "two.jsonl"),
            "--json",
        ],
        env={**os.environ, "TEMPER_CACHE": str(folder / "cache")},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout)["traces"] == 150 and (folder / "two.jsonl").read_bytes() == whole


@pytest.mark.slow
def test_the_model_of_the_world_reasons_about_its_questions_and_closes_its_traces(tmp_path):
    found = make_traces(
        "world:forget_direct", tmp_path / "t.jsonl", model="world:original", settings=["world.size=small", "source.limit=40"]
    )
    assert found.health["closed_rate"] > 0.9 and found.rows == 40
    assert all(trace.text.startswith((" I need", " To find")) for trace in found.traces)
