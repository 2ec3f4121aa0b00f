"""Every program of a run is found in the persistent cache afterwards, the quick ones too."""

import json
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]
PROGRAM = """
import json, pathlib, shutil, sys
import jax, jax.monitoring
import ilf_jax

misses, counts = [], []
jax.monitoring.register_event_listener(
    lambda name, **_: misses.append(name) if name == "/jax/compilation_cache/cache_misses" else None)

def run(folder):
    jax.clear_caches()  # what a new process begins with
    misses.clear()
    ilf_jax.run(json.loads(sys.argv[2]), folder)
    counts.append(len(misses))

folder = pathlib.Path(sys.argv[1])
run(folder / "first")
run(folder / "second")
shutil.rmtree(folder / "second/iteration_001/finetune")
shutil.rmtree(folder / "second/iteration_001/checkpoint")
shutil.rmtree(folder / "second/iteration_001/evaluate")
run(folder / "second")
print(json.dumps(counts))
"""


def test_another_process_and_a_resumed_one_compile_nothing(tiny_config, tmp_path):
    # As the quickstart: a run that begins with random params has one program for either layout of them.
    tiny_config.policy.checkpoint, tiny_config.policy.tokenizer = "builtin:word_removal_1m", None
    # Not with the settings of conftest.py: the program's own count.
    env = {name: value for name, value in os.environ.items() if not name.startswith("JAX_PERSISTENT_CACHE")}
    env |= {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "programs"), "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(tmp_path), tiny_config.to_json()], env=env, cwd=ROOT,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    cold, again, resumed = json.loads(done.stdout.splitlines()[-1])
    assert cold > 5
    assert (again, resumed) == (0, 0)
