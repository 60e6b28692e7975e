"""The architecture as a test: rooms import downwards only, and nothing heavy is imported before it is needed."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "temper"

# from the top; rooms on one line may not import each other
LAYERS = [
    ["__main__"],
    ["cli"],
    ["report"],
    ["assess"],
    ["unlearn", "sisa", "reason", "align", "calibrate", "fairness", "poison"],
    ["display"],
    ["train"],
    ["merge"],
    ["models"],
    ["data"],
    ["world"],
    ["jobs"],
    ["run"],
    ["recipe"],
    ["registry"],
    ["files"],
    ["processes"],
    ["draws"],
    ["errors"],
]
LISTED = {("sisa", "fairness")}  # a deletion refits the post-processor
HEIGHT = {room: len(LAYERS) - number for number, rooms in enumerate(LAYERS) for room in rooms}


def room_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            parts = node.module.split(".")
            if parts[0] == "temper":
                found |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("temper.")}
    return found - {"__version__"}


FILES = sorted(path for path in SOURCE.rglob("*.py") if path != SOURCE / "__init__.py")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_a_file_imports_only_from_its_own_room_and_rooms_below(path):
    room = room_of(path)
    assert room in HEIGHT, f"{room} has no place in the drawing of docs/architecture.md"
    wrong = {other for other in imported_rooms(path) - {room} if HEIGHT[other] >= HEIGHT[room] and (room, other) not in LISTED}
    assert not wrong, f"{path.name} of {room} imports {sorted(wrong)}"


def test_the_check_sees_a_wrong_import(tmp_path):
    file = tmp_path / "x.py"
    file.write_text(
        "def f():\n    from temper.cli.app import main\n    import temper.assess.run\n    from temper import report\n"
    )
    assert imported_rooms(file) == {"cli", "assess", "report"}


def _modules_after(code: str) -> set[str]:
    printed = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys\nprint(*sys.modules)"], capture_output=True, text=True, check=True, timeout=60
    )
    return set(printed.stdout.split())


HEAVY = {"torch", "transformers", "datasets", "peft", "matplotlib", "scipy", "sklearn", "pyarrow", "accelerate"}


@pytest.mark.parametrize(
    "code",
    [
        "import temper",
        "import temper.cli.app",
        "from temper import assess, data, models, reason, recipe, report, train, unlearn, world",
        "from temper import recipe; recipe.load('tiny/npo.yaml')",
        "from temper import recipe; recipe.json_schema()",
    ],
)
def test_nothing_heavy_is_imported_before_it_is_needed(code):
    assert not _modules_after(code) & HEAVY


def test_no_file_opens_pickles_or_hides_errors():
    banned = (
        "import pickle",
        "torch.load(",
        "torch.save(",
        "yaml.load(text)",
        "except:",
        "eval(",
        "exec(",
        "np.random.seed",
        "random.seed",
    )
    for path in FILES:
        text = path.read_text(encoding="utf-8").replace(".eval(", "").replace("_eval(", "")
        assert not [word for word in banned if word in text], path
