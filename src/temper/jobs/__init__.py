"""Jobs: runs that are one of several (a split, a shard, a seed, a sweep point), fanned out and resumable.

A job is a function named by text and JSON arguments, so that the same description runs in this process, in processes
beside it, or on a Ray cluster. Its key names its result; a finished job with the same arguments is not run again.
`fan_out` holds the one call; `store` the results on disk; `attempts` who is tried when, and again; `worker` what happens
where a job runs; `processes` and `cluster` the two back ends that start workers. What a job does belongs elsewhere.
"""

from temper.jobs.fan_out import JobsFailed, run_jobs
from temper.jobs.job import Job

__all__ = ["Job", "JobsFailed", "run_jobs"]
