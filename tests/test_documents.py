"""The documentation: pages name all that is public, notebooks run, links lead somewhere."""

import dataclasses
import importlib
import importlib.util
import json
import pathlib
import re
import types

import pytest

import reset_keras as rk
from networks import slow_but

ROOT = pathlib.Path(__file__).parents[1]
DOCS = ROOT / "docs"
NOTEBOOKS = sorted(DOCS.glob("notebooks/*.ipynb"))
QUICK = {DOCS / "notebooks" / "reset_in_your_cnn.ipynb"}
"""Those that take half a minute; the others take longer."""
PAGES = [*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *ROOT.glob("re*s/*.md")]
SUBPACKAGES = ("layers", "losses", "models", "data", "inference", "training", "callbacks", "analysis")


@pytest.mark.parametrize("name", SUBPACKAGES)
def test_a_page_names_all_that_is_public(name):
    page = (DOCS / "api" / f"{name}.md").read_text()
    listed = re.findall(rf"^::: reset_keras\.{name}\.(\w+)$", page, flags=re.MULTILINE)
    assert sorted(listed) == sorted(importlib.import_module(f"reset_keras.{name}").__all__)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    missing = []
    text = page.read_text()
    references = dict(re.findall(r"^\[([^\]]+)\]: (\S+)$", text, flags=re.MULTILINE))
    named = set(re.findall(r"\[((?:\w[\w-]*/)+\w+\.md)\](?![(:])", text))
    assert named == set(references)
    for link in [*re.findall(r"\]\(([^)]+)\)", text), *references.values()]:
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        if "://" not in link and (not target.exists() or (anchor and anchor not in anchors(target))):
            missing.append(link)
    assert missing == []


def test_links_between_pages_lead_from_their_places_on_the_site():
    spec = importlib.util.spec_from_file_location("other_pages", DOCS / "other_pages.py")
    hook = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hook)
    page = types.SimpleNamespace(file=types.SimpleNamespace(src_uri="guides/speed.md"))
    text = "[one](../../results/time.md#a-server), [two](routes.md)\n\n[three]: ../../recipes/README.md\n"
    expected = "[one](../results/time.md#a-server), [two](routes.md)\n\n[three]: ../recipes/README.md\n"
    assert hook.on_page_markdown(text, page) == expected
    kept = {"https://keras.io": "https://keras.io", "#a-server": "#a-server", "gone.md": "gone.md"}
    moved = {"../docs/guides/speed.md#speed": "../guides/speed.md#speed", "README.md": "README.md"}
    for link, on_site in (kept | moved).items():
        assert hook.site_link("results/time.md", link) == on_site
    assert hook.site_link("CHANGELOG.md", "docs/guides/speed.md") == "guides/speed.md"
    assert hook.site_link("index.md", "../results/README.md") == "results/README.md"


def anchors(page):
    """The names by which a link reaches the page's headings."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.fixture
def few_digits(monkeypatch):
    """Notebooks get a fifth of the digits, as their trainings need not succeed."""
    digits = rk.data.load_digits()
    train = rk.data.LabelledImages(digits.train.images[:288], digits.train.labels[:288])
    monkeypatch.setattr(rk.data, "load_digits", lambda: dataclasses.replace(digits, train=train))


@pytest.mark.programs
@pytest.mark.usefixtures("few_digits")
@pytest.mark.parametrize("notebook", slow_but(QUICK, NOTEBOOKS), ids=lambda path: path.stem)
def test_a_notebook_runs(notebook, capsys, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    names = {}
    for index, cell in enumerate(json.loads(notebook.read_text())["cells"]):
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []  # figures that nobody made again would grow old
            code = re.sub(r"^EPOCHS = \d+$", "EPOCHS = 2", "".join(cell["source"]), flags=re.MULTILINE)
            exec(compile(code, f"{notebook.name}, cell {index}", "exec"), names)
    printed = capsys.readouterr().out
    if "network" in names:
        routes = names["efficient"].predict_routes(names["test_images"], verbose=0)
        compute = rk.inference.compute_fractions(names["efficient"], routes).mean()
        assert compute == pytest.approx(names["TARGET"], abs=0.1)
        assert "operations 1.00" in printed
    else:
        scores = names["routes"]["scores"] if isinstance(names["routes"], dict) else names["routes"].scores[0]
        assert scores.shape[0] == len(names["test_images"])
