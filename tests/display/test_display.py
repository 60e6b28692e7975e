"""The primitives: text made inert, numbers read right, colours that can be seen, figures that hold no surprise."""

import subprocess
import sys
from xml.etree import ElementTree

import pytest

from temper.display.figures import canvas, standalone, svg
from temper.display.numbers import figure, interval, percent, seconds
from temper.display.tables import Heading, Row, Table, number
from temper.display.text import environment, markdown, marked, shortened, squeezed, visible
from temper.display.theme import COLOURS, SENTINELS, contrast, mark_of, sentinel


def test_small_shares_are_not_rounded_to_none_nor_large_ones_to_all():
    assert [percent(v).replace("\u00a0", " ") for v in (0, 0.004, 0.36, 0.996, 1)] == ["0 %", "0.4 %", "36 %", "99.6 %", "100 %"]


def test_an_interval_gives_its_sign_once():
    assert interval(0.2, 0.491, "share").replace("\u00a0", " ") == "20 to 49 %"
    assert interval(0.38, 0.66, "score") == "0.38 to 0.66"


def test_times_and_scores_are_short():
    assert [seconds(v).replace("\u00a0", " ") for v in (1.24, 75, 600, 9000)] == ["1.2 s", "75 s", "10 min", "2.5 h"]
    assert [figure(v, "score") for v in (0.0, 0.001, 0.5)] == ["0.00", "0.001", "0.50"]


def test_replaced_characters_keep_offsets():
    text = "a\x00b\u202ec\ud800d\n\te"
    assert len(visible(text)) == len(text)
    assert visible(text) == "a␀b\ufffdc\ufffdd\n\te"


@pytest.mark.parametrize("spans", [[(1, 3), (2, 5)], [(2, 5), (1, 3)], [(1, 5), (9, 4), (7, 7)], [(1, 5), (50, 60)]])
def test_overlapping_and_foreign_spans_become_one_mark(spans):
    assert marked("abcdefg", spans) == [("a", False), ("bcde", True), ("fg", False)]


def test_marks_never_lose_a_character():
    text = "say <b> it"
    for spans in ([], [(0, 10)], [(-4, 2), (8, 99)]):
        assert "".join(piece for piece, _ in marked(text, spans)) == text


def test_markdown_leaves_no_character_that_acts():
    assert markdown("a|b\n# *c* <d>") == r"a\|b \# \*c\* \<d\>"
    assert [markdown(text) for text in ("- a", "12. b", "[x](http://y.z)", "www.y.z")] == [
        r"\- a",
        r"12\. b",
        r"\[x\](http\://y.z)",
        r"www\.y.z",
    ]
    assert markdown("GradDiff: 2 % (1 to 3), over-unlearned.") == "GradDiff: 2 % (1 to 3), over-unlearned."


def test_templates_escape_by_default(tmp_path):
    (tmp_path / "x.html.j2").write_text("{{ x }}")
    assert environment(tmp_path).get_template("x.html.j2").render(x="<b>\"'") == "&lt;b&gt;&#34;&#39;"


def test_a_missing_number_is_a_chip_with_a_reason_and_never_blank_or_0():
    cell = number(None, "share", status="no_gold")
    assert (cell.chip, cell.text) == ("cannot tell", "")
    assert "no gold model" in cell.plain()
    assert number(None, "share").chip == "not measured"
    assert number(0.0, "share", status="failed", reason="why").plain() == "failed: why"


def test_a_table_has_the_same_cells_in_both_forms():
    table = Table("c", "x", (Heading("a|"),), (Row(Heading("r<"), (number(0.5, "share", low=0.4, high=0.6, n=9),)),))
    assert "r&lt;" in table.html() and "40 to 60" in table.html() and "n 9" in table.html()
    assert r"| r\< | 50" in table.markdown()


TEXT_ON = {"paper": ("ink", "muted", "link"), "surface": ("ink", "muted", "link", "gold", "original", "chip-over", "chip-leak")}


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_text_can_be_read_in_both_themes(theme):
    pairs = [(text, ground) for ground, texts in TEXT_ON.items() for text in texts]
    pairs += [(name.removesuffix("-ground"), name) for name in COLOURS if name.endswith("-ground")]
    pairs += [("ink", "mark")] + [(name, "surface") for name in COLOURS if name.startswith("run-")]
    low = {pair: contrast(COLOURS[pair[0]][theme], COLOURS[pair[1]][theme]) for pair in pairs}
    assert {pair: ratio for pair, ratio in low.items() if ratio < 4.5} == {}


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_bars_and_marks_can_be_seen_in_both_themes(theme):
    assert all(contrast(COLOURS[name][theme], COLOURS["surface"][theme]) >= 3 for name in ("trace", "answer", "gold", "original"))


def test_contrast_of_black_on_white_is_21():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)


def test_models_differ_in_shape_and_not_in_colour_alone():
    marks = [mark_of("original"), mark_of("gold"), *(mark_of("unlearned", n) for n in range(42))]
    assert len({m.shape for m in marks[:9]}) == 9
    assert len({(m.shape, m.colour) for m in marks}) == 44


def test_sentinels_are_told_apart():
    assert len(set(SENTINELS.values())) == len(COLOURS)


def drawn(width):
    figure, axes = canvas(width, 80, left=10, right=10, top=10, bottom=10)
    axes.plot([0, 1], [0, 1], marker="o", color=sentinel("gold"))
    axes.text(0, 0, "$x$ <b> & -->", color=sentinel("ink"))
    return figure


def picture(name="one"):
    return svg(drawn, 200, name=name, title="A <title>", description='He said "so"')


def test_a_figure_is_well_formed_labelled_and_in_theme_colours():
    root = ElementTree.fromstring(standalone(picture()))
    texts = [element.text for element in root.iter() if element.tag.endswith("}text")]
    assert "$x$ <b> & -->" in texts
    assert [e.text for e in root if e.tag.endswith("}title")] == ["A <title>"]
    assert "var(--gold)" in picture() and not [v for v in SENTINELS.values() if v in picture()]


def test_a_figure_has_the_same_bytes_twice_and_no_date():
    assert picture() == picture()
    assert "20" + "26" not in picture() and "<metadata" not in picture()


def test_two_figures_share_no_id():
    ids = [{e.get("id") for e in ElementTree.fromstring(standalone(picture(n))).iter()} - {None} for n in ("one", "two")]
    assert ids[0] and not ids[0] & ids[1]


def test_a_figure_leaves_the_settings_of_matplotlib_as_they_were():
    import matplotlib

    before = dict(matplotlib.rcParams)
    picture()
    assert dict(matplotlib.rcParams) == before


def test_one_line_texts_are_cut_with_an_ellipsis():
    assert shortened("a b\nc d", 5) == "a b…" and shortened("abc", 3) == "abc"


def test_the_rooms_load_no_drawing_library_before_something_is_drawn():
    code = "import temper.report, temper.display.figures, temper.display.terminal, sys; print(*sys.modules)"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout.split()
    assert not {"matplotlib", "torch", "rich", "numpy"} & set(printed)


def test_names_are_cut_in_the_middle_so_that_their_ends_still_differ():
    assert squeezed("npo-learning-rate (seed 1)", 15) == "npo-lea…seed 1)" and squeezed("npo", 15) == "npo"
