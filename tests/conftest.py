"""Compiled programs are shared by all tests and by the processes that they start; a small run that takes seconds."""

import atexit
import contextlib
import importlib.metadata
import os
import pathlib
import shutil
import sys
import tempfile

import hypothesis
import pytest

if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _cache = tempfile.mkdtemp(prefix="ilf_jax_tests_compiled_")
    atexit.register(shutil.rmtree, _cache, ignore_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _cache
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
# XLA without its optimisations, here and in the processes that tests start: programs that run for milliseconds compile
# in a third of the time. Tests of what the optimisations do, or of large models, take `optimised`.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
# The older emitters of kernels, and one LLVM module a program: without optimisations, half the time again.
_QUICK = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
_given = os.environ.get("XLA_FLAGS", "")
# XLA aborts on a flag that it does not know. Processes that tests start read this file with the flags set.
if importlib.metadata.version("jaxlib").startswith("0.10.") and _QUICK not in _given:
    os.environ["XLA_FLAGS"] = f"{_given} {_QUICK}".strip()

# --hypothesis-profile=deep runs for about two hours, half_hour for less: other examples each time, and many of them.
_ANY_SPEED = {"deadline": None, "suppress_health_check": [hypothesis.HealthCheck.too_slow,
                                                          hypothesis.HealthCheck.function_scoped_fixture]}
hypothesis.settings.register_profile("suite", derandomize=True, max_examples=25, database=None, **_ANY_SPEED)
hypothesis.settings.register_profile("deep", max_examples=2000, print_blob=True, **_ANY_SPEED)
hypothesis.settings.register_profile("half_hour", max_examples=500, print_blob=True, **_ANY_SPEED)
hypothesis.settings.load_profile("suite")


def pytest_addoption(parser):
    parser.addoption("--flips", type=int, default=20, help="bytes that tests/fuzz/test_flipped_bytes.py flips")
    parser.addoption("--kills", type=int, default=3, help="kills of tests/fuzz/test_random_kills.py, and "
                     "on each server of tests/cloud/test_bucket_faults.py")
    parser.addoption("--write_kills", type=int, default=3, help="kills in each stage of tests/test_resume.py")
    parser.addoption("--outage", type=float, default=2.0, help="seconds that a bucket is away, in two stages; 60: in "
                     "every stage (tests/cloud/test_bucket_faults.py)")
    parser.addoption("--review_kills", type=int, default=5, help="kills of tests/review/test_under_load.py")
    parser.addoption("--review_items", type=int, default=60, help="items of tests/review/test_under_load.py")
    parser.addoption("--run_docs", action="store_true", help="run the commands of README and tutorial (minutes)")
    parser.addoption("--docs_python", action="append", default=[], help="a Python, in whose bare environment README "
                     "and tutorial run from a wheel; may be given again (tests/docs/test_wheel.py)")
    parser.addoption("--losses", type=int, default=2, help="lost processes of tests/cloud/test_losses.py")


# Files that take a minute or more start first, so that no worker is left alone with one in the end.
_LONG = (
    "cloud/test_slurm", "runtime/test_distributed", "test_resume", "test_devices", "models/test_parity", "test_ilf",
    "runtime/test_sharding", "fuzz/test_random_kills", "test_bad_input", "test_own_code", "training/test_lora",
    "benchmarks/test_benchmarks", "models/test_llama_cpp", "tokenizers/test_differential", "sweeps/test_sweeps",
    "test_reward", "training/test_gradient_sum", "dry_run/test_dry_run", "training/test_loop",
    "comparison/test_command",
)


def pytest_collection_modifyitems(items):
    places = {name: i for i, name in enumerate(_LONG)}
    folder = pathlib.Path(__file__).parent

    def place(item):
        return places.get(item.path.relative_to(folder).with_suffix("").as_posix(), len(_LONG))

    items.sort(key=place)


def make_tiny_config():
    import ilf_jax

    c = ilf_jax.base_config()
    c.task = "word_removal"
    c.data.source = c.data.eval_source = "builtin:word_removal"
    c.data.train_size, c.data.eval_size = 6, 4
    c.policy.checkpoint, c.policy.tokenizer = "init:tiny", "train:512"
    c.feedback.source = "oracle"
    for section in (c.draft, c.feedback, c.refine, c.evaluate):
        section.max_new_tokens, section.batch_size = 8, 2
    c.refine.num_candidates = 2
    c.score.batch_size = 3
    c.finetune.batch_size, c.checkpoint.every_steps, c.finetune.learning_rate = 2, 1, 1e-3
    return c


def several_devices(count):
    """The environment of a process in which jax finds so many CPU devices."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={count}"
    return {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags.strip()}


def import_program(module):
    """The module of a command, as `ilf_jax.main`. Each has a flag `workdir`; only one may define it in a process."""
    import importlib

    from absl import flags

    if module not in sys.modules and "workdir" in flags.FLAGS:
        delattr(flags.FLAGS, "workdir")
    return importlib.import_module(module)


def run_main(config, workdir, capsys, *flags_given):
    """(exit code, what stood on stderr) of `python -m ilf_jax.main`, in this process, with a config made here."""
    with tempfile.TemporaryDirectory() as folder:
        source = "import json\nfrom ml_collections import ConfigDict\nfrom ilf_jax.config import base_config\n"
        path = os.path.join(folder, "config_of_test.py")
        with open(path, "w") as f:
            f.write(f"{source}\n\ndef get_config():\n    c = base_config()\n"
                    f"    c.update(json.loads({config.to_json()!r}))\n    return c\n")
        return main_with_flags(capsys, f"--config={path}", f"--workdir={workdir}", *flags_given)


def main_with_flags(capsys, *given):
    """(exit code, what stood on stderr) of `python -m ilf_jax.main` with these flags, in this process."""
    from absl import flags

    main = import_program("ilf_jax.main")
    capsys.readouterr()
    flags.FLAGS.unparse_flags()
    for name in main._OWN_FLAGS:
        flags.FLAGS[name].unparse()
    for name in [n for n in flags.FLAGS if n.startswith("config.")]:
        delattr(flags.FLAGS, name)
    sys.modules.pop("config_config", None)  # where ml_collections loads every config file, over the one before
    sys_argv, sys.argv = sys.argv, ["main", *given]  # where ml_collections looks for overrides
    try:
        code = main.main(main.parse_or_exit(["main", *given]))
    except SystemExit as stopped:
        code = stopped.code
    finally:
        sys.argv = sys_argv
        flags.FLAGS.unparse_flags()
    return code, capsys.readouterr().err


@contextlib.contextmanager
def _optimisations(wanted):
    import jax

    before = jax.config.values["jax_disable_most_optimizations"]
    with contextlib.ExitStack() as stack:
        if before != (not wanted):
            # A program that was compiled otherwise may differ in the last bits, and would be found by its shapes.
            jax.config.update("jax_disable_most_optimizations", not wanted)
            stack.callback(jax.clear_caches)
            stack.callback(jax.config.update, "jax_disable_most_optimizations", before)
            jax.clear_caches()
        if wanted and _QUICK in os.environ["XLA_FLAGS"]:
            stack.enter_context(_as_by_default())
        yield


@contextlib.contextmanager
def _as_by_default():
    """XLA's own values of `_QUICK`: with optimisations, the older emitters make slow programs. jax has no setting."""
    from jax._src import compiler

    original = compiler.get_compile_options

    def get_compile_options(*args, env_options_overrides=None, **more):
        by_default = {"xla_cpu_use_fusion_emitters": True, "xla_cpu_parallel_codegen_split_count": 32}
        return original(*args, env_options_overrides=by_default | (env_options_overrides or {}), **more)

    compiler.get_compile_options = get_compile_options
    yield
    compiler.get_compile_options = original


@pytest.fixture(scope="module")
def quick_compiles():
    """XLA without its optimisations, also where the environment turned them on for the suite."""
    with _optimisations(False):
        yield


@pytest.fixture
def optimised():
    """XLA with its optimisations: for tests of what they do, and for programs that run longer than they compile."""
    with _optimisations(True):
        yield


@pytest.fixture
def tiny_config():
    """One iteration on random params: 6 documents, 4 held out, 2 candidates, several shards a stage, 3 train steps."""
    return make_tiny_config()


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory):
    """(config, folder, metrics) of a finished run of two iterations; not to be written to."""
    import ilf_jax

    c = make_tiny_config()
    c.iterations = 2
    folder = tmp_path_factory.mktemp("tiny") / "run"
    with _optimisations(False):
        return c, folder, ilf_jax.run(c, folder)


