"""Techniques in files of one's own go the whole way, and no file runs that nobody named."""

import json
import re
import shutil
import sys
import types
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from forks import script_alone

import pargolf
from pargolf.core import own, spec
from pargolf.core.errors import NotRead, UserError
from pargolf.core.events import Resumed, Step
from pargolf.core.spec import edit
from pargolf.quant.gptq import GPTQ, weighted_error
from pargolf.quant.grid import Keep
from pargolf.recipes import catalog
from pargolf.run.folder import RunFolder
from pargolf.ship.program import program, shipped

HERE = Path(__file__).parent / "own"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder outside the repository with somebody's files."""
    folder = tmp_path_factory.mktemp("somebody")
    for path in HERE.glob("*.py"):
        shutil.copy(path, folder)
    return folder


@pytest.fixture(scope="module")
def mine(place, data):
    """A run of somebody's recipe."""
    out = place / "run"
    return out, pargolf.train(place / "mine.py", data=data, out=out, seed=3).result()


@pytest.fixture
def unread(monkeypatch):
    """As another process that has read no file."""
    for name in ("mine", "parts", "tech", "tech.acts", "tech.more"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(own, "_READ", {})


def test_a_run_keeps_the_files_and_names_one_that_is_not_given(mine, data, unread):
    out, result = mine
    assert sorted(path.name for path in (out / "own").iterdir()) == ["mine.py", "parts.py"]
    with pytest.raises(UserError, match=r"uses \w+ of mine\.py.*--with .*own/mine\.py"):
        pargolf.score(out / "model.pargolf", data=data).result()
    with pytest.raises(UserError, match=r"--with .*own/mine\.py"):
        RunFolder(out).read_recipe()
    copy = out.parent / "elsewhere.pargolf"
    shutil.copy(out / "model.pargolf", copy)
    with pytest.raises(UserError, match=r"Add --with mine\.py\."):
        pargolf.inspect(copy)
    scored = pargolf.score(copy, data=data, adapt=True, own=out / "own").result()
    assert scored["bpb"] == result.val_bpb


def test_every_command_on_a_run_takes_the_file(mine, data, place, unread):
    out, result = mine
    files = {"own": [place / "mine.py"]}
    assert " of mine.py" in pargolf.write_report([out]).result().read_text()
    assert "blocks[0:2].mlp.act" in pargolf.write_report([out], **files).result().read_text()
    assert pargolf.inspect(out / "model.pargolf")["parameters"] == result.parameters
    assert all(row["holds"] for row in pargolf.probe(out / "model.pargolf", **files))
    assert "".join(pargolf.generate(out / "model.pargolf", prompt="the", tokens=3, **files))
    before = (out / "model.pargolf").read_bytes()
    assert pargolf.pack(out, **files)["model"] == result.bytes.model
    assert (out / "model.pargolf").read_bytes() == before


def test_the_script_holds_the_files_and_gives_the_run_s_number(mine, data, place, tmp_path):
    out, result = mine
    made = pargolf.write_submission(
        [out], out=tmp_path / "records" / "mine", squeeze=True, own=place / "mine.py"
    ).result()
    assert made.code == result.bytes.code
    readable = pargolf.write_submission([out], out=tmp_path / "records" / "plain").result()
    text = (readable.path / "train_gpt.py").read_text()
    assert "class ParityModule" in text and "def kink(" in text and "import parts" not in text
    shutil.copy(made.path / "train_gpt.py", tmp_path)
    done = script_alone(tmp_path / "train_gpt.py", "--data", data, "--seed", 3, "--threads", 1)
    assert done.returncode == 0, done.stderr
    assert f"val_bpb:{result.val_bpb!r}" in done.stdout
    assert (tmp_path / "model.pargolf").read_bytes() == (out / "model.pargolf").read_bytes()


def test_a_run_that_was_cut_off_goes_on_to_the_same_bytes(mine, data, place):
    out, _ = mine
    with pargolf.train(place / "mine.py", data=data, out=place / "cut", seed=3, checkpoint_every=0) as work:
        for event in work:
            if isinstance(event, Step) and event.step == 3:
                break
    again = list(pargolf.train(place / "mine.py", data=data, out=place / "cut", seed=3, resume=True))
    assert [event.step for event in again if isinstance(event, Resumed)] in ([2], [3])
    assert (place / "cut" / "model.pargolf").read_bytes() == (out / "model.pargolf").read_bytes()


def test_every_kind_of_technique_in_the_recipe_is_somebody_s(place):
    recipe = catalog.find(str(place / "mine.py"))
    named = {address.partition(":")[2].partition("@")[0] for address in own.named_in(spec.dump(recipe))}
    kinds = (
        "kinked2 calmer Parity Crossed SignDescent Backwards Cosine AfterHalf LastTwo Shy Cubic Reversed Overlapping"
    )
    assert named == {*kinds.split(), "Nudge"}
    small = pargolf.recipe(place / "mine.py", scale="mini")
    assert small == recipe  # as narrow already


def test_the_feedback_of_gptq_reaches_a_grid_of_somebody_s(place):
    grid = catalog.find(str(place / "mine.py")).quant.table[2][1]
    w, x = torch.randn(2, 12, 12, generator=torch.Generator().manual_seed(0))
    hessian = x.T @ x
    fed, plain = (grid.decode(codes) - w for codes in (GPTQ().encode(w, grid, hessian), grid.encode(w)))
    assert weighted_error(fed, hessian) < 0.9 * weighted_error(plain, hessian)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (".to(torch.int8).reshape", ".to(torch.int16).reshape", r"quant\.table\[mlp.*codes of torch\.int16.*int8"),
        ("return straight_through(w, self", "return straight_through(w, 2 * self", "fake gives other values"),
        (".round().clamp(-self.n, self.n)", ".mul(99).round()", "codes past 8 bits"),
        ("return out[::-1]", "return out", "1024 bytes do not come back"),
        ("yield Window(end - self.length, end, first)", "yield Window(first, end, first + 1)", "not each once"),
        ("return self.floor + (", "return -self.floor - (", "the multiplier is -"),
        ("np.arange(batch.count, dtype=np.int64)", "0", "one for each sequence"),
        ("def round(self", "def nearest(self", r"Cubic fails on a small input"),
    ],
)  # fmt: skip
def test_what_a_technique_does_wrong_is_said_before_training(old, new, message, tmp_path, unread):
    for path in HERE.glob("*.py"):
        shutil.copy(path, tmp_path)
    path = tmp_path / "mine.py"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(UserError, match=message):
        pargolf.describe(path)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("self.register_buffer('seen', torch.zeros(1))", r"ParityModule keeps `seen` as a buffer.*persistent=False"),
        ("self.norm = nn.BatchNorm1d(dim)", r"BatchNorm1d keeps `running_mean` as a buffer"),
        ("self.register_buffer('drawn', torch.randn(3), persistent=False)", r"draws `drawn` anew.*manual_seed\(0\)"),
        ("self.drawn = torch.rand(3)", r"ParityModule draws `drawn` anew whenever it is built"),
        (
            "self.rows = nn.Parameter(torch.full((2, dim), 1), requires_grad=False)",
            r"'embed.parity.rows' holds torch.int64",
        ),
        ("self.rows.requires_grad_(False)", r"'embed.parity.rows' is built with requires_grad=False.*Frozen\(\)"),
        ("self.register_buffer('fixed', torch.arange(3), persistent=False)", None),
        ("self.drawn = torch.rand(3, generator=torch.Generator(device='cpu').manual_seed(0), device='cpu')", None),
    ],
)
def test_what_an_artifact_would_lose_of_a_model_is_refused(more, message, tmp_path, unread):
    for path in HERE.glob("*.py"):
        shutil.copy(path, tmp_path)
    path = tmp_path / "mine.py"
    rows = "        self.rows = nn.Parameter(torch.full((2, dim), size))\n"
    path.write_text(path.read_text().replace(rows, f"{rows}        {more}\n"))
    if message is None:
        assert "Parity" in pargolf.describe(path)
    else:
        with pytest.raises(UserError, match=message):
            pargolf.describe(path)


