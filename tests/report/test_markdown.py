"""The markdown says the same, and no text from outside becomes markup in it."""

import re

from temper.report.one import write
from tests.report.evidences import evidence

NAME = "a|b <script>x</script> [link](http://evil.example) *b* `c` # h\n# heading"


def lines(made, folder):
    write(made, folder)
    return (folder / "report.md").read_text().splitlines()


def test_names_cannot_break_a_table_or_start_markup(tmp_path):
    made = lines(evidence("NPO").model_copy(update={"name": NAME, "notes": [NAME]}), tmp_path)
    columns = None
    for line in made:
        if not line.startswith("|"):
            columns = None
            continue
        count = len(re.findall(r"(?<!\\)\|", line))
        assert columns in (None, count)
        columns = count
    text = "\n".join(made)
    assert not re.search(r"(?<!\\)<", text)
    assert not re.search(r"(?<!\\)\]\(http", text)
    assert "# heading" not in [line.strip() for line in made]


def test_the_same_headline_stands_in_it(tmp_path):
    text = "\n".join(lines(evidence("NPO"), tmp_path)).replace("\u00a0", " ").replace("\\", "")
    assert (
        "NPO: the direct answer is gone (2 % right; gold 8 %), but 35 % of reasoning traces still state the fact (gold 4 %)."
        in text
    )


def test_it_shows_the_picture_that_lies_beside_it(tmp_path):
    assert "![Answer against trace](answer_against_trace.svg)" in lines(evidence("NPO"), tmp_path)
    assert (tmp_path / "answer_against_trace.svg").is_file()
