import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from temper.errors import DataError, InputError, MissingExtraError, RunError, RunLocked
from temper.jobs import Job, JobsFailed, run_jobs
from temper.jobs import processes as in_processes
from temper.jobs.attempts import Attempts
from temper.jobs.job import Terms
from temper.jobs.store import Claims
from temper.jobs.worker import perform_text

HERE = "tests.test_jobs"


# what the jobs of these tests do


def double(value, marks=None):
    if marks is not None:
        with Path(marks).open("a") as handle:
            handle.write(f"{value}\n")
    return {"doubled": 2 * value, "threads": os.environ.get("OMP_NUM_THREADS")}


def fails(value):
    raise DataError(f"row {value} is wrong")


def wrong():
    raise ValueError("surprise")


def leaves():
    sys.exit("enough")


def pairs():
    return (1, {2: 3})


def kind_of(value):
    return type(value).__name__


def not_a_number():
    return float("nan")


def dies():
    print("the last words", flush=True)
    os._exit(9)


def is_killed(times, marks):
    """Be killed so many times, then end well; leave a child behind that holds whatever it inherits."""
    with Path(marks).open("a") as handle:
        handle.write("begun\n")
    if len(Path(marks).read_text().split()) <= times:
        child = subprocess.Popen(["sleep", "60"], close_fds=False)
        Path(f"{marks}.child").write_text(str(child.pid))
        os.kill(os.getpid(), signal.SIGKILL)
    return "alive"


def sleeps(marks):
    Path(marks).write_text(str(os.getpid()))
    time.sleep(60)


def chatters():
    print("printed")
    os.write(1, b"written\n")
    print("complained", file=sys.stderr)


def counts(progress):
    for step in range(3):
        progress("train", step + 1, 3, "loss 1.0")
    return "done"


def devices():
    return os.environ.get("CUDA_VISIBLE_DEVICES")


def sums(seed):
    """Return the digest of sums whose last bits depend on the number of threads."""
    import torch

    numbers = torch.randn(600, 600, generator=torch.Generator().manual_seed(seed))
    product = numbers @ numbers.T + numbers.cumsum(0).sum()
    return [torch.get_num_threads(), hashlib.sha256(product.numpy().tobytes()).hexdigest()]


def threads_of_torch():
    return sys.modules["torch"].get_num_threads()


def doubles(count, **more):
    return [Job(f"j{n}", f"{HERE}:double", {"value": n, **more}) for n in range(count)]


def is_gone(process):
    """Return whether a process ended, waiting a little: the system takes its time."""
    for _ in range(250):
        try:
            state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        if state == "Z":  # ended; whoever adopted it has not asked yet
            return True
        time.sleep(0.02)
    return False


# results


def test_serial_and_processes_give_the_same_results():
    assert run_jobs(doubles(3)) == run_jobs(doubles(3), backend="processes", workers=2)


def test_results_come_in_the_order_of_the_jobs():
    jobs = [Job(key, f"{HERE}:double", {"value": 1}) for key in ("b", "a", "c")]
    assert list(run_jobs(jobs)) == ["b", "a", "c"]


def test_the_files_are_the_same_bytes_whatever_back_end_and_order(tmp_path):
    jobs = doubles(3)
    run_jobs(jobs, folder=tmp_path / "serial")
    run_jobs(jobs[::-1], folder=tmp_path / "reversed", backend="processes", workers=2)
    files = [{path.name: path.read_bytes() for path in (tmp_path / name).glob("*.json")} for name in ("serial", "reversed")]
    assert files[0] == files[1] and len(files[0]) == 3


def test_a_result_is_the_same_fresh_and_read_back(tmp_path):
    jobs = [Job("p", f"{HERE}:pairs")]
    assert run_jobs(jobs, folder=tmp_path) == run_jobs(jobs, folder=tmp_path) == {"p": [1, {"2": 3}]}


def test_arguments_arrive_here_as_they_do_in_a_worker():
    assert run_jobs([Job("k", f"{HERE}:kind_of", {"value": (1, 2)})]) == {"k": "list"}


