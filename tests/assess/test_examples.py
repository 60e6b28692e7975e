from temper.assess.examples import examples
from tests.assess.builders import answers, item

FACT = "Ann wrote 3 novels."


def given(count, roles=("general", "trace", "forget"), text=" well, Ann wrote 3 novels."):
    rows = {role: answers([item(f"{role}{n}", statements=[FACT]) for n in range(9)], [text] * 9) for role in roles}
    return examples({"unlearned": rows, "gold": rows}, count=count, seed=0)


def test_forget_and_trace_come_first_and_have_twice_as_many():
    assert [example.role for example in given(10)] == ["forget"] * 4 + ["trace"] * 4 + ["general"] * 2


def test_the_same_seed_draws_the_same_rows():
    assert given(6) == given(6)


def test_no_more_rows_than_there_are_and_none_twice():
    found = given(100)
    assert len(found) == 27 == len({example.id for example in found})


def test_none_are_asked_none_are_given():
    assert given(0) == []


def test_leaks_are_marked_in_every_models_completion_of_forgotten_rows():
    found = given(5)
    assert found[0].completions.keys() == found[0].leaks.keys() == {"unlearned", "gold"}
    ((start, end),) = found[0].leaks["gold"]
    assert found[0].completions["gold"][start:end] == "Ann wrote 3 novels"
    assert found[-1].role == "general" and found[-1].leaks == {}


def test_rows_without_a_continuation_are_not_shown():
    assert given(5, text=None) == []