def test_what_a_technique_cannot_do_is_described(place):
    assert "Cubic keeps its steps" in pargolf.describe(place / "mine.py")
    with pytest.raises(UserError, match=r"quant\.fill needs a grid"):
        pargolf.recipe(place / "mine.py", changes={"quant.fill": True, "quant.table": (("*", Keep()),)})
    with pytest.raises(UserError, match=r"Did you mean model\.blocks\[:\]\.mlp\.act\?"):
        pargolf.recipe(place / "mine.py", changes={"model.blocks.mlp.act": "relu2"})


def test_jobs_side_by_side_and_ablations_use_the_files(place, data):
    rows = pargolf.ablate(place / "mine.py", data=data, out=place / "ablation", seeds=[1], jobs=2).result()
    assert [row.part for row in rows] == ["", "parity"] and not any(row.failed for row in rows)
    assert (place / "ablation" / "everything" / "seed-1" / "own" / "mine.py").is_file()


def test_other_code_under_the_same_name_is_noticed(mine, data, tmp_path, unread):
    out, _ = mine
    for path in HERE.glob("*.py"):
        shutil.copy(path, tmp_path)
    parts = tmp_path / "parts.py"
    parts.write_text(parts.read_text().replace("SLOPE = 0.3", "SLOPE = 0.4"))
    with pytest.raises(UserError, match="made with another kinked2"):
        pargolf.score(out / "model.pargolf", data=data, own=tmp_path / "mine.py").result()
    parts.write_text((HERE / "parts.py").read_text() + "\n\ndef more() -> int:\n    return SLOPE\n")
    assert pargolf.score(out / "model.pargolf", data=data, own=tmp_path / "mine.py").result()["complete"]


