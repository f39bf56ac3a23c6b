"""Hooks the native build into setuptools; everything declarative is in pyproject.toml."""

import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.build_ext import build_ext

sys.path.insert(0, str(Path(__file__).resolve().parent))

import build_ext as native


class BuildNative(build_ext):
    """Builds the Go archive before the cffi module links it, and the test tailnet's program."""

    # typing.override is newer than 3.11, and a build environment has nothing else.
    def run(self) -> None:  # pyright: ignore[reportImplicitOverride]
        """Build in order: archive, program, module."""
        native.build_archive()
        base = Path() if self.inplace else Path(self.build_lib)
        native.build_testnet(base / native.TESTNET)
        super().run()


setup(
    cffi_modules=["build_ext.py:ffibuilder"],
    cmdclass={"build_ext": BuildNative},
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
