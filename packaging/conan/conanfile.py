# SPDX-License-Identifier: MIT
"""A conan 2 recipe of the local tree.

  conan create packaging/conan --build=missing                       header-only
  conan create packaging/conan --build=missing -o 'dsv4/*:compiled=True'
  ... -o 'dsv4/*:system=True'          the dependencies of the system (examples/install_dependencies.sh), not conan's
"""
import os
import re

from conan import ConanFile
from conan.tools.build import check_min_cppstd
from conan.tools.cmake import CMake, CMakeDeps, CMakeToolchain, cmake_layout
from conan.tools.files import copy, load


class Dsv4(ConanFile):
    name = "dsv4"
    description = "DeepSeek-V4, readable and exact: a header-only C++20 reference"
    license = "MIT"
    package_type = "static-library"
    settings = "os", "arch", "compiler", "build_type"
    options = {"compiled": [True, False], "system": [True, False], "march": ["ANY"]}
    default_options = {"compiled": False, "system": False, "march": "x86-64-v3"}

    @property
    def _source(self):
        return os.path.join(self.recipe_folder, "..", "..")

    def set_version(self):
        text = load(self, os.path.join(self._source, "CMakeLists.txt"))
        self.version = re.search(r"project\(dsv4 VERSION ([0-9.]+)", text).group(1)

    def export_sources(self):
        for pattern in ("CMakeLists.txt", "LICENSE", "include/*"):
            copy(self, pattern, self._source, self.export_sources_folder)

    def requirements(self):
        if self.options.system:
            return
        for reference in ("eigen/3.4.0", "nlohmann_json/3.11.3", "onetbb/2021.12.0", "zstd/1.5.6", "pcre2/10.42",
                          "openssl/[>=1.1 <4]"):
            self.requires(reference, transitive_headers=True, transitive_libs=True)

    def validate(self):
        check_min_cppstd(self, 20)

    def package_id(self):
        if not self.info.options.compiled:  # headers are the same for all
            self.info.clear()

    def layout(self):
        cmake_layout(self)

    def generate(self):
        if not self.options.system:
            CMakeDeps(self).generate()
        tc = CMakeToolchain(self)
        tc.cache_variables.update({
            "DSV4_COMPILED": bool(self.options.compiled), "DSV4_MARCH": str(self.options.march), "DSV4_BUILD_TESTS": False,
            "DSV4_BUILD_EXAMPLES": False, "DSV4_BUILD_BENCH": False, "DSV4_PYTHON": False, "DSV4_CUDA": "OFF",
            "DSV4_INSTALL": True, "DSV4_FETCH_DEPS": False})
        tc.generate()

    def build(self):
        cmake = CMake(self)
        cmake.configure()
        cmake.build()

    def package(self):
        copy(self, "LICENSE", self.source_folder, os.path.join(self.package_folder, "licenses"))
        CMake(self).install()

    def package_info(self):
        # The library's own package config says what the targets are.
        self.cpp_info.set_property("cmake_find_mode", "none")
        self.cpp_info.builddirs = [os.path.join("lib", "cmake", "dsv4")]
