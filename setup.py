"""Builds the wheel: metadata is in pyproject.toml, the extension is a target of the CMake build.

FAIRWAY_BUILD_DIR names the CMake build folder; one that holds the library, such as build/release,
saves its compilation. By default it is a folder of its own, because what pip hands to CMake, such
as pybind11 in a temporary folder, must not stay behind in the one that everything else uses.
"""

import os
import pathlib
import re
import subprocess
import sys

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = pathlib.Path(__file__).resolve().parent
OUTPUTS = ROOT / "build" / "python"  # everything that setuptools writes


def version():
    text = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    return re.search(r"project\(fairway VERSION ([\d.]+)", text).group(1)


def pybind11_options():
    """Where pybind11 is, if it is a Python package; CMake finds Debian's pybind11-dev."""
    try:
        import pybind11
    except ImportError:
        return []
    return [f"-Dpybind11_DIR={pybind11.get_cmake_dir()}"]


class CMakeBuild(build_ext):
    """Configures, builds the target _fairway and puts the module where the wheel is collected."""

    def build_extension(self, ext):
        build = pathlib.Path(os.environ.get("FAIRWAY_BUILD_DIR", OUTPUTS / "cmake"))
        build = build.resolve()
        target = pathlib.Path(self.get_ext_fullpath(ext.name)).resolve()
        configure = ["cmake", "-S", str(ROOT), "-B", str(build), "-DCMAKE_BUILD_TYPE=Release"]
        configure += ["-DFAIRWAY_PYTHON=ON"]
        # Not the environment's copy of the interpreter, which may be gone at the next build.
        python = getattr(sys, "_base_executable", sys.executable)
        configure += [f"-DPython3_EXECUTABLE={python}", *pybind11_options()]
        if not (build / "CMakeCache.txt").exists():
            configure += ["-G", "Ninja", "-DFAIRWAY_TESTS=OFF"]
        subprocess.run(configure, check=True, stdout=subprocess.DEVNULL)
        jobs = os.environ.get("CMAKE_BUILD_PARALLEL_LEVEL", str(os.cpu_count() or 1))
        environment = {"CCACHE_BASEDIR": str(ROOT), **os.environ}
        command = ["cmake", "--build", str(build), "--target", "_fairway", "--parallel", jobs]
        subprocess.run(command, check=True, env=environment)
        target.parent.mkdir(parents=True, exist_ok=True)
        self.copy_file(str(build / "python" / target.name), str(target))


OUTPUTS.mkdir(parents=True, exist_ok=True)
setup(
    version=version(),
    ext_modules=[Extension("fairway._fairway", sources=[])],
    cmdclass={"build_ext": CMakeBuild},
    options={
        "build": {"build_base": str(OUTPUTS / "setuptools")},
        "egg_info": {"egg_base": str(OUTPUTS)},
    },
)
