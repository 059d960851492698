"""Builds the two pieces of C: the spawn extension (abi3) and the static init. All else is in pyproject.toml."""

import subprocess
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext


class BuildNative(build_ext):
    """Compiles init.c to a static program beside its source's package, after the extension."""

    def run(self) -> None:
        super().run()
        target = Path("runtime/sandbox/init")
        if not self.inplace:
            target = Path(self.build_lib) / target
        target.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            ["cc", "-O2", "-Wall", "-Wextra", "-static", "-s", "-o", str(target), "runtime/sandbox/init.c"], check=True
        )


setup(
    ext_modules=[
        Extension(
            "runtime.fork._spawn",
            sources=["runtime/fork/_spawn.c"],
            extra_compile_args=["-O2", "-Wall", "-Wextra", "-Werror=implicit-function-declaration"],
            py_limited_api=True,
        )
    ],
    cmdclass={"build_ext": BuildNative},
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