@pytest.fixture(scope="module")  # while Playwright runs, no other test of the process can run an event loop
def chromium():
    """Debian's Chromium; Playwright's own browsers are never downloaded."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("there is no chromium here (apt-get install chromium)")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium):
    """A page in a browser of its own, which fails the test on an error of a script or a breach of the policy."""
    contexts, problems = [], []

    def open_one(**more):
        context = chromium.new_context(**{"viewport": {"width": 1200, "height": 800}, **more})
        context.set_default_timeout(20_000)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda said: problems.append(said.text) if "Content Security" in said.text else None)
        return page

    yield open_one
    for context in contexts:
        context.close()
    assert not problems


@pytest.fixture(scope="session")
def fluent_run(tmp_path_factory):
    """Folder of a run that evaluates the model that ships with the package, greedily, and trains nothing."""
    import ilf_jax

    c = make_tiny_config()
    c.policy.checkpoint, c.policy.tokenizer = "builtin:word_removal_1m", None
    c.iterations, c.evaluate.temperature, c.evaluate.max_new_tokens = 0, 0.0, 24
    folder = tmp_path_factory.mktemp("fluent") / "run"
    with _optimisations(False):
        ilf_jax.run(c, folder)
    return folder


@pytest.fixture(scope="session")
def lora_run(tmp_path_factory):
    """Folder of a run of two iterations, the second of which goes on from the first, with LoRA."""
    import ilf_jax

    c = make_tiny_config()
    c.iterations, c.finetune.init, c.finetune.lora_rank, c.finetune.lora_alpha = 2, "previous", 2, 8.0
    c.finetune.learning_rate, c.data.eval_size = 0.05, 0
    folder = tmp_path_factory.mktemp("lora") / "run"
    with _optimisations(False):
        ilf_jax.run(c, folder)
    return folder
