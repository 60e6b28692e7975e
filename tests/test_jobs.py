import os
from pathlib import Path

import pytest

from temper.errors import DataError, InputError, RunError
from temper.jobs import Job, run_jobs

HERE = "tests.test_jobs"


def double(value, marks=None):
    if marks is not None:
        with Path(marks).open("a") as handle:
            handle.write(f"{value}\n")
    return {"doubled": 2 * value, "threads": os.environ.get("OMP_NUM_THREADS")}


def fails(value):
    raise DataError(f"row {value} is wrong")


def wrong():
    raise ValueError("surprise")


def pairs():
    return (1, {2: 3})


def not_a_number():
    return float("nan")


def dies():
    os._exit(9)


def test_serial_and_pool_give_the_same_results():
    jobs = [Job(f"j{n}", f"{HERE}:double", {"value": n}) for n in range(3)]
    assert run_jobs(jobs) == run_jobs(jobs, backend="processes", workers=2)


def test_results_come_in_the_order_of_the_jobs():
    jobs = [Job(key, f"{HERE}:double", {"value": 1}) for key in ("b", "a", "c")]
    assert list(run_jobs(jobs)) == ["b", "a", "c"]


def test_a_finished_job_is_not_run_again(tmp_path):
    marks = tmp_path / "marks"
    jobs = [Job("a", f"{HERE}:double", {"value": 4, "marks": str(marks)})]
    first = run_jobs(jobs, folder=tmp_path)
    assert run_jobs(jobs, folder=tmp_path) == first
    assert marks.read_text() == "4\n"


def test_other_arguments_under_a_stored_key_are_refused(tmp_path):
    run_jobs([Job("a", f"{HERE}:double", {"value": 1})], folder=tmp_path)
    with pytest.raises(InputError, match="another job with this key"):
        run_jobs([Job("a", f"{HERE}:double", {"value": 2})], folder=tmp_path)


def test_the_other_jobs_finish_when_one_fails_and_a_second_call_repeats_only_that(tmp_path):
    jobs = [Job("bad", f"{HERE}:fails", {"value": 7}), Job("good", f"{HERE}:double", {"value": 1})]
    with pytest.raises(RunError, match=r"1 of 2 jobs failed:\n  - bad: row 7 is wrong"):
        run_jobs(jobs, folder=tmp_path)
    assert (tmp_path / "good.json").exists() and not (tmp_path / "bad.json").exists()


def test_a_worker_that_dies_is_reported_not_waited_for(tmp_path):
    jobs = [Job("dead", f"{HERE}:dies"), Job("dead2", f"{HERE}:dies")]
    with pytest.raises(RunError, match="ended without a word"):
        run_jobs(jobs, backend="processes", folder=tmp_path)


def test_keys_must_differ_and_be_plain():
    with pytest.raises(InputError, match="seen twice: a"):
        run_jobs([Job("a", "x:y"), Job("a", "x:z")])
    with pytest.raises(InputError, match="job key"):
        Job("../a", "x:y")


def test_workers_run_with_one_thread_each(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    results = run_jobs([Job(f"j{n}", f"{HERE}:double", {"value": n}) for n in range(2)], backend="processes")
    assert {result["threads"] for result in results.values()} == {"1"}
    assert "OMP_NUM_THREADS" not in os.environ


def test_an_unforeseen_error_of_one_job_keeps_no_other_from_running(tmp_path):
    jobs = [Job("a", f"{HERE}:double", {"value": 1}), Job("b", f"{HERE}:wrong"), Job("c", f"{HERE}:double", {"value": 2})]
    with pytest.raises(RunError, match=r"1 of 3 jobs failed:\n  - b: ValueError: surprise"):
        run_jobs(jobs, folder=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "c.json"]


def test_a_worker_that_dies_takes_no_innocent_job_with_it(tmp_path):
    jobs = [Job("dead", f"{HERE}:dies"), *(Job(f"j{n}", f"{HERE}:double", {"value": n}) for n in range(3))]
    with pytest.raises(RunError, match="1 of 4 jobs failed"):
        run_jobs(jobs, backend="processes", workers=2, folder=tmp_path)
    assert len(list(tmp_path.iterdir())) == 3


def test_a_result_is_the_same_fresh_and_read_back(tmp_path):
    jobs = [Job("p", f"{HERE}:pairs")]
    assert run_jobs(jobs, folder=tmp_path) == run_jobs(jobs, folder=tmp_path) == {"p": [1, {"2": 3}]}


def test_a_result_that_is_no_json_fails_its_job():
    with pytest.raises(RunError, match="not_a_number|JSON compliant"):
        run_jobs([Job("n", f"{HERE}:not_a_number")])


def test_an_unknown_backend_is_refused():
    with pytest.raises(InputError, match="backend is serial or processes"):
        run_jobs([], backend="process")
