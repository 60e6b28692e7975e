import pytest

from temper.errors import InputError, RecipeError
from temper.models.load import load_model
from temper.unlearn.weighing import KEEP, Probed, Weighed, Weighing, weigh
from tests.unlearn.models import recipe_for, write_world


@pytest.fixture
def folder(tmp_path, make_llama, monkeypatch):
    monkeypatch.setenv("TEMPER_CACHE", str(tmp_path / "cache"))
    return write_world(tmp_path, make_llama)


def recipe(folder, **method):
    return recipe_for(
        folder, method={"name": "rmu", "layer": 1, **method}, selection={"layers": [0, 1]}, train={"learning_rate": 0.003}
    )


def test_a_heavier_anchor_moves_retain_less_and_forget_less(folder):
    found = weigh(recipe(folder), [0.01, 1.0, 100.0], steps=12)
    retain = [weighed.roles["retain"].cosine for weighed in found.tried]
    forget = [weighed.roles["forget"].cosine for weighed in found.tried]
    assert retain == sorted(retain)
    assert retain[0] < retain[-1]
    assert forget[0] < forget[-1]
    assert found.facts["steering_length"] == pytest.approx(2 * found.facts["median_token_norm"])


def test_every_weight_starts_from_the_same_model(folder):
    alone = weigh(recipe(folder), [10.0], steps=6).tried[0]
    after_another = weigh(recipe(folder), [0.1, 10.0], steps=6).tried[1]
    assert alone == after_another


def test_nothing_is_written_beside_the_model(folder):
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    weights = load_model(str(folder / "model"), section=recipe(folder).model, world=recipe(folder).world).state_dict()
    weigh(recipe(folder), [1.0], steps=3)
    again = load_model(str(folder / "model"), section=recipe(folder).model, world=recipe(folder).world).state_dict()
    assert all((weights[name] == again[name]).all() for name in weights)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()} == before


def test_only_the_tokens_that_count_are_compared(folder):
    asked = weigh(recipe(folder, mask="answer"), [1.0], steps=6).tried[0].roles["forget"]
    every = weigh(recipe(folder, mask="nonpad"), [1.0], steps=6).tried[0].roles["forget"]
    assert asked != every


def test_the_proposal_is_the_weight_that_forgets_most_among_those_that_keep():
    def tried(weight, forget, retain, reasoning=1.0):
        roles = {"forget": forget, "retain": retain, "reasoning": reasoning}
        return Weighed(weight, {role: Probed(cosine, 1.0, cosine) for role, cosine in roles.items()})

    found = [tried(1, 0.2, KEEP - 0.01), tried(10, 0.5, KEEP), tried(100, 0.7, 0.99), tried(30, 0.1, 0.99, KEEP - 0.2)]
    assert Weighing(found, 5, {}).proposed == 10
    assert Weighing(found[:1], 5, {}).proposed is None
    assert Weighing([tried(1e30, 1.0, 1.0)], 5, {}).proposed is None, "a weight that holds everything forgets nothing"


def test_an_objective_that_steers_nothing_is_refused(folder):
    with pytest.raises(RecipeError, match="npo is weighed by the hidden states"):
        weigh(recipe_for(folder, method="npo"), [1.0])


def test_weights_that_are_none_are_refused(folder):
    for weights in ([], [0.0], [1.0, float("inf")]):
        with pytest.raises(InputError, match="weights"):
            weigh(recipe(folder), weights)


def test_every_source_of_a_role_is_looked_at_and_the_worst_decides(folder, monkeypatch):
    rows = (folder / "retain.jsonl").read_text().splitlines(keepends=True)
    many = folder / "many.jsonl"
    many.write_text("".join(row.replace('"retain', f'"many{copy}-') for copy in range(40) for row in rows))
    plain = recipe(folder)
    sources = [source.model_copy(update={"path": str(many)}) for source in plain.data["retain"]]
    both = plain.model_copy(update={"data": {**plain.data, "retain": [*sources, *plain.data["forget"]]}})
    both = both.model_copy(update={"train": both.train.model_copy(update={"allow_overlap": True})})
    found = weigh(both, [0.01], steps=12).tried[0].roles["retain"]
    assert found.lowest < found.cosine
    tried = Weighed(1, {"forget": Probed(0.5, 1.0, 0.5), "retain": Probed(0.99, 1.0, KEEP - 0.1)})
    assert not tried.keeps


def test_rows_made_by_a_model_that_nothing_tells_apart_are_not_kept(folder, monkeypatch):
    monkeypatch.setattr("temper.models.workshop.model_identity", lambda section, world: None)
    traces = {"traces": {"max_new_tokens": 8, "min_trace_tokens": 1, "until": "end"}}
    asked = recipe_for(
        folder,
        method={"name": "r2mu", "layer": 1},
        data={"trace": {"path": str(folder / "forget.jsonl"), "provider": traces}},
        selection={"layers": [0, 1]},
    )
    weigh(asked, [1.0], steps=2)
    assert not list((folder / "cache").rglob("*.jsonl"))


@pytest.mark.parametrize(
    ("change", "message"), [({"method": {"retain_term": "none"}}, "no anchor to weigh"), ({"smoother": "sam"}, "without one")]
)
def test_what_cannot_be_weighed_is_refused(folder, change, message):
    asked = recipe(folder, **change.get("method", {}))
    if "smoother" in change:
        asked = recipe_for(folder, method={"name": "rmu", "layer": 1}, smoother="sam")
    with pytest.raises(RecipeError, match=message):
        weigh(asked, [1.0])
