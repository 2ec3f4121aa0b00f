"""Collectives are counted in the text of compiled programs, loops included."""

import json
import subprocess
import sys

import pytest
from conftest import several_devices

from ilf_jax.dry_run import hlo

pytestmark = pytest.mark.fast

TEXT = """HloModule m

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %c = f32[] add(%a, %b)
}

%body (p: (s32[], f32[4,8])) -> (s32[], f32[4,8]) {
  %p = (s32[], f32[4,8]) parameter(0)
  %x = f32[4,8]{1,0} get-tuple-element(%p), index=1
  %r = f32[4,8]{1,0} all-reduce(%x), channel_id=1, to_apply=%add
  ROOT %t = (s32[], f32[4,8]) tuple(%p, %r)
}

%unknown (p: (s32[], bf16[2])) -> (s32[], bf16[2]) {
  %p = (s32[], bf16[2]) parameter(0)
  %y = bf16[2]{0} get-tuple-element(%p), index=1
  ROOT %q = bf16[2]{0} collective-permute(%y), source_target_pairs={{0,1}}
}

ENTRY %main (x: f32[2,8]) -> f32[4,8] {
  %x = f32[2,8]{1,0} parameter(0)
  %s = (f32[2,8]{1,0}, f32[4,8]{1,0}) all-gather-start(%x), dimensions={0}
  %d = f32[4,8]{1,0} all-gather-done(%s)
  %w = (s32[], f32[4,8]) while(%d), condition=%add, body=%body, backend_config={"known_trip_count":{"n":"5"}}
  %v = (s32[], bf16[2]) while(%d), condition=%add, body=%unknown
  ROOT %e = f32[4,8]{1,0} get-tuple-element(%w), index=1
}
"""


def test_counts_and_bytes():
    found = hlo.collectives(TEXT, loops=3)
    assert found == {"all-gather": (1, 128), "all-reduce": (5, 5 * 128), "collective-permute": (3, 12)}


CONDITIONS = """
%counts (p.1: (s32[], bf16[2])) -> pred[] {
  %limit.1 = s32[]{:T(128)} constant(31)
  %p.1 = (s32[]{:T(128)}, bf16[2]{0:T(128)S(1)}) parameter(0)
  %at.1 = s32[]{:T(128)} get-tuple-element(%p.1), index=0
  ROOT %lt.1 = pred[]{:T(512)} compare(%at.1, %limit.1), direction=LT
}

%waits (p.2: (s32[], bf16[2])) -> pred[] {
  %limit.2 = s32[]{:T(128)} constant(4)
  %p.2 = (s32[]{:T(128)}, bf16[2]{0:T(128)S(1)}) parameter(0)
  %done.2 = s32[]{:T(128)} all-reduce(%p.2), channel_id=3, to_apply=%add
  ROOT %lt.2 = pred[]{:T(512)} compare(%done.2, %limit.2), direction=LT
}

ENTRY"""


def test_loops_of_tpu_programs_end_where_their_condition_says():
    """A loop that counts to a constant has that many trips; one that compares something else with it has not."""
    text = TEXT.replace("\nENTRY", CONDITIONS)
    counting = text.replace("condition=%add, body=%unknown", "condition=%counts, body=%unknown")
    assert hlo.collectives(counting, loops=3)["collective-permute"] == (31, 31 * 4)
    waiting = text.replace("condition=%add, body=%unknown", "condition=%waits, body=%unknown")
    assert hlo.collectives(waiting, loops=3)["collective-permute"] == (3, 12)


SCRIPT = """
import json, jax, jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
import pytest

from ilf_jax.dry_run import hlo
mesh = Mesh(jax.devices(), "x")
split, whole = NamedSharding(mesh, P("x")), NamedSharding(mesh, P())
def f(x, n):
    step = lambda i, y: y + jax.lax.with_sharding_constraint(x * i, whole).sum()
    return jax.lax.fori_loop(0, n, step, jnp.float32(0))
x = jax.ShapeDtypeStruct((8, 128), jnp.float32, sharding=split)
program = jax.jit(f, static_argnums=1).lower(x, 7).compile()
total = jax.jit(lambda x: x.sum(), out_shardings=whole).lower(x).compile()
print(json.dumps([hlo.collectives(program.as_text()), hlo.collectives(total.as_text())]))
"""


def test_of_a_program_that_xla_compiled():
    env = several_devices(4)
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    looped, total = json.loads(done.stdout)
    assert sum(count for count, _ in looped.values()) >= 1
    assert total == {"all-reduce": [1, 4]}
