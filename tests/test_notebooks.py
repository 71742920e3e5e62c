"""`render --notebook`: the cells are the script, and a kernel runs them from top to bottom and ends."""

import ast
import json
import sys

import demo
import nbclient
import nbformat
import notebook
import pytest
import recipe
import render
import reward
import smoke
from conftest import ENVIRONMENT, write_jsonl
from stages import PIPELINE, STAGES, shapes
from test_smoke import there, words_for  # noqa: F401
from trainings import GOLDEN, ONE_THREAD

SHAPES = [(stage, shape) for stage in STAGES if stage != "serve" for shape in shapes(stage)]
SAID = {"train": "step 2/2", "evaluate": "accuracy"}  # progress and results, as text


@pytest.mark.parametrize(
    "stage, shape", SHAPES, ids=lambda part: part if isinstance(part, str) else "-".join(part.values())
)
def test_the_cells_are_the_script(stage, shape):
    values = recipe.validate(stage, shape)
    made = json.loads(notebook.as_notebook(stage, values))
    nbformat.validate(made)
    named, *cells, run, free = ["".join(cell["source"]) for cell in made["cells"] if cell["cell_type"] == "code"]
    script = ast.parse(render.render(stage, values)).body
    assert [ast.dump(node) for cell in cells for node in ast.parse(cell).body] == list(map(ast.dump, script[1:-1]))
    assert "main(args)" in run and "do_shutdown" in free and f'"run/{stage}.py"' in named


def ran(path):
    """What the cells of a notebook said, run by a kernel in its folder, which must end with the last one."""
    book, said = nbformat.read(path, 4), ""
    client = nbclient.NotebookClient(book, timeout=300, resources={"metadata": {"path": str(path.parent)}})
    with client.setup_kernel():
        for number, cell in enumerate(book.cells):
            client.execute_cell(cell, number)
            for output in cell.get("outputs", []):
                assert output.output_type == "stream", output  # text, no widgets
                said += output.text
        ended = nbclient.util.run_sync(client.km.provisioner.wait)()
    assert ended == 0
    return said


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder to work in, for this process and for kernels."""
    for name, value in {**ENVIRONMENT, **ONE_THREAD, "IPYTHONDIR": str(tmp_path / "ipython")}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_notebooks_of_a_recipe_run_where_they_stand(here, capsys):
    write_jsonl(here / "pairs.jsonl", demo.preferences(40))
    (here / "recipe.toml").write_text('[format]\ndata = ["pairs.jsonl"]\n\n[train]\nmodel = "base"\n\n[serve]\n')
    assert reward.main(["render", "--notebook"]) == 0
    assert "serve: left out" in capsys.readouterr().out
    assert {path.stem for path in here.glob("*.ipynb")} == set(PIPELINE)
    assert "40 rows" in ran(here / "format.ipynb")
    assert (here / "data" / "report.json").exists()
    assert reward.main(["render", "--notebook"]) == 0  # they are as they were written
    (here / "score.ipynb").write_text("{}")
    assert reward.main(["render", "--notebook"]) == 2
    assert "score.ipynb" in capsys.readouterr().err
    assert reward.main(["render", "--notebook", "--force"]) == 0


@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage not in ("serve", "verify")])
def test_a_stage_runs_in_a_kernel(stage, there, here):  # noqa: F811
    """On small data, with the words of the command line that a script would have."""
    words = words_for(stage, there, here / "out")
    made = notebook.as_notebook(stage, recipe.validate(stage, {}))
    (here / f"{stage}.ipynb").write_text(made.replace("parameters([])", f"parameters({words})".replace('"', '\\"')))
    said = ran(here / f"{stage}.ipynb")
    assert (here / "out").exists() and SAID.get(stage, "") in said
    reports = list((here / "out").glob("report.html"))
    assert all(path.stat().st_size > 10_000 for path in reports) and (reports or stage != "evaluate")


def test_a_running_server_is_checked_from_a_kernel(there, here):  # noqa: F811
    server = [sys.executable, str(GOLDEN / "serve.py"), *smoke.words("serve", there)]
    with smoke.serving(server, there) as (url, _):
        values = {"url": f"{url}/score", "export": str(there / "export")}
        (here / "verify.ipynb").write_text(notebook.as_notebook("verify", recipe.validate("verify", values)))
        assert "agree" in ran(here / "verify.ipynb")


def test_a_server_is_no_notebook(capsys):
    assert reward.main(["render", "serve", "--notebook"]) == 2
    assert "a stage that ends" in capsys.readouterr().err
