"""The layer contract holds, and heavy packages stay behind their doors."""

import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import grimp
import pytest


ROOT = Path(__file__).parent.parent


def test_the_layer_contract_holds():
    """The contracts stand in pyproject.toml."""
    done = subprocess.run(
        [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "0 broken" in done.stdout


def test_the_three_packages_lie_in_one_folder():
    """Their names are generic: a stranger's package must not be taken for ours."""
    import simkit
    import solvers
    import systems

    folders = {
        Path(str(package.__file__)).parent.parent for package in (simkit, solvers, systems)
    }
    assert folders == {ROOT}


def test_importing_simkit_imports_neither_jax_nor_jax_md():
    """The face is lazy."""
    code = "import simkit, sys; print(sorted({'jax', 'jax_md', 'numpy'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", ["simkit", "simkit.molecular"])
def test_a_lazy_face_promises_no_name_of_a_module_beneath_it(name):
    """Importing such a module would put it in the place of what the face promises."""
    face = importlib.import_module(name)
    beneath = {found.name for found in pkgutil.iter_modules(face.__path__)}
    assert sorted(beneath & set(face._NAMES)) == []


@pytest.fixture(scope="module")
def imports():
    return grimp.build_graph("simkit", "solvers", "systems", include_external_packages=True)


# Who may import what. The contracts of import-linter list the rooms that may not; these
# doors hold for rooms that are still to come.
DOORS = {
    "h5py": ("simkit.store",),
    "matplotlib": ("simkit.plots",),
    "msgspec": ("simkit.config", "simkit.catalogue", "simkit.cli"),
    "click": ("simkit.cli",),
    "rich": ("simkit.cli", "simkit.progress"),
    "diffrax": ("solvers",),
    "jax_md": ("systems.molecular.jax_md_terms",),
}


@pytest.mark.parametrize("package", DOORS)
def test_heavy_packages_have_one_door(imports, package):
    found = (
        imports.find_modules_that_directly_import(package)
        if package in imports.modules
        else set()
    )
    strangers = [
        module
        for module in found
        if not any(module == door or module.startswith(f"{door}.") for door in DOORS[package])
    ]
    assert strangers == []


def test_deep_modules_are_imported_never_the_faces(imports):
    """`catalogue` walks through the package `systems` to find what is in it."""
    allowed = {
        "simkit": set(),
        "solvers": {"simkit"},
        "systems": {"simkit", "simkit.catalogue"},
    }
    for face, importers in allowed.items():
        assert set(imports.find_modules_that_directly_import(face)) <= importers


def test_systems_are_reached_from_solvers_through_their_base(imports):
    found = {
        imported
        for module in imports.modules
        if module.startswith("solvers.") and not module.startswith("solvers.molecular")
        for imported in imports.find_modules_directly_imported_by(module)
        if imported.startswith("systems")
    }
    assert found == {"systems.base"}
