"""A policy as GGUF: llama.cpp answers as the policy does, and what our own reader makes of the file is the policy."""

import types

import jax
import numpy as np
import pytest
from test_chat_template import BASES, DOCUMENTS, TEMPLATES, exported_of, make_folder, sentencepiece_folder

import ilf_jax
from ilf_jax.errors import InputError
from ilf_jax.export import export_policy, gguf_export
from ilf_jax.models import checkpoint_io, transformer
from ilf_jax.records import Example
from ilf_jax.tokenizers.tokenizer import Tokenizer

pytestmark = pytest.mark.usefixtures("quick_compiles")

NAMES = ("Ada the baker", "Bo the tailor", "Cy the nurse")


@pytest.fixture(scope="module")
def written(fluent_run, tmp_path_factory):
    out = tmp_path_factory.mktemp("gguf") / "out"
    export_policy.export(fluent_run, None, out, format="gguf")
    return out


def logits(config, params, ids):
    hidden = transformer.forward(config, params, np.array([ids], np.int32))
    return np.asarray(transformer.unembed(config, params, hidden))[0]


def served(path, **settings):
    """llama.cpp in this process."""
    llama_cpp = pytest.importorskip("xllamacpp")
    params = llama_cpp.CommonParams()
    params.model.path = str(path)
    params.n_ctx, params.n_parallel, params.n_gpu_layers = 512, 1, 0
    params.warmup = params.fit_params = False
    params.cpuparams.n_threads = 1
    params.use_jinja = True
    for name, value in settings.items():
        setattr(params, name, value)
    return llama_cpp.Server(params)


def test_llama_cpp_answers_as_the_policy_does(fluent_run, written):
    server, answers = served(written / "policy-F16.gguf"), []
    for name in NAMES:
        answer = server.handle_chat_completions({"messages": [{"role": "user", "content": name}], "temperature": 0.0,
                                                 "max_tokens": 24, "samplers": ["temperature"]})
        answers.append(answer["choices"][0]["message"]["content"].strip())
    assert answers == [texts[0] for texts in ilf_jax.load(fluent_run).generate(NAMES)]
    assert all(len(text) > 12 for text in answers)


@pytest.mark.parametrize(("base", "template"), [
    ("trims", "title"), ("trims", "ends_in_document"), ("opens_thoughts", "braces"), ("plain", "no_document_line"),
])
def test_llama_cpp_renders_the_prompt_as_the_policy_reads_it(written, tmp_path, base, template):
    """It has a Jinja of its own. With this verbosity it tells what it has made of the messages."""
    folder = make_folder(tmp_path / "base", BASES[base])
    exported = exported_of(f"hf:{folder}", "template", **{"template.policy": TEMPLATES[template]})
    assert exported.prompt is not None
    server = served(written / "policy-F16.gguf", chat_template=exported.prompt.source, verbosity=10)
    for document in DOCUMENTS:
        messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"},
                    {"role": "assistant", "content": "Ho"}, {"role": "user", "content": document}]
        answer = server.handle_chat_completions({"messages": messages, "max_tokens": 1})
        own = exported.lm.encode_whole("", exported.task.policy_prompt(Example("", document)))
        assert answer["__verbose"]["prompt"] == own.text


@pytest.mark.parametrize("as_json", [False, True])
def test_llama_cpp_goes_on_from_sentencepiece_tokens(tmp_path, as_json):
    """With BOS, and a space in front; with the scores of the model file, or the merges of a tokenizer.json."""
    folder = sentencepiece_folder(tmp_path / "base", legacy=True)
    if as_json:
        Tokenizer.load(f"hf:{folder}").save(tmp_path / "json")
        folder = tmp_path / "json"
        (folder / "tokenizer.model").unlink(missing_ok=True)
    exported = exported_of("init:tiny", tokenizer=f"hf:{folder}")
    vars(exported)["work"] = types.SimpleNamespace(iterations=[])  # there is no run
    facts = gguf_export.metadata(exported)
    gguf_export.write(exported, *facts, tmp_path, "F32")
    server, document = served(tmp_path / "policy-F32.gguf"), "the baker is a gem, and Ünï 🙂  too"
    answer = server.handle_chat_completions({
        "messages": [{"role": "user", "content": document}], "max_tokens": 6, "temperature": 0.0, "logprobs": True,
        "top_logprobs": 1, "samplers": ["temperature"], "ignore_eos": True})
    prompt = exported.lm.encode_whole("", exported.task.policy_prompt(Example("", document))).ids
    assert answer["usage"]["prompt_tokens"] == len(prompt)
    theirs = [step["id"] for step in answer["choices"][0]["logprobs"]["content"]]
    each = logits(exported.lm.architecture, exported.params, [*prompt, *theirs])[len(prompt) - 1 : -1].copy()
    each[:, list(exported.lm.end_ids)] = -np.inf  # which ignore_eos rules out
    assert len(theirs) == 6
    assert (each.max(axis=1) - each[np.arange(6), theirs]).max() < 1e-4


def test_our_reader_makes_the_policy_of_it(fluent_run, written):
    lm = ilf_jax.load(fluent_run).roles.get("policy")
    uri = f"gguf:{written / 'policy-F16.gguf'}"
    config, tokenizer = checkpoint_io.read_config(uri), Tokenizer.load(uri)
    params = checkpoint_io.load_params(uri)
    for text in NAMES:
        ids = lm.tokenizer.encode(f"Describe {text}.\nText:")
        assert tokenizer.encode(f"Describe {text}.\nText:") == ids
        ours, theirs = logits(lm.architecture, lm.params, ids), logits(config, params, ids)
        np.testing.assert_allclose(theirs, ours, atol=0.01)  # F16 has 11 bits
        assert np.abs(ours).max() > 5
    # A run that starts from the file puts its own prompt around documents.
    assert not tokenizer.chat and tokenizer.stop_ids == lm.tokenizer.stop_ids


def test_what_is_written_for_ollama(written):
    lines = (written / "Modelfile").read_text().splitlines()
    assert lines[:3] == ["FROM ./policy-F16.gguf", 'TEMPLATE """Describe {{ .Prompt }}.', 'Text:"""']
    assert {"PARAMETER temperature 0", "PARAMETER num_predict 24", 'PARAMETER stop "\\n"'} < set(lines)


@pytest.mark.parametrize(("dtype", "share", "tolerance"), [("F32", 1.0, 1e-5), ("Q8_0", 0.27, 0.3)])
def test_other_types(fluent_run, tmp_path, dtype, share, tolerance):
    export_policy.export(fluent_run, None, tmp_path / "out", format="gguf", dtype=dtype)
    path = tmp_path / f"out/policy-{dtype}.gguf"
    lm, ids = ilf_jax.load(fluent_run).roles.get("policy"), [5, 77, 301, 12, 9]
    read = logits(checkpoint_io.read_config(f"gguf:{path}"), checkpoint_io.load_params(f"gguf:{path}"), ids)
    difference = np.abs(read - logits(lm.architecture, lm.params, ids)).max()
    print(f"{dtype}: {difference:.1e}, {path.stat().st_size} bytes")
    assert difference < tolerance
    num_params = sum(a.size for a in jax.tree.leaves(lm.params))
    assert path.stat().st_size < 4 * num_params * share + 100_000


def test_a_dtype_is_gguf_s(fluent_run, tmp_path):
    with pytest.raises(InputError, match="--dtype=Q8_0: --format=huggingface has its weights in float32"):
        export_policy.export(fluent_run, None, tmp_path / "out", dtype="Q8_0")
    assert not (tmp_path / "out").exists()
