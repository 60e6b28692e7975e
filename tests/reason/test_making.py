import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from temper.errors import DataError, InputError, RecipeError
from temper.reason import make_traces
from tests.reason.builders import DOCUMENTS, TOKENIZER, thinker

TEXT = "eta</think>oin"


@pytest.fixture
def folder(tmp_path, make_llama):
    """A folder with model/ that thinks, and rows.jsonl."""
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
