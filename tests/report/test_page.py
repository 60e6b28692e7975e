"""The page: same bytes for the same evidence, nothing from elsewhere, hostile text inert, nothing blank."""

import base64
import hashlib
import re

import pytest

from temper.display.theme import SENTINELS
from temper.report.compare import write_comparison
from temper.report.one import write
from tests.report.evidences import evidence, with_result, without
from tests.report.pages import Seen

HOSTILE = (
    "</script><script>document.title='owned'</script><img src=http://evil.example/x onerror=\"document.title='owned'\">"
    '<svg onload=alert(1)></textarea></style>--><a href="javascript:alert(1)">x</a>{{ 7*7 }}{% raw %}\x00\x1b[31m\u202egnp'
)


def hostile():
    made = evidence("NPO")
    examples = [
        example.model_copy(
            update={
                "id": HOSTILE,
                "role": HOSTILE,
                "prompt": HOSTILE,
                "reference": HOSTILE,
                "completions": dict.fromkeys(example.completions, HOSTILE),
                "leaks": {"unlearned": [(3, 40), (20, 60)], "original": [(-5, 10_000)]},
            }
        )
        for example in made.examples[:2]
    ]
    strange = [r.model_copy(update={"metric": HOSTILE, "role": HOSTILE, "reason": HOSTILE}) for r in made.results[:1]]
    failed = [r.model_copy(update={"value": None, "status": "failed", "reason": HOSTILE}) for r in made.results[1:2]]
    environment = {HOSTILE: {HOSTILE: HOSTILE}}
    return made.model_copy(
        update={
            "name": HOSTILE,
            "method": HOSTILE,
            "notes": [HOSTILE],
            "examples": examples,
            "results": [*made.results[2:], *strange, *failed],
            "environment": environment,
            "models": {n: f.model_copy(update={"path": HOSTILE}) for n, f in made.models.items()},
        }
    )


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    folder = tmp_path_factory.mktemp("comparison")
    return write_comparison([evidence("GradDiff"), evidence("NPO"), evidence("RMU")], folder)


@pytest.fixture(scope="module")
def attacked(tmp_path_factory):
    return write(hostile(), tmp_path_factory.mktemp("attacked"), title=HOSTILE)


@pytest.mark.parametrize("name", ["report.html", "report.md", "report.json", "answer_against_trace.svg"])
def test_the_same_evidence_gives_the_same_bytes(three, tmp_path, name):
    write_comparison([evidence("GradDiff"), evidence("NPO"), evidence("RMU")], tmp_path)
    assert (tmp_path / name).read_bytes() == (three.parent / name).read_bytes()


def test_the_page_names_no_address_outside_itself(three):
    seen = Seen(three.read_text())
    assert [
        v for _, n, v in seen.attributes if n in ("src", "href", "action", "xlink:href", "data", "poster") and v[:1] != "#"
    ] == []
    assert not {"link", "img", "iframe", "object", "embed", "base", "form", "image", "foreignobject"} & set(seen.elements)
    assert "url(" not in re.sub(r"url\(#[\w-]+\)", "", three.read_text())
    assert "@import" not in three.read_text() and "http" not in re.sub(r"http-equiv", "", three.read_text())


def test_the_policy_refuses_everything_but_the_one_script(three):
    page = three.read_text()
    (script,) = re.findall(r"<script>(.*?)</script>", page, flags=re.S)
    (policy,) = [v for _, n, v in Seen(page).attributes if n == "content" and "default-src" in v]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy.startswith("default-src 'none';") and f"script-src 'sha256-{digest}';" in policy
    assert "unsafe-inline" not in policy.replace("style-src 'unsafe-inline'", "") and "unsafe-eval" not in policy


def test_hostile_text_makes_no_element_and_no_attribute(attacked, three):
    seen, honest = Seen(attacked.read_text()), Seen(three.read_text())
    assert seen.elements.count("script") == 1
    assert set(seen.elements) <= set(honest.elements)
    assert [n for _, n, _ in seen.attributes if n.startswith("on")] == []
    assert [v for v in seen.values("href") if not v.startswith("#")] == []


