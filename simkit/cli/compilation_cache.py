"""jax's cache of compiled programs, kept between runs of the command line."""

import hashlib
import os
import platform
from pathlib import Path


def cache_folder() -> Path | None:
    """Where compiled programs are kept; `None` where the cache is switched off.

    It is `simkit/xla` in `$XDG_CACHE_HOME` or `~/.cache`, and in it a folder for the kind
    of processor: jax would load a program that was compiled for another one, which a
    home folder on a cluster makes easy, and die of an illegal instruction.
    `SIMKIT_CACHE=off` in the environment switches the cache off.
    """
    if os.environ.get("SIMKIT_CACHE", "").lower() in ("off", "0", "no", "false"):
        return None
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The standard says that a relative path is to be ignored.
    if not os.path.isabs(base):
        try:
            base = Path.home() / ".cache"
        except RuntimeError:  # no home folder
            return None
    return Path(base) / "simkit" / "xla" / _processor()


def use_compilation_cache() -> Path | None:
    """Make jax keep every compiled program; the folder, or `None` if there is none.

    A folder that cannot be written only costs the time to compile again. It must be
    called before equinox is imported.
    """
    # By default diffrax checks the order of saved times by calls back to Python, and jax
    # keeps no program with such a call. The case was checked before; were it to happen
    # all the same, the states would be NaN.
    os.environ.setdefault("EQX_ON_ERROR", "nan")
    folder = cache_folder()
    if folder is None or not _is_writable(folder):
        return None
    # XLA compares tuning hints of its own with the features of the processor and warns of
    # a mismatch, at length, for every program that it loads.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # Run-time checks of equinox call back into Python, and jax keeps no program that
    # does. Failures are values here and looked at outside, so NaN serves as well.
    os.environ.setdefault("EQX_ON_ERROR", "nan")
    import jax

    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
    return folder


def _processor() -> str:
    """A short name for the kind of processor, the same for equal instruction sets."""
    features = ""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            for line in file:
                if line.startswith(("flags", "Features", "model name")):
                    features += line
                elif not line.strip():
                    break  # the other cores are the same
    except OSError:
        features = platform.processor()
    digest = hashlib.sha256(features.encode()).hexdigest()
    return f"{platform.machine()}-{digest[:12]}"


def _is_writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError:
        return False
    return os.access(folder, os.W_OK | os.X_OK)
