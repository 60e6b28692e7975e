"""A real browser opens a page whose completions attack it."""

import shutil
import subprocess

import pytest

from temper.report.one import write
from tests.report.evidences import evidence

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ATTACK = "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\"><svg onload=\"document.title='owned'\">"


def opened(page, profile):
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
    flags += ["--disable-component-update", "--disable-sync", f"--user-data-dir={profile}", "--dump-dom"]
    run = subprocess.run([CHROMIUM, *flags, page.as_uri()], capture_output=True, text=True, timeout=120, check=True)
    return run.stdout


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
def test_a_hostile_completion_cannot_change_the_title_and_our_script_runs(tmp_path):
    made = evidence("NPO")
    examples = [e.model_copy(update={"completions": dict.fromkeys(e.completions, ATTACK), "leaks": {}}) for e in made.examples]
    page = write(made.model_copy(update={"examples": examples, "name": ATTACK}), tmp_path, title="The title")
    dom = opened(page, tmp_path / "profile")
    assert "<title>The title</title>" in dom
    assert 'class="scripted"' in dom
    assert "6 of 6 shown" in dom


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
def test_a_script_that_got_past_the_escaping_would_be_refused_by_the_policy(tmp_path):
    page = write(evidence("NPO"), tmp_path, title="The title")
    page.write_text(
        page.read_text().replace(
            "<footer>", "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\"><footer>"
        )
    )
    assert "<title>The title</title>" in opened(page, tmp_path / "profile")