def test_hostile_text_is_shown_as_what_it_is(attacked):
    seen = Seen(attacked.read_text())
    assert "<img src=http://evil.example/x onerror=" in seen.text
    assert "{{ 7*7 }}" in seen.text


def test_control_and_direction_characters_do_not_reach_the_page(attacked):
    page = attacked.read_text()
    assert not re.search(r"[\x00-\x08\x0b-\x1f\u202a-\u202e\u2066-\u2069]", page)
    assert "␀" in page and "␛" in page


def test_ids_are_unique_and_every_inner_link_has_its_target(three):
    seen = Seen(three.read_text())
    ids = seen.values("id")
    assert len(ids) == len(set(ids))
    targets = {v[1:] for v in seen.values("href")} | {i for v in seen.values("aria-labelledby") for i in v.split()}
    assert targets <= set(ids)
    assert set(re.findall(r"url\(#([\w-]+)\)", three.read_text())) <= set(ids)


def test_no_sentinel_colour_is_left(three):
    page = three.read_text() + (three.parent / "answer_against_trace.svg").read_text()
    assert not [colour for colour in SENTINELS.values() if colour in page.lower()]


def test_every_figure_has_a_title_a_description_and_a_caption(three):
    seen = Seen(three.read_text())
    figures = seen.elements.count("figure")
    assert figures == 4 == seen.elements.count("figcaption")
    assert len([v for v in seen.values("role") if v == "img"]) == 2 * figures == seen.elements.count("desc")


def test_all_is_readable_without_script(three):
    page = three.read_text()
    text = Seen(re.sub(r"<script>.*?</script>", "", page, flags=re.S)).text
    for words in ("35 % of reasoning traces still state the fact", "Ilda Moren lives in Lowick", "What this does not show"):
        assert words in text
    assert " hidden" not in re.sub(r"<style>.*?</style>|<script>.*?</script>", "", page, flags=re.S)


def test_leaked_spans_are_marked(three):
    page = three.read_text()
    assert "<mark>Ilda Moren lives in Lowick</mark>" in page
    assert page.count('data-leaks="1"') == 4 and page.count('data-leaks="0"') == 2


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (without(evidence("NPO"), "gold"), "no gold model was given"),
        (without(evidence("NPO"), "original"), "no original model was given"),
        (without(evidence("NPO"), "gold", "original"), "no gold model"),
        (
            evidence("NPO").model_copy(update={"results": [r for r in evidence("NPO").results if "membership" not in r.metric]}),
            "hold-out",
        ),
        (evidence("NPO", cost=None), "no cost was recorded"),
        (evidence("NPO", with_examples=False), "holds no completions"),
        (evidence("NPO", results=[], gaps=[]), "cannot tell"),
        (
            with_result(
                evidence("NPO"), "utility", "all", value=None, low=None, high=None, status="failed", reason="reasoning has no row"
            ),
            "reasoning has no row",
        ),
    ],
)
def test_what_is_missing_is_named_with_its_reason(made, words, tmp_path):
    page = write(made, tmp_path).read_text()
    text = Seen(page).text
    assert words in text
    assert "None" not in text and "nan" not in text.lower().split()
    assert not re.search(r"<td[^>]*></td>", page)


def test_a_value_of_too_few_items_is_shown_with_a_chip(tmp_path):
    made = with_result(
        evidence("NPO"), "answer_accuracy", "forget", status="too_few_items", reason="3 items; at least 10 are needed"
    )
    text = Seen(write(made, tmp_path).read_text()).text
    assert "too few items 3 items; at least 10 are needed" in text


def test_a_name_in_any_script_is_drawn_and_shown(tmp_path):
    page = write(evidence("NPO").model_copy(update={"name": "模型 ✂ модель"}), tmp_path).read_text()
    assert "模型 ✂ модель</text>" in page and "<b>模型 ✂ модель</b>" in page
