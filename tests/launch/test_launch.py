"""The scripts in launch/ that cannot be run here: what they would do, and that they are well-formed."""

import os
import pathlib
import subprocess

import pytest
import yaml

LAUNCH = pathlib.Path(__file__).parents[2] / "launch"
SCRIPTS = sorted(p.name for p in LAUNCH.iterdir() if p.suffix in (".sh", ".sbatch"))


@pytest.mark.parametrize("name", SCRIPTS)
def test_is_a_script(name):
    assert (LAUNCH / name).read_text().startswith(("#!/usr/bin/env bash", "# Sourced"))
    done = subprocess.run(["bash", "-n", LAUNCH / name], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("arguments", [[], ["two", "--", "a"], ["2", "a"], ["0", "--", "a"]])
def test_multiprocess_tells_its_usage(arguments):
    done = subprocess.run(["bash", LAUNCH / "multiprocess.sh", *arguments], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("usage: bash launch/multiprocess.sh N --")


def test_tpu_pod_prints_what_it_would_do(tmp_path):
    done = subprocess.run(
        ["bash", LAUNCH / "tpu_pod.sh", "mine", "us-west4-a", "v5litepod-16", "--", "--config=configs/tldr_5k.py",
         "--workdir=gs://bucket/run", "--config.data.folder=with a space"],
        env={**os.environ, "PRINT": "1", "TMPDIR": str(tmp_path)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("git archive")
    verbs = [next(word for word in line.split() if word in ("create", "scp", "ssh", "delete")) for line in lines[1:]]
    assert verbs == ["create", "scp", "ssh", "ssh", "delete"]
    assert "--accelerator-type=v5litepod-16" in lines[1] and all("--zone=us-west4-a" in line for line in lines[1:])
    assert "with" in lines[4] and lines[4].count("\\\\") > 0  # quoted for both shells
    assert not list(tmp_path.iterdir())


def test_jobset():
    """The fields that JobSet v1alpha2 and GKE's TPU nodes require."""
    job = yaml.safe_load((LAUNCH / "gke_jobset.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    assert set(job["spec"]) <= {"replicatedJobs", "failurePolicy", "network", "successPolicy", "startupPolicy",
                                "suspend", "coordinator", "managedBy", "ttlSecondsAfterFinished"}
    (replicated,) = job["spec"]["replicatedJobs"]
    assert set(replicated) <= {"name", "replicas", "template", "groupName", "dependsOn"}
    batch = replicated["template"]["spec"]
    assert batch["parallelism"] == batch["completions"]
    pod = batch["template"]["spec"]
    assert pod["restartPolicy"] in ("Never", "OnFailure")
    wide, high = map(int, pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x"))
    (container,) = pod["containers"]
    chips = int(container["resources"]["limits"]["google.com/tpu"])
    assert wide * high == chips * batch["parallelism"]
    assert any(a.startswith("--workdir=gs://") for a in container["args"])
