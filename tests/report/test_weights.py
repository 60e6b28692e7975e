"""What changed in the weights: read from a run's manifest, said in words, tables and a figure, and why where it is not known."""

import json
import re

import pytest

from temper.errors import DataError
from temper.report.columns import columns
from temper.report.compare import write_comparison
from temper.report.figures import layers
from temper.report.one import run as report_run
from temper.report.weights import Damage, changes_table, damage_in, damages_of, finely, one_line, places_table, said
from tests.report.evidences import evidence
from tests.report.pages import Seen

REASON = "two models answer together"


def part(parameters, changed, selected=None, moved=None, relative=0.02, **named):
    made = {
        "parameters": parameters,
        "changed": changed,
        "share_changed": changed / parameters,
        "relative_change": relative if changed else 0.0,
        **named,
    }
    if selected is not None:
        moved = changed if moved is None else moved
        share = moved / selected if selected else None
        others = {"others": parameters - selected, "others_moved": changed - moved}
        made |= {"selected": selected, "moved": moved, "share_moved": share, **others}
    return made


def facts(changed=400, selected=400, moved=None, **more):
    """Return what a run says of a model; everything that changes lies in block 1. The groups are as large as the whole, which nobody adds up."""
    of = (changed, selected, moved)
    layers = [part(1000, 0, 0 if selected is not None else None, layer=0), part(1000, *of, relative=0.05, layer=1)]
    kinds = [part(1000, *of, kind="mlp.down_proj"), part(1000, 0, 0 if selected is not None else None, kind="embed_tokens")]
    dtype = {"before": "float32", "after": "float32"}
    return {**part(1000, *of), "strays": [], "dtype": dtype, "layers": layers, "kinds": kinds, **more}


def damage(*args, **more):
    return Damage.model_validate(facts(*args, **more))


def sentences(*damages):
    return said(columns([evidence(name) for name, _ in zip(("NPO", "RMU", "GradDiff"), damages, strict=False)]), damages)


def plain(text):
    return text.replace("\u00a0", " ").replace("\u202f", " ")


def manifest(folder, stage):
    (folder / "manifest.json").write_text(json.dumps({"stages": {"unlearn": stage}}))
    return folder


# ---- read ----


def test_what_a_run_noted_is_read_from_its_manifest(tmp_path):
    assert damage_in(manifest(tmp_path, {"damage": facts()})) == damage()
    assert damage_in(manifest(tmp_path, {"damage": {"reason": REASON}})) == REASON
    assert damage_in(manifest(tmp_path, {"spent": {}})) is None


def test_a_folder_without_a_run_has_none(tmp_path):
    assert damage_in(tmp_path) is None


@pytest.mark.parametrize("change", [{"changed": "many"}, {"layers": None}, {"share_changed": 1.5}])
def test_a_manifest_that_says_something_else_is_refused(tmp_path, change):
    with pytest.raises(DataError, match=r"stages.unlearn.damage is not what this version writes \(1 fields differ\)"):
        damage_in(manifest(tmp_path, {"damage": facts() | change}))


# ---- words ----


@pytest.mark.parametrize(
    ("share", "text"),
    [(0.0, "0 %"), (1.0, "100 %"), (0.5, "50 %"), (0.0625, "6.2 %"), (0.00004, "0.004 %"), (0.999999, "99.99 %"), (0.99, "99 %")],
)
def test_a_share_is_0_or_100_only_where_it_is(share, text):
    assert plain(finely(share)) == text


def test_selected_and_untouched_are_both_proved():
    (told,) = sentences(damage(changed=390, selected=400))
    assert told.chip == ("rest untouched", "met")
    assert plain(told.sentence) == (
        "NPO: 39 % of 1 000 weights changed; all together they moved by 2 % of their norm. Of the 400 that were selected (40 %), 97.5 % moved; not "
        "one of the 600 others did, compared bit by bit."
    )


def test_a_change_outside_the_selection_is_an_alarm_that_names_the_place():
    (told,) = sentences(damage(changed=403, selected=400, moved=400, strays=["a.weight", "b", "c", "d"]))
    assert told.chip == ("rest changed", "leak")
    assert "so did 3 of the 600 others" in plain(told.sentence)
    assert told.details == ("Weights changed that were not selected, in a.weight, b, c and 1 more.",)


def test_without_a_selection_nothing_is_said_to_be_proved():
    everything, adapter = sentences(
        damage(1000, 1000), damage(400, None, selection_reason="an adapter trained beside the weights")
    )
    assert everything.chip is None and everything.sentence.endswith("All were free to.")
    assert adapter.chip is None
    assert adapter.details == ("No single weights were selected beforehand (an adapter trained beside the weights).",)


def test_what_cannot_be_known_says_why():
    reason, none = sentences(REASON, None)
    assert reason.chip == none.chip == ("cannot tell", "unknown")
    assert reason.sentence == f"NPO: {REASON}." and "was not made here" in none.sentence