def test_a_file_is_run_once_and_again_when_it_changes(place, tmp_path):
    first = catalog.find(str(place / "mine.py"))
    assert catalog.find(str(place / "mine.py")) == first and catalog.ablations(str(place / "mine.py"))
    for path in HERE.glob("*.py"):
        shutil.copy(path, tmp_path)
    changed = tmp_path / "mine.py"
    changed.write_text(changed.read_text().replace(".square()", ".abs()"))
    other = catalog.find(str(changed))
    assert other.digest != catalog.find(str(HERE / "mine.py")).digest
    other = catalog.find(str(changed))
    with pytest.raises(UserError, match="defines another kinked2 now"):
        _ = first.digest
    shown = spec.diff(first, edit(other, {"model.vocab": 40}))
    assert shown == {"model.vocab": ("32", "40")}


def test_a_script_is_not_run_to_see_that_it_is_no_recipe(tmp_path, cli, monkeypatch):
    monkeypatch.chdir(tmp_path)
    script = tmp_path / "train_gpt.py"
    script.write_text("open('it_ran', 'w')\nrecipe = 'RECIPE'\n")
    for words in (["describe"], ["diff", "baseline"], ["forecast"], ["train"]):
        done = cli(*words, script)
        assert done.returncode == 2 and "pargolf audit" in done.stderr and len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "it_ran").exists()


@pytest.mark.parametrize("name", ["random", "torch", "pargolf", "json"])
def test_a_file_with_the_name_of_a_module_is_refused(name, tmp_path):
    path = tmp_path / f"{name}.py"
    path.write_text("from pargolf.recipes.published.baseline import RECIPE\n")
    with pytest.raises(UserError, match=f"the name of the module {name}"):
        catalog.find(str(path))
    assert sys.modules[name].__file__ != str(path)


def test_packages_folders_and_odd_names_are_read(tmp_path, unread):
    (tmp_path / "tech").mkdir()
    (tmp_path / "tech" / "acts.py").write_text("from . import more\n\ndef act(z):\n    return more.twice(z)\n")
    (tmp_path / "tech" / "more.py").write_text("def twice(z):\n    return 2 * z\n")
    text = (
        "import pargolf.recipes.published.baseline as base\nfrom pargolf.core.spec import edit\n"
        "from tech.acts import act\nRECIPE = edit(base.RECIPE, {'model.blocks[:].mlp.act': act})\n"
    )
    odd = tmp_path / "my-2nd try.py"
    odd.write_text(text)
    recipe = catalog.find(str(odd))
    dumped = spec.dump(recipe)
    assert recipe.model.blocks[0].mlp.act(2) == 4
    assert own.named_in(dumped)[0].startswith("tech.acts:act@")
    own.keep(dumped, tmp_path / "run" / "own")
    own._READ.clear()
    for name in ("tech", "tech.acts", "tech.more"):
        sys.modules.pop(name)
    with pytest.raises(NotRead) as caught:
        spec.load(dumped)
    assert "run/own/tech/acts.py" in str(own.kept(caught.value, tmp_path / "run"))
    own.use(tmp_path / "run" / "own" / "tech" / "acts.py")
    assert spec.dump(spec.load(dumped)) == dumped


