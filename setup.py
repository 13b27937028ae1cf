"""Builds the one compiled module, `fastreg._engine`; everything else stands in pyproject.toml."""

import os
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from glob import glob
from pathlib import Path

import numpy
from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

# No -march and no -ffast-math: the ISA is chosen at import, and -ffast-math would turn subnormals
# off for the whole process when the library loads. -ffp-contract=off: where a product and a sum
# fuse is written in the code, so that every compiler gives the same bits.
FLAGS = [
    "-std=c11",
    "-O3",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fopenmp-simd",
    "-ffp-contract=off",
    "-fvisibility=hidden",
    "-pthread",
    "-Wall",
    "-Wextra",
    # What Cython generates trips over these two; `make lint` compiles src_c with neither.
    "-Wno-unused-parameter",
    "-Wno-missing-field-initializers",
]


class BuildEngine(build_ext):
    """build_ext that asks the compiler which flags it takes and compiles files side by side."""

    def build_extensions(self):
        flags = [flag for flag in FLAGS if self.takes(flag)]
        for extension in self.extensions:
            extension.extra_compile_args = flags
            extension.extra_link_args = [flag for flag in flags if flag == "-pthread"]
        compile_files = self.compiler.compile

        def compile_side_by_side(sources, **options):
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                done = pool.map(lambda source: compile_files([source], **options), sources)
                return [obj for objects in done for obj in objects]

        self.compiler.compile = compile_side_by_side
        super().build_extensions()

    def takes(self, flag):
        """Whether the compiler takes `flag` without as much as a warning."""
        if self.compiler.compiler_type == "msvc":
            return False
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder, "flag.c")
            source.write_text("int main(void) { return 0; }\n")
            try:
                self.compiler.compile([str(source)], folder, extra_postargs=["-Werror", flag])
            except CompileError:
                return False
        return True


engine = Extension(
    "fastreg._engine",
    sources=["fastreg/_engine.pyx", *sorted(glob("src_c/**/*.c", recursive=True))],
    depends=sorted(glob("src_c/**/*.h", recursive=True) + glob("src_c/**/*.inc", recursive=True)),
    include_dirs=["src_c", numpy.get_include()],
    define_macros=[("NPY_NO_DEPRECATED_API", "NPY_2_0_API_VERSION")],
    libraries=[] if sys.platform == "win32" else ["m"],
)

setup(
    ext_modules=cythonize(
        [engine],
        build_dir="build",
        compiler_directives={
            "language_level": 3,
            "boundscheck": False,
            "wraparound": False,
            "initializedcheck": False,
        },
    ),
    cmdclass={"build_ext": BuildEngine},
)
