#!/usr/bin/env python3
"""The vcpkg port's own portfile.cmake, run with stand-ins for the functions of vcpkg that it calls, and the consumer's programs
against what it installs.  It shows that the port's steps configure, install and relocate this tree; vcpkg's own checks of a port,
and its builds of the dependencies, need vcpkg (packaging/README.md).

  packaging/check_vcpkg.py --scratch /tmp/vcpkg"""
import argparse
import pathlib
import shutil
import subprocess
import sys

arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
arguments.add_argument("--scratch", type=pathlib.Path, required=True)
options = arguments.parse_args()
root, scratch = pathlib.Path(__file__).resolve().parents[1], options.scratch.resolve()
shutil.rmtree(scratch, ignore_errors=True)
packages, trees = scratch / "packages", scratch / "buildtrees"
trees.mkdir(parents=True)

STANDINS = f"""
cmake_minimum_required(VERSION 3.25)
set(CURRENT_PACKAGES_DIR "{packages}")
set(FEATURES core)
function(must)
  execute_process(COMMAND ${{ARGN}} COMMAND_ERROR_IS_FATAL ANY OUTPUT_QUIET)
endfunction()
function(vcpkg_cmake_configure)
  cmake_parse_arguments(PARSE_ARGV 0 arg "" "SOURCE_PATH" "OPTIONS")
  must(${{CMAKE_COMMAND}} -G Ninja -S "${{arg_SOURCE_PATH}}" -B "{trees}" -DCMAKE_BUILD_TYPE=Release
       "-DCMAKE_INSTALL_PREFIX=${{CURRENT_PACKAGES_DIR}}" ${{arg_OPTIONS}})
endfunction()
function(vcpkg_cmake_install)
  must(${{CMAKE_COMMAND}} --build "{trees}" --target install)
endfunction()
# Moves the package config to share/ and lets its files find the prefix from there.
function(vcpkg_cmake_config_fixup)
  cmake_parse_arguments(PARSE_ARGV 0 arg "" "PACKAGE_NAME;CONFIG_PATH" "")
  file(MAKE_DIRECTORY "${{CURRENT_PACKAGES_DIR}}/share")
  file(RENAME "${{CURRENT_PACKAGES_DIR}}/${{arg_CONFIG_PATH}}" "${{CURRENT_PACKAGES_DIR}}/share/${{arg_PACKAGE_NAME}}")
  file(GLOB files "${{CURRENT_PACKAGES_DIR}}/share/${{arg_PACKAGE_NAME}}/*.cmake")
  set(one [[get_filename_component(_IMPORT_PREFIX "${{_IMPORT_PREFIX}}" PATH)
]])
  foreach(file IN LISTS files)
    file(READ "${{file}}" text)
    string(REPLACE "${{one}}${{one}}${{one}}" "${{one}}${{one}}" text "${{text}}")  # share/dsv4 is one folder less than lib/cmake/dsv4
    file(WRITE "${{file}}" "${{text}}")
  endforeach()
endfunction()
function(vcpkg_fixup_pkgconfig)
  if(NOT EXISTS "${{CURRENT_PACKAGES_DIR}}/lib/pkgconfig/dsv4.pc")
    message(FATAL_ERROR "no dsv4.pc was installed")
  endif()
endfunction()
function(vcpkg_install_copyright)
  cmake_parse_arguments(PARSE_ARGV 0 arg "" "" "FILE_LIST")
  file(COPY_FILE "${{arg_FILE_LIST}}" "${{CURRENT_PACKAGES_DIR}}/share/dsv4/copyright")
endfunction()
include("{root}/packaging/vcpkg/portfile.cmake")
"""


def run(*command):
    print("+", *command, flush=True)
    if subprocess.run([str(c) for c in command]).returncode:
        sys.exit("vcpkg port: failed")


(scratch / "port.cmake").write_text(STANDINS)
run("cmake", "-P", scratch / "port.cmake")
moved = scratch / "installed"
packages.rename(moved)
build = scratch / "consumer"
run("cmake", "-G", "Ninja", "-S", root / "reference_tests/consumer", "-B", build, "-DDSV4_FROM=spec_package",
    f"-Ddsv4_DIR={moved / 'share/dsv4'}")
run("cmake", "--build", build)
run(build / "use_spec")
print("vcpkg port: its steps configure, install and relocate the tree, and a consumer finds it")
