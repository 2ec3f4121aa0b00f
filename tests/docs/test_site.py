"""The pages are built without a warning; configuration.md is what the table of keys says."""

import html.parser
import importlib.util
import os
import re
import subprocess
import sys

import pytest
import yaml
from code_blocks import ROOT

import ilf_jax


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.fast
def test_the_configuration_page_is_up_to_date():
    made = load(ROOT / "docs/configuration_page.py")
    assert made.PAGE.read_text(encoding="utf-8") == made.page(), "run: python docs/configuration_page.py"


class _Sources(html.parser.HTMLParser):
    """What a page loads: addresses of scripts, styles and images."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        wanted = {"script": "src", "img": "src", "link": "href"}.get(tag)
        self.found += [value for name, value in attrs if name == wanted and value]


def test_the_site_is_built_without_a_warning(tmp_path):
    pytest.importorskip("mkdocs", reason="pip install -r docs/requirements.txt")
    pytest.importorskip("mkdocstrings")
    done = subprocess.run([sys.executable, "-m", "mkdocs", "build", "--strict", f"--site-dir={tmp_path}"],
                          cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    pages = {path.stem for path in (ROOT / "docs").glob("*.md")}
    built = {path.parent.name for path in tmp_path.glob("*/index.html")}
    assert pages - {"index"} <= built
    api = (tmp_path / "api/index.html").read_text(encoding="utf-8")
    assert "Runs, or resumes, a whole ILF run" in api
    sources = _Sources()
    sources.feed((tmp_path / "index.html").read_text(encoding="utf-8"))
    assert sources.found and not [source for source in sources.found if source.startswith(("http:", "https:", "//"))]


@pytest.mark.fast
def test_the_public_workflow_runs_the_same_parts():
    """Every part of .ci/run is a job of the workflow for GitHub Actions, too."""
    parts = re.findall(r'^part (?:"[^"]+"|\S+) (.+)$', (ROOT / ".ci/run").read_text(), re.M)
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    test = workflow["jobs"]["test"]
    given = {job["arguments"] for job in test["strategy"]["matrix"]["include"]}
    assert len(parts) >= 5 and set(parts) <= given
    steps = [step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step]
    scripts = [word for step in steps for word in step.split() if word.startswith("launch/")]
    assert scripts and all((ROOT / script).is_file() for script in scripts)


@pytest.mark.fast
def test_the_citation_names_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == ilf_jax.__version__
    authors = [author["family-names"] for author in citation["preferred-citation"]["authors"]]
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(authors) == 7 and all(author in text for author in authors)


def test_mistakes_get_the_answers_that_the_page_shows(tmp_path):
    page = (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8")
    (table,) = re.findall(r"\| you write \| it says \|\n(.*?)\n\n", page, re.S)
    rows = re.findall(r"^\| `([^`]+)` \| `([^`]+)` \|$", table, re.M)
    assert len(rows) == len(table.splitlines()) - 1
    (tmp_path / "models").mkdir()
    (tmp_path / "pairs.jsonl").write_text("{}\n")
    for given, answer in rows:
        words = given.removeprefix("ilf-jax ").split()
        if words[0].startswith("--config."):
            words.insert(0, "--config=quickstart")
        arguments = ["run", "--workdir=run", *words] if words[0].startswith("--") else words
        done = subprocess.run([sys.executable, "-m", "ilf_jax.cli", *arguments], cwd=tmp_path, capture_output=True,
                              text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
        assert done.returncode == 2, done.stderr
        assert all(part.strip() in done.stderr for part in answer.split("[...]")), done.stderr
