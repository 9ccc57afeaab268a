"""The layer contract holds, and heavy packages stay behind their doors."""

import subprocess
import sys
from pathlib import Path


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
