"""Write docs/map.md: every file of the package in one line, floor by floor from the top, in its own first sentence.

python benchmarks/map.py > docs/map.md
"""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent / "pargolf"
FLOORS = (
    *("cli", "api", "submit", "report", "serving", "study", "engines", "audit", "run", "ship", "recipes", "exporting"),
    *("evaluate", "packing", "quant", "training", "model", "data", "kernels", "watch", "core", "upstream"),
)


def first_sentence(path: Path) -> str:
    """The first sentence of a file's docstring, or of a C file's first comment."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        words = ast.get_docstring(ast.parse(text)) or ""
    else:
        comment = re.match(r"\s*(?:/\*+(.*?)\*/|((?:\s*//[^\n]*\n)+))", text, re.DOTALL)
        words = re.sub(r"^\s*(?://|\*)", "", (comment[1] or comment[2]) if comment else "", flags=re.MULTILINE)
    paragraph = " ".join(words.strip().split("\n\n")[0].split())
    return re.split(r"(?<=[a-z0-9)`%][.!?])\s+(?=[A-Z`])", paragraph)[0].replace("|", "\\|")


def page() -> str:
    """The map as Markdown: a table for each floor."""
    lines = [
        "# Every file in one line",
        "",
        "The floors from the top down, as [the house](house.md) draws them. `python benchmarks/map.py > docs/map.md`",
        "writes this page from the files' own first sentences.",
    ]
    for floor in FLOORS:
        paths = sorted(p for p in (ROOT / floor).rglob("*") if p.suffix in (".py", ".c"))
        files = [path for path in paths if path.name != "__init__.py"]
        lines += ["", f"## {floor}", "", "| file | what it is |", "|---|---|"]
        lines += [f"| `{path.relative_to(ROOT / floor)}` | {first_sentence(path)} |" for path in files]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(page(), end="")
