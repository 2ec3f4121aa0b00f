"""A policy as GGUF: llama.cpp answers as the policy does, and what our own reader makes of the file is the policy."""

import numpy as np
import pytest
from conftest import import_program

import ilf_jax
from ilf_jax.errors import InputError
from ilf_jax.models import checkpoint_io, transformer
from ilf_jax.tokenizers.tokenizer import Tokenizer

export = import_program("export")

pytestmark = pytest.mark.usefixtures("quick_compiles")

NAMES = ("Ada the baker", "Bo the tailor", "Cy the nurse")


@pytest.fixture(scope="module")
def written(fluent_run, tmp_path_factory):
    out = tmp_path_factory.mktemp("gguf") / "out"
    export.export(fluent_run, None, out, format="gguf")
    return out


def logits(config, params, ids):
    hidden = transformer.forward(config, params, np.array([ids], np.int32))
    return np.asarray(transformer.unembed(config, params, hidden))[0]


def test_llama_cpp_answers_as_the_policy_does(fluent_run, written):
    llama_cpp = pytest.importorskip("xllamacpp")
    params = llama_cpp.CommonParams()
    params.model.path, params.n_ctx, params.n_parallel, params.n_gpu_layers = str(written / "policy-F16.gguf"), 128, 1, 0
    params.warmup = params.fit_params = False
    params.cpuparams.n_threads = 1
    params.use_jinja = True
    server = llama_cpp.Server(params)
    answers = []
    for name in NAMES:
        answer = server.handle_chat_completions({"messages": [{"role": "user", "content": name}], "temperature": 0.0,
                                                 "max_tokens": 24, "samplers": ["temperature"]})
        print(answer)
        answers.append(answer["choices"][0]["message"]["content"].strip())
    assert answers == [texts[0] for texts in ilf_jax.load(fluent_run).generate(NAMES)]
    assert all(len(text) > 12 for text in answers)
