# What the build needs of the machine, installed only where it is missing. Sourced by tools/up and
# tools/test, which have `set -euo pipefail` on. Owns no build step.

# Debian package for each missing thing, collected by need().
missing=()

say() { printf '== %s\n' "$*" >&2; }
refuse() { printf 'error: %s\n' "$*" >&2; exit 1; }

# need PACKAGE COMMAND...: PACKAGE is missing unless COMMAND succeeds.
need() {
  local package=$1
  shift
  "$@" >/dev/null 2>&1 || missing+=("$package")
}

need_build() {
  command -v cargo >/dev/null || [ ! -x "$HOME/.cargo/bin/cargo" ] || PATH="$HOME/.cargo/bin:$PATH"
  command -v cargo >/dev/null ||
    refuse 'cargo is not on the PATH; install Rust with rustup (https://rustup.rs), then run this
       again. The version is in rust-toolchain.toml, and rustup takes it from there.'
  need gcc command -v cc
  need libc6-dev test -e /usr/include/stdio.h
  need make command -v make
  need git command -v git
  need pkg-config command -v pkg-config
  need libhwloc-dev pkg-config --atleast-version=2.8 hwloc
  need libudev-dev pkg-config --exists libudev
}

need_clients() {
  need redis-tools command -v redis-cli
  need redis-tools command -v redis-benchmark
  need redis-server command -v redis-server
  need python3 command -v python3
  need python3-venv python3 -c 'import ensurepip, venv'
}

# What tools/guests/build needs; only called when there is something to build.
need_guests() {
  command -v cargo >/dev/null || [ ! -x "$HOME/.cargo/bin/cargo" ] || PATH="$HOME/.cargo/bin:$PATH"
  need clang-19 command -v clang-19
  need lld-19 test -x /usr/lib/llvm-19/bin/wasm-ld
  need llvm-19 command -v llvm-strip-19
  need libclang-rt-19-dev-wasm32 test -d /usr/lib/llvm-19/lib/clang/19/lib/wasi
  need wasi-libc test -e /usr/lib/wasm32-wasi/crt1-reactor.o
  need dpkg-dev command -v dpkg-source
  need debian-archive-keyring test -e /usr/share/keyrings/debian-archive-keyring.gpg
  need make command -v make
  need python3.11 python3.11 -c 'import compileall, zipfile'
}

# Installs what need() found missing, as root or through sudo.
install_missing() {
  [ ${#missing[@]} -gt 0 ] || return 0
  local packages as_root=()
  mapfile -t packages < <(printf '%s\n' "${missing[@]}" | sort -u)
  command -v apt-get >/dev/null ||
    refuse "missing: ${packages[*]} (Debian's names); install them, then run this again"
  if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null ||
      refuse "missing: ${packages[*]}; as root: apt-get install ${packages[*]}"
    as_root=(sudo)
  fi
  say "installing ${packages[*]}"
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get update -q
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get install -q -y --no-install-recommends "${packages[@]}"
}