def test_a_result_that_is_no_json_fails_its_job():
    with pytest.raises(RunError, match="not_a_number|JSON compliant"):
        run_jobs([Job("n", f"{HERE}:not_a_number")])


def test_modules_are_found_where_the_parent_finds_them(tmp_path, monkeypatch):
    (tmp_path / "found_by_path.py").write_text("def answer():\n    return 42\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert run_jobs([Job("a", "found_by_path:answer")], backend="processes") == {"a": 42}


# resuming


def test_a_finished_job_is_not_run_again(tmp_path):
    marks = tmp_path / "marks"
    jobs = doubles(1, marks=str(marks))
    first = run_jobs(jobs, folder=tmp_path)
    assert run_jobs(jobs, folder=tmp_path) == first
    assert marks.read_text() == "0\n"


def test_other_arguments_under_a_stored_key_are_refused(tmp_path):
    run_jobs([Job("a", f"{HERE}:double", {"value": 1})], folder=tmp_path)
    with pytest.raises(InputError, match="another job with this key"):
        run_jobs([Job("a", f"{HERE}:double", {"value": 2})], folder=tmp_path)


def test_a_damaged_result_is_named(tmp_path):
    (tmp_path / "j0.json").write_text('{"job": ')
    with pytest.raises(DataError, match=r"j0\.json: not valid JSON"):
        run_jobs(doubles(1), folder=tmp_path)


def test_two_calls_on_one_folder_do_not_run_the_same_job_at_the_same_time(tmp_path):
    marks = tmp_path / "marks"
    jobs = doubles(3, marks=str(marks))
    other = Claims(tmp_path)
    assert other.take(jobs[1])
    for backend in ("serial", "processes"):
        with pytest.raises(
            RunLocked, match=rf"1 of 3 jobs are being run by another call \(pid {os.getpid()} on .+\): j1\. The others"
        ):
            run_jobs(jobs, folder=tmp_path, backend=backend)
    assert sorted(marks.read_text().split()) == ["0", "2"]
    other.close()
    assert len(run_jobs(jobs, folder=tmp_path)) == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["j0.json", "j1.json", "j2.json", "marks"]


def test_a_job_that_another_call_finished_in_the_meantime_is_read(tmp_path):
    first, second = doubles(2, marks=str(tmp_path / "marks"))

    def meanwhile(stage, done, total, note):
        if done == 0:
            run_jobs([second], folder=tmp_path)

    assert len(run_jobs([first, second], folder=tmp_path, progress=meanwhile)) == 2
    assert (tmp_path / "marks").read_text() == "1\n0\n"


def test_a_claim_is_given_up_only_by_who_has_it(tmp_path):
    job = doubles(1)[0]
    one, two, three = Claims(tmp_path), Claims(tmp_path), Claims(tmp_path)
    assert one.take(job) and not two.take(job)
    two.close()
    assert not three.take(job)
    one.release(job)
    assert three.take(job)
    three.close()


# failing


def test_the_other_jobs_finish_when_one_fails_and_a_second_call_repeats_only_that(tmp_path):
    jobs = [Job("bad", f"{HERE}:fails", {"value": 7}), Job("good", f"{HERE}:double", {"value": 1})]
    with pytest.raises(RunError, match=r"1 of 2 jobs failed:\n  - bad: row 7 is wrong"):
        run_jobs(jobs, folder=tmp_path)
    assert (tmp_path / "good.json").exists() and not (tmp_path / "bad.json").exists()


@pytest.mark.parametrize("backend", ["serial", "processes"])
def test_an_unforeseen_error_is_reported_with_its_place_and_keeps_no_other_from_running(tmp_path, backend):
    jobs = [Job("a", f"{HERE}:double", {"value": 1}), Job("b", f"{HERE}:wrong"), Job("c", f"{HERE}:double", {"value": 2})]
    with pytest.raises(JobsFailed, match=r"1 of 3 jobs failed:\n  - b: ValueError: surprise\n      log: .*b\.log\n") as caught:
        run_jobs(jobs, folder=tmp_path, backend=backend)
    assert 'raise ValueError("surprise")' in str(caught.value)
    assert "temper/jobs" not in (tmp_path / "b.log").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "b.log", "c.json"]


