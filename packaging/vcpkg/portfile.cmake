# An overlay port of the local tree:  DSV4_SOURCE=<checkout> vcpkg install dsv4 --overlay-ports=packaging/vcpkg
# Without the variable it is the checkout that this file lies in.
set(SOURCE_PATH "$ENV{DSV4_SOURCE}")
if(NOT SOURCE_PATH)
  get_filename_component(SOURCE_PATH "${CMAKE_CURRENT_LIST_DIR}/../.." ABSOLUTE)
endif()

if("compiled" IN_LIST FEATURES)
  set(compiled ON)
else()
  set(compiled OFF)
  set(VCPKG_BUILD_TYPE release)  # headers are the same for both
endif()

vcpkg_cmake_configure(
  SOURCE_PATH "${SOURCE_PATH}"
  OPTIONS
    -DDSV4_COMPILED=${compiled}
    -DDSV4_BUILD_TESTS=OFF
    -DDSV4_BUILD_EXAMPLES=OFF
    -DDSV4_BUILD_BENCH=OFF
    -DDSV4_PYTHON=OFF
    -DDSV4_CUDA=OFF
    -DDSV4_FETCH_DEPS=OFF
    -DDSV4_INSTALL=ON)
vcpkg_cmake_install()
vcpkg_cmake_config_fixup(PACKAGE_NAME dsv4 CONFIG_PATH lib/cmake/dsv4)
vcpkg_fixup_pkgconfig()

file(REMOVE_RECURSE "${CURRENT_PACKAGES_DIR}/debug/include")
vcpkg_install_copyright(FILE_LIST "${SOURCE_PATH}/LICENSE")
