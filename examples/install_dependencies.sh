#!/usr/bin/env bash
# Installs what the build needs and this machine lacks (Debian, Ubuntu).  Does nothing where nothing is missing.
# Run as root, or as a user who may sudo.  On other systems CMake names what it does not find, or downloads it.
set -euo pipefail

packages=(
  g++ cmake ninja-build ccache python3   # tools
  python3-pip                            # clang-format of one version, for lint.format; nanobind, numpy, pytest, mypy
  python3-dev                            # examples/python    the Python module
  libtbb-dev                             # threads            oneTBB
  libeigen3-dev                          # dense products     Eigen 3.4
  libzstd-dev zstd                       # golden data        zstd; the program: docs/read_bundle.py and tests
  python3-numpy                          # docs/recipe.py     tests of weights from a seed
  nlohmann-json3-dev                     # config.json
  libssl-dev                             # golden bundles     SHA-256 (libcrypto)
  libboost-dev                           # dsv4 serve         Boost.Beast, headers
  libboost-context-dev                   # cuda/host          fibers, tests of CUDA kernels
  libpcre2-dev pkg-config                # tokenizer          PCRE2
  libcli11-dev                           # examples/dsv4      command line
  catch2                                 # reference_tests    version 2 or 3
  libbenchmark-dev                       # bench              Google Benchmark
  libxtensor-dev                         # adapt/xtensor.hpp  tests only
)

if ! command -v dpkg-query >/dev/null; then
  echo "install_dependencies: not a Debian or Ubuntu; needed are, by their names there: ${packages[*]}"
  exit 0
fi

missing=()
for package in "${packages[@]}"; do
  status=$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null || true)
  [[ $status == installed ]] && continue
  # A tool that came another way (a newer cmake from pip, say) is good too.
  case $package in
    g++ | cmake | ccache | python3) command -v "$package" >/dev/null && continue ;;
    python3-pip) python3 -m pip --version >/dev/null 2>&1 && continue ;;
    ninja-build) command -v ninja >/dev/null && continue ;;
  esac
  missing+=("$package")
done
if [[ ${#missing[@]} -eq 0 ]]; then
  exit 0
fi

echo "install_dependencies: ${missing[*]}"
sudo=()
if [[ $(id -u) -ne 0 ]]; then
  if ! command -v sudo >/dev/null; then
    echo "install_dependencies: neither root nor sudo; run as root: apt-get install ${missing[*]}" >&2
    exit 1
  fi
  sudo=(sudo)
fi
export DEBIAN_FRONTEND=noninteractive
"${sudo[@]}" apt-get -qq update </dev/null
"${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "${missing[@]}" </dev/null >/dev/null