def test_without_a_folder_the_error_holds_what_the_others_returned():
    with pytest.raises(JobsFailed) as caught:
        run_jobs([Job("x", f"{HERE}:leaves"), *doubles(1)])
    assert caught.value.results["j0"]["doubled"] == 0
    assert caught.value.failures == {"x": "it called sys.exit('enough')"}


def test_failures_are_listed_in_the_order_of_the_jobs():
    with pytest.raises(RunError, match=r"2 of 2 jobs failed:\n  - dead: .*\n(.*\n)*  - bad: row 3"):
        run_jobs(
            [Job("dead", f"{HERE}:dies"), Job("bad", f"{HERE}:fails", {"value": 3})], backend="processes", workers=2, retries=1
        )


# dying


def test_a_killed_worker_is_retried_and_what_it_started_ends_with_it(tmp_path):
    marks, told = tmp_path / "marks", []
    jobs = [Job("k", f"{HERE}:is_killed", {"times": 1, "marks": str(marks)})]
    results = run_jobs(jobs, backend="processes", folder=tmp_path, progress=lambda *facts: told.append(facts))
    assert results == {"k": "alive"}
    how = "its process was killed by SIGKILL (out of memory, or from outside)"
    assert (tmp_path / "k.log").read_text() == f"== attempt 2 of 3: {how} ==\n"
    assert ("k attempt", 2, 3, how) in told
    assert is_gone(int((tmp_path / "marks.child").read_text()))


def test_a_job_that_is_killed_each_time_is_named_and_the_others_run_once(tmp_path):
    marks = tmp_path / "marks"
    jobs = [
        Job("dead", f"{HERE}:is_killed", {"times": 9, "marks": str(tmp_path / "begun")}),
        *doubles(4, marks=str(marks)),
    ]
    with pytest.raises(
        JobsFailed, match=r"1 of 5 jobs failed:\n  - dead: its process was killed by SIGKILL .*, 2 times"
    ) as caught:
        run_jobs(jobs, backend="processes", workers=2, folder=tmp_path, retries=1)
    assert sorted(caught.value.results) == ["j0", "j1", "j2", "j3"]
    assert sorted(marks.read_text().split()) == ["0", "1", "2", "3"]
    assert (tmp_path / "begun").read_text() == "begun\n" * 2


def test_the_last_words_of_a_process_are_in_the_error():
    with pytest.raises(RunError, match=r"dead: its process ended with exit code 9 and no result\n      \| the last words"):
        run_jobs([Job("dead", f"{HERE}:dies")], backend="processes", retries=0)


def test_a_job_gets_in_line_again_and_its_last_attempt_has_the_machine_to_itself(tmp_path):
    kept = {}
    terms = Terms(workers=2, threads=1, gpus=0, attempts=3, logs=tmp_path, tell=lambda *_: None, claim=lambda job: True)
    line = Attempts(doubles(2), terms, lambda job, ok, value: kept.update({job.key: (ok, value)}))
    first, other = line.take(), line.take()
    line.died(first, "fell")
    second = line.take()
    assert (second.job.key, second.number) == ("j0", 2)
    line.died(second, "fell")
    assert line.take() is None  # the other one still runs
    line.ended(other, True, 1)
    last = line.take()
    assert (last.number, line.take()) == (3, None)
    line.died(last, "fell")
    assert line.finished and kept == {"j1": (True, 1), "j0": (False, "its process fell, 3 times")}