def test_what_cannot_be_stored_by_name_is_said(place):
    recipe = catalog.find(str(place / "mine.py"))
    act = "model.blocks[:].mlp.act"
    with pytest.raises(UserError, match="A lambda of test_own cannot be stored by name"):
        own.address(lambda z: z)
    with pytest.raises(UserError, match=r"cannot name silu of torch.nn.functional\. Wrap it"):
        from torch.nn.functional import silu

        _ = edit(recipe, {act: silu}).digest
    with pytest.raises(UserError, match="cannot hold"):
        _ = replace(recipe, source=json).digest


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("TABLE = []\nfor i in range(3):\n    TABLE.append(i)\n", r"mine\.py, line \d+: a script takes"),
        ("from math import *\n", r"cannot hold `from math import \*`"),
    ],
)
def test_what_a_script_cannot_follow_is_said_with_its_line(more, message, tmp_path, unread):
    for path in HERE.glob("*.py"):
        shutil.copy(path, tmp_path)
    path = tmp_path / "mine.py"
    text = path.read_text().replace("    return parts.kink(z).square()", "    return parts.kink(z) + len(TABLE)")
    path.write_text(text.replace("\n\ndef kinked2", f"\nTABLE = ()\n{more}\n\ndef kinked2"))
    with pytest.raises(UserError, match=message):
        pargolf.forecast(path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("z = getattr(parts, 'kink')(z)", r"line 4\d: a script cannot hold `parts`\. Take .* parts\.NAME"),
        ("parts.SLOPE = 0.1", r"cannot hold `parts\.SLOPE`\. Only the file itself can change its names"),
        ("from parts import kink", r"cannot hold `from parts import kink`\. Write it at the top"),
        ("z = z + len(__file__)", r"cannot hold `__file__`.*nothing lies beside a script"),
        ("globals()['SLOPE'] = 1", r"cannot hold `globals`"),
        ("z = z + parts.NOTHING", r"parts\.py has no 'NOTHING'"),
    ],
)
def test_what_means_nothing_in_a_script_is_said_with_its_line(line, message, tmp_path, unread):
    for path in HERE.glob("*.py"):
        shutil.copy(path, tmp_path)
    path = tmp_path / "mine.py"
    path.write_text(path.read_text().replace("    return parts.kink(z)", f"    {line}\n    return parts.kink(z)"))
    with pytest.raises(UserError, match=message):
        pargolf.forecast(path)


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("self.rows = nn.Parameter", "self.rows = undefined", r"mine\.py, line \d+, in __init__: NameError: name"),
        ("z > 0, z", "z > 0, open('no')", r"parts\.py, line \d+, in kink: FileNotFoundError: .*'no'"),
        ("mean.lerp_(p.grad", "mean.lerp_(p[:, :1, 0]", r"mine\.py, line \d+, in update: \w+Error: "),
        (
            'Look the parity up."""',
            'Nothing."""\n        return None',
            r"TypeError: .* Code of mine\.py, parts\.py is in use",
        ),
        ("SLOPE = 0.3", "SLOPE = 0.3 / 0", r"mine\.py does not run: ZeroDivisionError: .* \(.*parts\.py, line \d+\)"),
    ],
)
def test_an_error_of_somebodys_own_is_one_line_that_says_where(old, new, line, data, cli, tmp_path, unread):
    for path in HERE.glob("*.py"):
        shutil.copy(path, tmp_path)
        (tmp_path / path.name).write_text(path.read_text().replace(old, new))
    done = cli("train", tmp_path / "mine.py", "--data", data, "--out", tmp_path / "run")
    said = done.stderr.splitlines()[-1]
    assert done.returncode == 2 and "Traceback" not in done.stderr and re.match(rf"pargolf: .*{line}", said), said


def test_code_of_any_habit_comes_to_the_same_in_a_script(tmp_path, monkeypatch):
    """What may be shortened or left out is known of the package's own code alone."""
    shutil.copytree(HERE / "odd", tmp_path / "odd")
    for name in ("odd", "kit", "kit.base", "kit.helpers"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    recipe = catalog.find(str(tmp_path / "odd" / "odd.py"))
    keyed, told = recipe.model.embed
    want = sys.modules["odd"].answers()
    for text in (program(recipe), shipped(recipe)):
        script = types.ModuleType("its_script")
        monkeypatch.setitem(sys.modules, script.__name__, script)
        exec(text, script.__dict__)
        assert script.answers() == want
        embed = script.Keyed(0.25, extra=3.0, nested=script.Base(), maybe=4), script.Answers()
        built = [spec.build(recipe.model.place()).value for spec in (*recipe.model.embed, *embed)]
        assert built == [keyed.value(), told.value()] * 2


def test_a_stored_spec_runs_nothing(tmp_path, monkeypatch, unread):
    monkeypatch.chdir(tmp_path)
    Path("planted.py").write_text("open('it_ran', 'w')\n\ndef act(z):\n    return z\n")
    monkeypatch.syspath_prepend(tmp_path)
    for stored in ("planted:act@0123456789ab", "planted:act", "os:system@0123456789ab"):
        with pytest.raises(UserError):
            spec.load({"fn": stored})
    assert not Path("it_ran").exists()


def test_the_page_s_idea_is_a_recipe_and_its_code_is_in_the_script(tmp_path, quick_size):
    page = (Path(__file__).parent.parent / "docs" / "own.md").read_text()
    block = page.split("```python\n", 1)[1].split("```", 1)[0]
    assert len([line for line in block.splitlines() if line.strip()]) <= 15
    path = tmp_path / "page_idea.py"
    path.write_text(block)
    recipe = pargolf.recipe(path, scale="mini")
    assert recipe.model.blocks[-1].mlp.act.__name__ == "cubed"
    assert "def cubed(" in program(recipe)
