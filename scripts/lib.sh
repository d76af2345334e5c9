# Shared by the scripts in this folder: locating the repository, installing Debian packages, building. Source it.
# shellcheck shell=bash disable=SC2034  # the names set here are read by the scripts that source this file
set -euo pipefail

repo=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)

# What a build needs, what the tests need on top, what the Python package needs, and what the checks of .ci/run need on
# top of all.
build_packages=(g++ cmake ninja-build nlohmann-json3-dev libcli11-dev libfmt-dev libicu-dev libboost-dev
  prometheus-cpp-dev libyaml-cpp-dev libssl-dev)
test_packages=(libgtest-dev libgmock-dev libboost-context-dev)
python_packages=(python3-dev python3-venv python3-setuptools python3-wheel python3-numpy pybind11-dev)
check_packages=(clang-14 clang-format-14 clang-tidy-14 libclang-rt-14-dev git python3 ccache)

step() { printf '==> %s\n' "$*"; }

die() {
  printf '%s: %s\n' "$(basename -- "$0")" "$*" >&2
  exit 1
}

is_installed() { dpkg-query -W -f='${db:Status-Status}\n' "$1" 2>/dev/null | grep -qx installed; }

# install_packages NAME...: installs what is missing and leaves apt alone when nothing is.
install_packages() {
  if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
    step "This is not a Debian system: assuming that the equivalents of these packages are installed: $*"
    return
  fi
  local name missing=() as_root=()
  for name in "$@"; do
    is_installed "$name" || missing+=("$name")
  done
  if ((${#missing[@]} == 0)); then
    step "Debian packages: all $# are installed"
    return
  fi
  if ((EUID != 0)); then
    command -v sudo >/dev/null ||
      die "these Debian packages are missing: ${missing[*]}. You are not root and there is no sudo. As root, run: apt-get update && apt-get install ${missing[*]}"
    as_root=(sudo)
  fi
  step "Debian packages: installing ${missing[*]}"
  local apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=300)
  "${apt[@]}" update || die "apt-get update failed; the packages needed are: ${missing[*]}"
  "${apt[@]}" install -y --no-install-recommends "${missing[@]}" ||
    die "apt-get could not install: ${missing[*]}"
}

# Compilers at once: one per processor, and no more than one per GiB of memory that is free.
build_jobs() {
  local cpus gib
  cpus=$(nproc)
  gib=$(awk '/^MemAvailable:/ { print int($2 / 1048576) }' /proc/meminfo)
  ((gib < 1)) && gib=1
  printf '%s\n' $((cpus < gib ? cpus : gib))
}

# configure PRESET [-DNAME=VALUE...]: prints CMake's output only if it fails.
configure() {
  local preset=$1 output
  shift
  local made=$repo/build
  while [[ ! -e $made ]]; do made=$(dirname -- "$made"); done
  [[ -w $made ]] || die "cannot write to $made; if an earlier run as root made it, remove it or run this as root"
  step "Configuring build/$preset"
  output=$(cmake -S "$repo" --preset "$preset" "$@" 2>&1) || {
    printf '%s\n' "$output" >&2
    die "cmake could not configure build/$preset"
  }
}

# build PRESET [TARGET...]
build() {
  local preset=$1
  shift
  step "Building build/$preset: ${*:-everything}"
  # With a base directory, ccache finds objects that another checkout of the same sources compiled; their debug information
  # may name that checkout.
  CCACHE_BASEDIR=$repo CCACHE_NOHASHDIR=1 cmake --build "$repo/build/$preset" --parallel "$(build_jobs)" ${1:+--target "$@"}
}

# Warnings are errors where CI=true, as continuous integration services set it.
werror() { [[ ${CI:-} == true ]] && printf ON || printf OFF; }

# find_nvcc: prints the CUDA compiler that CMake would take; fails if there is none.
find_nvcc() { command -v "${CUDACXX:-nvcc}"; }

# run_ctest PRESET [CTEST ARGUMENT...]: runs the tests, then sets tests_passed and tests_failed.
run_ctest() {
  local preset=$1 log status=0 summary
  shift
  log=$repo/build/$preset/ctest.log
  ctest --test-dir "$repo/build/$preset" --output-on-failure --no-tests=error --parallel "$(build_jobs)" "$@" |
    tee "$log" || status=$?
  summary=$(grep -E '^[0-9]+% tests passed, [0-9]+ tests? failed out of [0-9]+$' "$log" | tail -n 1) ||
    die "ctest did not print a summary; see build/$preset/ctest.log"
  read -r tests_passed tests_failed < <(awk '{ print $NF - $4, $4 }' <<<"$summary")
  return "$status"
}
