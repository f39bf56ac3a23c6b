"""Hooks the native build into setuptools; everything declarative is in pyproject.toml."""

import shutil
import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

sys.path.insert(0, str(Path(__file__).resolve().parent))

import build_ext as native


class BuildNative(build_ext):
    """Builds the Go archive before the cffi module links it, and the test tailnet's program."""

    # typing.override is newer than 3.11, and a build environment has nothing else.
    def run(self) -> None:  # pyright: ignore[reportImplicitOverride]
        """Build in order: archive, program, module; take what the tree has when it is current."""
        base = Path() if self.inplace else Path(self.build_lib)
        if ready := native.made_elsewhere():
            shutil.copytree(ready, base, dirs_exist_ok=True)
            return
        if native.is_current() and not self.inplace:
            for made in (native.MODULE, native.ROOT / native.TESTNET):
                target = base / made.relative_to(native.ROOT)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(made, target)
            return
        native.build_archive()
        native.build_testnet(base / native.TESTNET)
        super().run()


class BuildPages(build_py):
    """Packs the documentation, which agents read as resources (`cmesh/interfaces/pages.py`)."""

    def run(self) -> None:  # pyright: ignore[reportImplicitOverride]
        """Copy the pages beside the modules; a tree that is run in place has them in `docs/`."""
        super().run()
        if self.editable_mode:
            return
        target = Path(self.build_lib) / "cmesh" / "pages"
        target.mkdir(parents=True, exist_ok=True)
        for page in (*Path("docs").glob("*.md"), Path("docs/llms.txt")):
            shutil.copy2(page, target)


setup(
    cffi_modules=["build_ext.py:ffibuilder"],
    cmdclass={"build_ext": BuildNative, "build_py": BuildPages},
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