def test_a_worker_that_cannot_start_ends_the_call_with_what_it_said(monkeypatch):
    monkeypatch.setattr(in_processes, "_START", "import sys; sys.exit('no such library')")
    with pytest.raises(RunError, match=r"exit code 1 .* before it could begin. It said:\n    no such library"):
        run_jobs(doubles(2), backend="processes")


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGKILL])
def test_ending_the_parent_ends_its_workers_and_keeps_what_is_finished(tmp_path, ending):
    marks, folder = tmp_path / "marks", tmp_path / "done"
    code = (
        # what starts tests in the background may have switched interrupts off
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from pathlib import Path; from temper.jobs import Job, run_jobs\n"
        f"jobs = [Job('slow', '{HERE}:sleeps', {{'marks': {str(marks)!r}}}), Job('quick', '{HERE}:double', {{'value': 1}})]\n"
        f"run_jobs(jobs, backend='processes', folder=Path({str(folder)!r}))"
    )
    here = {**os.environ, "TMPDIR": str(tmp_path)}
    parent = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, cwd=Path(__file__).parents[1], env=here)
    for _ in range(1500):
        if (folder / "quick.json").exists() and marks.exists() and marks.read_text():
            break
        time.sleep(0.02)
    before = (folder / "quick.json").stat().st_mtime_ns
    parent.send_signal(ending)
    try:
        errors = parent.communicate(timeout=60)[1]
    finally:
        parent.kill()
    assert (b"KeyboardInterrupt" in errors) == (ending == signal.SIGINT)
    assert is_gone(int(marks.read_text()))
    assert {path.name for path in folder.iterdir()} - {"slow.log", ".slow.lock"} == {"quick.json"}
    again = [Job("slow", f"{HERE}:double", {"value": 2}), Job("quick", f"{HERE}:double", {"value": 1})]
    assert run_jobs(again, folder=folder)["slow"]["doubled"] == 4
    assert (folder / "quick.json").stat().st_mtime_ns == before


# what is seen


@pytest.mark.parametrize("backend", ["serial", "processes"])
def test_what_jobs_print_leaves_standard_output_alone(tmp_path, capfd, backend):
    assert run_jobs([Job("c", f"{HERE}:chatters")], folder=tmp_path, backend=backend) == {"c": None}
    out, _ = capfd.readouterr()
    if backend == "processes":
        assert out == ""
        assert (tmp_path / "c.log").read_text() == "printed\nwritten\ncomplained\n"
    else:
        assert "printed" not in out


@pytest.mark.parametrize("backend", ["serial", "processes"])
def test_a_job_may_tell_how_far_it_is(backend):
    told = []
    assert run_jobs([Job("c", f"{HERE}:counts")], backend=backend, progress=lambda *facts: told.append(facts)) == {"c": "done"}
    assert told[0] == ("jobs", 0, 1, "") and told[-1] == ("jobs", 1, 1, "c")
    assert ("c train", 3, 3, "loss 1.0") in told


# threads and devices


def test_workers_run_with_one_thread_each(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    results = run_jobs(doubles(2), backend="processes")
    assert {result["threads"] for result in results.values()} == {"1"}
    assert "OMP_NUM_THREADS" not in os.environ


def test_a_job_in_this_process_has_as_many_threads_as_in_a_worker():
    import torch

    torch.set_num_threads(2)
    try:
        job = [Job("t", f"{HERE}:threads_of_torch")]
        assert (run_jobs(job), run_jobs(job, threads=3)) == ({"t": 1}, {"t": 3})
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


def test_each_job_has_devices_of_its_own(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a,5,6,7,8")
    jobs = [Job(f"d{n}", f"{HERE}:devices") for n in range(3)]
    seen = run_jobs(jobs, backend="processes", workers=3, gpus_per_job=2)
    assert set(seen.values()) <= {"GPU-a,5", "6,7"}


@pytest.mark.parametrize(("named", "seen"), [("", []), ("-1", []), ("0, 2", ["0", "2"]), ("1,-1,3", ["1"])])
def test_devices_are_read_as_cuda_reads_them(monkeypatch, named, seen):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    assert in_processes.visible_devices() == seen


# wrong input


def test_keys_must_differ_and_be_plain():
    with pytest.raises(InputError, match="seen twice: a"):
        run_jobs([Job("a", "x:y"), Job("a", "x:z")])
    with pytest.raises(InputError, match="job key"):
        Job("../a", "x:y")


def test_a_job_is_text_and_json():
    with pytest.raises(InputError, match=r"job a: function 'os.system' is no name of one"):
        Job("a", "os.system")
    with pytest.raises(InputError, match=r"job a: its arguments are no JSON"):
        Job("a", "x:y", {"path": Path("x")})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "process"}, "backend is serial, processes or ray"),
        ({"workers": 0}, "workers = 0; it is at least 1"),
        ({"retries": -1}, "retries = -1; it is at least 0"),
        ({"gpus_per_job": 1}, "gpus_per_job needs processes of its own"),
        ({"gpus_per_job": 3, "backend": "processes"}, "gpus_per_job = 3, but 2 devices are visible here"),
    ],
)
def test_options_that_make_no_sense_are_refused(monkeypatch, options, message):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    with pytest.raises(InputError, match=message):
        run_jobs(doubles(1), **options)


