"""The layout of the package: who may import whom, no circles, nothing too long; and that these checks can fail."""

from pathlib import Path

import pytest
from helpers import floors as layout

import wavedil
from wavedil import ops

# A module imports from its own room and from floors before its own, wherever in the file and for whatever purpose the
# import stands. Modules that have no line of their own stand where the package around them does.
FLOORS = [
    ("wavedil.errors",),
    ("wavedil.checks", "wavedil.files"),
    ("wavedil.kernels",),
    ("wavedil.kernels.cpu", "wavedil.kernels.cuda"),
    ("wavedil.receptive", "wavedil.audio", "wavedil.settings"),
    ("wavedil.ops",),
    ("wavedil.parameters",),
    ("wavedil.layers",),
    ("wavedil.models",),
    ("wavedil.training", "wavedil.streaming", "wavedil.report", "wavedil.evaluation"),
    ("wavedil",),  # the names that a user sees; they load when they are first used
    ("wavedil.runs",),
    ("wavedil.cli",),
    ("wavedil.__main__",),
]
# CUDA kernels are reached through ops alone.
WITHOUT_CUDA = [room for floor in FLOORS[4:] for room in floor if "." in room and room != "wavedil.ops"]
FORBIDDEN = [
    *((room, "wavedil.kernels.cuda") for room in WITHOUT_CUDA),
    *((room, f"wavedil.ops.{family}.cuda") for room in WITHOUT_CUDA for family in ops.FAMILIES),
    ("wavedil.kernels.cpu", "wavedil.kernels.cuda"),
    ("wavedil.kernels.cuda", "wavedil.kernels.cpu"),
]
TOO_LONG = {
    "wavedil.kernels.cuda.products:_row_product": "a kernel and the device functions that it closes over",
    "wavedil.kernels.cuda.products:_row_product.kernel": "one kernel: its parts share registers",
    "wavedil.kernels.cuda.products:_column_product": "a kernel and the device functions that it closes over",
    "wavedil.kernels.cuda.products:_column_product.kernel": "one kernel: its parts share registers",
    "wavedil.ops.gated_stack.cuda_sample:_sampler": "a kernel and the device functions that it closes over",
    "wavedil.ops.gated_stack.cuda_sample:_sampler.kernel": "one kernel: its parts share registers and barriers",
}


@pytest.fixture(scope="module")
def modules():
    return layout.sources(Path(wavedil.__file__).parent)


def test_each_floor_imports_only_from_floors_below_it(modules):
    assert not layout.climbs(layout.imports(modules), FLOORS)


def test_no_modules_import_each_other_in_a_circle(modules):
    assert not layout.circles(layout.imports(modules))


def test_cuda_kernels_are_imported_by_ops_alone_and_never_beside_those_of_the_cpu(modules):
    assert not layout.forbidden(layout.imports(modules), FORBIDDEN)


def test_files_and_functions_are_short_but_for_those_that_are_named_here(modules):
    long = layout.lengths(modules)
    new = {name: lines for name, lines in long.items() if name not in TOO_LONG}
    assert not new, "shorten them, or name them in TOO_LONG with the reason"
    assert not set(TOO_LONG) - set(long), "these are short now: take them out of TOO_LONG"


# ---- the check can fail ----------------------------------------------------------------------------------------------
LONG = "def long():\n" + "    x = 1\n" * 61
BROKEN = {
    "__init__.py": "",
    "low/__init__.py": "",
    "low/a.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from house.low import b\n",
    "low/b.py": "def f():\n    from house.low.a import name\n",
    "low/up.py": "def f():\n    import house.high.c\n",
    "low/relative.py": "from ..high import c\n",
    "side/__init__.py": "from house.low import cuda\n",
    "low/cuda.py": "import house.side\n",
    "high/__init__.py": "",
    "high/c.py": 'def fine():\n    """Doc.\n' + "\n" * 80 + '    """\n' + "from house.nowhere import x\n" + LONG,
    "nowhere.py": "",
    "file.py": "x = 1\n" * 451,
}
HOUSE = [("house.low", "house.side"), ("house.high",), ("house", "house.file")]


@pytest.fixture
def broken(tmp_path):
    for name, text in BROKEN.items():
        path = tmp_path / "house" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return layout.sources(tmp_path / "house")


def test_an_import_of_a_floor_above_is_found_wherever_it_stands(broken):
    assert layout.climbs(layout.imports(broken), HOUSE) == [
        "house.low.cuda:1 imports house.side, of another room on the same floor",
        "house.low.relative:1 imports house.high.c, of a floor above",
        "house.low.up:2 imports house.high.c, of a floor above",
        "house.nowhere stands on no floor",
        "house.side:1 imports house.low.cuda, of another room on the same floor",
    ]


def test_a_circle_is_found_also_through_functions_and_type_checking(broken):
    assert layout.circles(layout.imports(broken)) == [
        "house.low.a -> house.low.b -> house.low.a",
        "house.low.cuda -> house.side -> house.low.cuda",
    ]


def test_a_forbidden_import_is_found(broken):
    pairs = [("house.side", "house.low.cuda"), ("house.low.a", "house.high")]
    assert layout.forbidden(layout.imports(broken), pairs) == ["house.side:1 must not import house.low.cuda"]


def test_long_files_and_functions_are_found_and_docstrings_do_not_count(broken):
    assert layout.lengths(broken) == {"house.high.c:long": 62, "house.file": 451}


def test_the_package_with_two_floors_exchanged_is_found(modules):
    assert layout.climbs(layout.imports(modules), FLOORS[::-1])