def test_another_dtype_and_broken_weights_are_told():
    dtype = {"before": "bfloat16", "after": "float32"}
    (told,) = sentences(damage(selected=None, dtype=dtype, not_finite=7, relative_change=None))
    assert told.details[0] == "7 weights are not numbers any more." and "bfloat16" in told.details[1]
    assert "norm" not in told.sentence


@pytest.mark.parametrize(
    ("found", "line"),
    [
        (damage(), "40 % of 1 000 changed, by 2 % of their norm; of 400 selected 100 % moved, of all others none"),
        (damage(403, 400, 400), "40.3 % of 1 000 changed, by 2 % of their norm; of 400 selected 100 % moved, of all others 3"),
        (damage(1000, 1000), "100 % of 1 000 changed, by 2 % of their norm"),
        (damage(0, None), "0 % of 1 000 changed"),
        (
            damage(not_finite=5),
            "40 % of 1 000 changed, 5 are not numbers any more; of 400 selected 100 % moved, of all others none",
        ),
        (REASON, f"what changed cannot be told: {REASON}"),
        (None, "what changed cannot be told: it was not measured"),
    ],
)
def test_the_terminal_gets_one_line(found, line):
    assert plain(one_line(found)) == line


def test_the_line_names_the_block_that_changed_most():
    made = damage(selected=None)
    both = made.model_copy(
        update={"layers": [row.model_copy(update={"relative_change": 0.03 * (n + 1)}) for n, row in enumerate(made.layers)]}
    )
    assert plain(one_line(both)).endswith("(most in block 1: 6 %)")


# ---- tables ----


def test_several_runs_stand_side_by_side_and_a_single_one_has_a_column_for_each_number():
    two = columns([evidence("NPO"), evidence("RMU")])
    table = places_table(two, [damage(), damage(selected=None)])
    assert [head.text for head in table.columns] == ["NPO", "RMU"]
    assert [row.head.text for row in table.rows] == [
        "by layer",
        "block 0",
        "block 1",
        "by kind of module",
        "mlp.down_proj",
        "embed_tokens",
    ]
    (one,) = [places_table(columns([evidence("NPO")]), [damage()])]
    assert [head.text for head in one.columns] == ["relative change", "changed", "selected", "of these moved"]
    assert {len(row.cells) for row in one.rows} == {0, 4}


def test_a_run_of_which_nothing_is_known_has_no_row():
    two = columns([evidence("NPO"), evidence("RMU")])
    assert len(changes_table(two, [damage(), None]).rows) == 1
    assert changes_table(two, [REASON, None]) is None and places_table(two, [REASON, None]) is None


# ---- the report ----


ATTACK = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """Return the page of three runs: one without a selection, one whose manifest attacks the page, one that was only judged."""
    hostile = facts(403, 400, 390, strays=[ATTACK])
    hostile["kinds"][0]["kind"] = ATTACK
    damages = [damage(1000, 1000), Damage.model_validate(hostile), None]
    made = [evidence("GradDiff"), evidence("NPO"), evidence("RMU")]
    return write_comparison(made, tmp_path_factory.mktemp("compared"), damages=damages)


def test_the_page_says_shows_and_draws_it(compared):
    seen = Seen(compared.read_text())
    assert "97.5 % moved" in seen.text and "RMU: its run was not made here" in seen.text
    assert seen.elements.count("figure") == 5 == seen.elements.count("figcaption")
    assert "share of weights that changed" in seen.text and "relative change ‖Δθ‖ / ‖θ‖" in seen.text


def test_names_from_a_manifest_become_no_element(compared):
    seen = Seen(compared.read_text())
    assert "img" not in seen.elements and ATTACK in seen.text
    assert not re.search(r"(?<!\\)<img", (compared.parent / "report.md").read_text())


def test_the_markdown_and_the_data_say_the_same(compared):
    text = plain((compared.parent / "report.md").read_text())
    assert "## What changed in the weights" in text and "**rest changed**: NPO: 40.3 % of 1 000 weights changed" in text
    found = json.loads((compared.parent / "report.json").read_text())["weights"]
    assert [each and each["moved"] for each in found] == [1000, 390, None]


def test_the_same_facts_give_the_same_picture():
    models = columns([evidence("NPO"), evidence("RMU")])
    known = damages_of(models, [damage(), damage(390, 400)])
    assert layers(known) == layers(known) and "block 1, by 5" in plain(layers(known))


def test_a_report_of_a_run_folder_reads_its_manifest(tmp_path):
    evidence("NPO", results=[], gaps=[], with_examples=False).write(tmp_path / "evidence.json")
    manifest(tmp_path, {"damage": facts(390, 400)})
    assert "97.5 % moved" in Seen(report_run(tmp_path).read_text()).text