def test_workers_are_not_asked_for_what_they_cannot_import_nor_by_each_process_of_torchrun(monkeypatch):
    with pytest.raises(InputError, match="Put the function in a module"):
        run_jobs([Job("a", "__main__:main")], backend="processes")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="torchrun started 2"):
        run_jobs(doubles(1), backend="processes")


def test_ray_that_is_not_installed_is_named_with_the_line_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'temper\[ray\]'"):
        run_jobs(doubles(1), backend="ray")


# Ray, on this machine


def test_a_ray_worker_finds_what_the_driver_finds_and_sends_its_log_where_no_folder_is_shared(tmp_path, monkeypatch):
    for name in ("driver", "worker"):
        (tmp_path / name).mkdir()
        text = f"import os\ndef whose():\n    os.write(1, b'said by {name}')\n    return '{name}'\n"
        (tmp_path / name / "shadowed_job.py").write_text(text)
    monkeypatch.setattr(sys, "path", [str(tmp_path / "worker"), *sys.path])
    request = {
        "key": "a",
        "function": "shadowed_job:whose",
        "arguments": {},
        "attempt": 1,
        "log": str(tmp_path / "elsewhere" / "a.log"),
        "threads": 1,
        "path": [str(tmp_path / "driver")],
        "environment": {},
    }
    answer = json.loads(perform_text(json.dumps(request)))
    assert answer == {"ok": True, "value": "driver", "log": "said by driver"}


@pytest.mark.slow
def test_ray_runs_the_same_jobs_with_the_same_results_and_leaves_nothing_behind(tmp_path):
    pytest.importorskip("ray")
    marks = str(tmp_path / "marks")
    folder = str(tmp_path / "ray")
    code = f"""
import json, os
from pathlib import Path
from temper.jobs import Job, JobsFailed, run_jobs
sums = [Job(f"s{{n}}", "{HERE}:sums", {{"seed": n}}) for n in range(2)]
more = [Job("bad", "{HERE}:wrong"), Job("c", "{HERE}:chatters"), Job("k", "{HERE}:is_killed", {{"times": 1, "marks": {marks!r}}})]
import ray  # notes in the environment that it was imported
before = dict(os.environ)
try:
    run_jobs(sums + more, backend="ray", folder=Path({folder!r}))
except JobsFailed as error:
    print(json.dumps({{"failures": error.failures, "results": error.results}}))
assert not ray.is_initialized() and dict(os.environ) == before
assert run_jobs(sums[:1], backend="ray") == run_jobs(sums[:1], folder=Path({folder!r}))  # a second time in one process
"""
    home = tmp_path / "home"
    home.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=500,
        cwd=Path(__file__).parents[1],
        env={**os.environ, "HOME": str(home)},
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)  # nothing else is on standard output
    assert said["failures"] == {"bad": "ValueError: surprise"}
    assert said["results"].pop("k") == "alive" and said["results"].pop("c") is None
    assert (tmp_path / "ray" / "c.log").read_text() == "printed\nwritten\ncomplained\n"
    assert (
        "== attempt 2 of 3: its process ended without a result (WorkerCrashedError) =="
        in (tmp_path / "ray" / "k.log").read_text()
    )
    assert not list(home.rglob("auth_token"))
    jobs = [Job(f"s{n}", f"{HERE}:sums", {"seed": n}) for n in range(2)]
    assert said["results"] == run_jobs(jobs) == run_jobs(jobs[::-1], backend="processes", workers=2)


@pytest.mark.slow
def test_a_ray_that_does_not_answer_is_named_at_once():
    pytest.importorskip("ray")
    with pytest.raises(RunError, match=r"no Ray answers at 127\.0\.0\.1:9 "):
        run_jobs(doubles(1), backend="ray", address="127.0.0.1:9")
