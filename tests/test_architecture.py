"""The house: imports point down, functions are short, the package is whole, the tools find nothing."""

from __future__ import annotations

import ast
import configparser
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "progan"

FLOORS = {
    0: "nn.ops schedule seeds latents losses errors version metrics.swd metrics.ms_ssim metrics.spectrum "
    "metrics.neighbours metrics.diversity metrics.frechet metrics.reconstruction",
    1: "nn.layers nn.norms nn.attention images config devices files console data.source data.pictures data.order "
    "metrics.results metrics.features",
    2: "nn.progressive nn.fixed nn.dcgan nn.resnet nn.families nn.maps nn.winograd training.runlog data.archives "
    "data.arrays data.tfrecords data.stylegan data.torchvision_sets data.pyramid data.loader data.faces*",
    3: "nn.inference training.state data.sources data.workers data.writer",
    4: "training.steps training.explicit training.engine training.checkpoint training.preflight training.pace "
    "training.measure metrics.sets",
    5: "training.loop training.ticks training.scoring training.plan training.bench training.rundir render.* exchange.* "
    "data.prepare data.cache data.export data.inspect metrics.*",
    6: "commands commands.* __main__",
}
FREE = {"", "nn", "data", "metrics", "training", "render", "exchange"}  # packages: docstrings, and lazy names


def modules() -> dict[str, Path]:
    """Dotted name below progan -> file."""
    names = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return names


def floor(name: str) -> int:
    for number, patterns in FLOORS.items():
        for pattern in patterns.split():
            if name == pattern or (pattern.endswith("*") and name.startswith(pattern[:-1])):
                return number
    raise AssertionError(f"progan.{name} has no floor; give it one in tests/test_architecture.py")


def imports(path: Path) -> set[str]:
    """Dotted names of everything imported anywhere in a file, `from a import b` as a and a.b."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def own_imports(path: Path) -> set[str]:
    """Modules of ours that a file imports, without packages' __init__.py."""
    below = {name.removeprefix("progan.") for name in imports(path) if name.startswith("progan.")}
    return (below & modules().keys()) - FREE


HOUSE = {name: own_imports(path) for name, path in modules().items() if name not in FREE}


@pytest.mark.parametrize("name", HOUSE)
def test_imports_point_down(name: str) -> None:
    for imported in HOUSE[name]:
        if floor(name) == 0:
            raise AssertionError(f"{name} is on the ground floor and imports {imported}")
        assert floor(imported) <= floor(name), f"{name} imports {imported} from a floor above"


def test_there_are_no_import_cycles() -> None:
    order = list(graphlib.TopologicalSorter(HOUSE).static_order())
    assert set(order) == set(HOUSE)


def test_only_the_upper_floors_see_the_configuration() -> None:
    seers = {name for name, found in HOUSE.items() if "config" in found}
    assert seers, "somebody must"
    assert {floor(name) for name in seers} <= {5, 6}


@pytest.mark.parametrize("name", ["schedule", "config", "errors", "console", "commands"])
def test_the_light_modules_import_no_torch(name: str) -> None:
    code = f"import sys, progan.{name}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def functions() -> list[tuple[str, int]]:
    """(where, lines) of every function of the package."""
    found = []
    for path in [*PACKAGE.rglob("*.py"), ROOT / "cli.py"]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno
                found.append((f"{path.name}:{node.name}", node.end_lineno - node.lineno + 1))
    return sorted(found, key=lambda pair: pair[1])


def test_functions_are_short() -> None:
    lengths = [lines for _, lines in functions()]
    assert lengths[len(lengths) // 2] <= 9
    assert lengths[int(0.9 * len(lengths))] <= 30
    assert functions()[-1][1] <= 60, functions()[-1]


def test_every_package_is_installed() -> None:
    """setup.cfg lists packages by hand, because configs/ installs as progan.configs."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    listed = set(setup["options"]["packages"].split())
    present = {"progan." + name if name else "progan" for name, path in modules().items() if path.stem == "__init__"}
    assert listed == present | {"progan.configs"}


@pytest.mark.parametrize("tool", [["ruff", "check", "."], ["ruff", "format", "--check", "."], ["mypy"]], ids=" ".join)
def test_the_tools_find_nothing(tool: list[str]) -> None:
    result = subprocess.run([sys.executable, "-m", *tool], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
