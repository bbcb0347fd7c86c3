# CPython and the C libraries in it, from their sources: what takes minutes to build and seldom
# changes. Fewer pages for each turn: objects of the template may be immortal (guest.c makes them
# so), the method cache fits into two pages, and small objects have half as many size classes.
# Sourced by tools/guests/build, which keeps the result under the hash of this file and sqlite.c.
# Needs `work`, `guests`, `clang`, `jobs`, `fetch_crates`.

# Debian's revision of the package may be any: security updates replace the old one on the mirrors.
python_package=python3.11
debian_suites='bookworm bookworm-updates'
debian_mirror=${HERONRY_DEBIAN_MIRROR:-http://deb.debian.org/debian}
python_crates='[dependencies.libsqlite3-sys]
version = "=0.30.1"
default-features = false
features = ["bundled"]
[dependencies.libz-sys]
version = "=1.1.31"
default-features = false
features = ["static"]'

# Debian's source package, through lists of its own: the machine's apt settings stay as they are.
fetch_python() {
  mkdir -p "$work/apt/lists/partial" "$work/apt/cache/archives/partial" "$work/apt/parts"
  local keyring=/usr/share/keyrings/debian-archive-keyring.gpg suite
  for suite in $debian_suites; do
    printf 'deb-src [signed-by=%s] %s %s main\n' "$keyring" "$debian_mirror" "$suite"
  done >"$work/apt/sources.list"
  local options=(-q -o "Dir::Etc::sourcelist=$work/apt/sources.list"
    -o "Dir::Etc::sourceparts=$work/apt/parts" -o "Dir::State::Lists=$work/apt/lists"
    -o "Dir::Cache=$work/apt/cache" -o "APT::Sandbox::User=$(id -un)")
  cd "$work/apt"
  apt-get "${options[@]}" update
  apt-get "${options[@]}" source --download-only "$python_package"
  dpkg-source --no-check -x ./*.dsc "$work/python"
}

# edit FILE COUNT FROM TO: replaces every line that is FROM, of which there must be COUNT.
edit() {
  local found
  found=$(grep -cxF -- "$3" "$1") || true
  [ "$found" = "$2" ] || { echo "$1 has $found lines '$3', not $2"; return 1; }
  FROM=$3 TO=$4 awk '$0 == ENVIRON["FROM"] { $0 = ENVIRON["TO"] } { print }' "$1" >"$1.edited"
  mv "$1.edited" "$1"
}

# An object with this many references or more has them for ever: counting them writes nothing. The
# count shifted left by two bits, as the garbage collector keeps it, fits into 32 bits.
# A frozen instruction counts no misses of what it is specialised for, so it stays as it is.
# heronry_freeze_interned() lets the table of interned strings stay as it is: what is interned later
# goes into a second one, asked when the first one has no such string. Its strings must be immortal.
edit_python() {
  cd "$work/python"
  local mortal='op->ob_refcnt < HERONRY_IMMORTAL'
  edit Include/object.h 1 'static inline void Py_INCREF(PyObject *op)' \
    $'#define HERONRY_IMMORTAL 0x20000000\nstatic inline void Py_INCREF(PyObject *op)'
  edit Include/object.h 1 '    op->ob_refcnt++;' "    if ($mortal) op->ob_refcnt++;"
  edit Include/object.h 1 '    if (--op->ob_refcnt == 0) {' \
    "    if ($mortal && --op->ob_refcnt == 0) {"
  edit Include/internal/pycore_object.h 1 '    if (--op->ob_refcnt != 0) {' \
    '    if (op->ob_refcnt >= HERONRY_IMMORTAL || --op->ob_refcnt != 0) {'
  edit Include/internal/pycore_object.h 1 '    op->ob_refcnt--;' "    if ($mortal) op->ob_refcnt--;"
  edit Python/ceval.c 2 '        if (--op->ob_refcnt == 0) { \' \
    "        if ($mortal && --op->ob_refcnt == 0) { \\"
  edit Include/internal/pycore_typeobject.h 1 '#define MCACHE_SIZE_EXP 12' \
    '#define MCACHE_SIZE_EXP 9'
  edit Objects/obmalloc.c 1 '#define ALIGNMENT               8               /* must be 2^N */' \
    '#define ALIGNMENT               16'
  edit Objects/obmalloc.c 1 '#define ALIGNMENT_SHIFT         3' '#define ALIGNMENT_SHIFT         4'
  edit Include/internal/pycore_code.h 1 'extern uint8_t _PyOpcode_Adaptive[256];' \
    $'#define HERONRY_FROZEN 0xffff\nextern uint8_t _PyOpcode_Adaptive[256];'
  edit Python/ceval.c 1 '        *counter -= 1;' \
    '        if (*counter != HERONRY_FROZEN) *counter -= 1;'
  edit Objects/unicodeobject.c 1 'static PyObject *interned = NULL;' \
    'static PyObject *interned = NULL, *interned_frozen = NULL;
PyObject *heronry_freeze_interned(void) {
    if (interned_frozen == NULL) {
        interned_frozen = interned;
        interned = NULL;
    } else if (interned != NULL) {
        if (PyDict_Update(interned_frozen, interned) < 0) return NULL;
        PyDict_Clear(interned);
    }
    return interned_frozen;
}'
  edit Objects/unicodeobject.c 1 '    PyObject *t = PyDict_SetDefault(interned, s, s);' \
    '    PyObject *t = interned_frozen == NULL
        ? NULL : PyDict_GetItemWithError(interned_frozen, s);
    if (t == NULL) t = PyDict_SetDefault(interned, s, s);'
}

build_libraries() {
  fetch_crates "$python_crates"
  mkdir "$work/libraries"
  cd "$work/libraries"
  "${clang[@]}" -O2 -c "$work/crates/vendor/libsqlite3-sys/sqlite3/sqlite3.c" -o sqlite3.o \
    -DSQLITE_OS_OTHER=1 -DSQLITE_THREADSAFE=0 -DSQLITE_OMIT_WAL -DSQLITE_OMIT_LOAD_EXTENSION \
    -DSQLITE_TEMP_STORE=3 -DSQLITE_MAX_MMAP_SIZE=0 -DSQLITE_ENABLE_FTS5 \
    -DSQLITE_ENABLE_MATH_FUNCTIONS -DSQLITE_USE_URI=1
  "${clang[@]}" -O2 -Wall -I"$work/crates/vendor/libsqlite3-sys/sqlite3" \
    -c "$guests/python/sqlite.c" -o sqlite_os.o
  llvm-ar-19 rcs libsqlite3.a sqlite3.o sqlite_os.o
  local name
  for name in adler32 compress crc32 deflate inffast inflate inftrees trees uncompr zutil; do
    "${clang[@]}" -O2 -c "$work/crates/vendor/libz-sys/src/zlib/$name.c" -o "$name.o"
  done
  llvm-ar-19 rcs libz.a adler32.o compress.o crc32.o deflate.o inffast.o inflate.o inftrees.o \
    trees.o uncompr.o zutil.o
}

# pymalloc is off by default for WASI; on, objects lie closer together: a turn writes fewer pages.
configure_python() {
  mkdir "$work/python-build"
  cd "$work/python-build"
  local none=() name
  for name in _socket select grp pwd _xxsubinterpreters syslog resource xxlimited xxlimited_35; do
    none+=("py_cv_module_$name=n/a")
  done
  local libraries=$work/libraries vendor=$work/crates/vendor
  CC="${clang[*]}" CPP="${clang[*]} -E" AR=llvm-ar-19 RANLIB=llvm-ranlib-19 PKG_CONFIG=/bin/false \
    CFLAGS="-g0 -fno-strict-aliasing -Wno-int-conversion -Wno-implicit-function-declaration \
-D_WASI_EMULATED_SIGNAL -D_WASI_EMULATED_GETPID -D_WASI_EMULATED_PROCESS_CLOCKS" \
    ZLIB_CFLAGS="-I$vendor/libz-sys/src/zlib" ZLIB_LIBS="-L$libraries -lz" \
    LIBSQLITE3_CFLAGS="-I$vendor/libsqlite3-sys/sqlite3" \
    LIBSQLITE3_LIBS="-L$libraries -lsqlite3" \
    CONFIG_SITE="$work/python/Tools/wasm/config.site-wasm32-wasi" \
    "$work/python/configure" --host=wasm32-unknown-wasi --build="$(uname -m)-pc-linux-gnu" \
    --with-build-python="$(command -v python3.11)" --with-suffix=.wasm --with-pymalloc \
    --disable-ipv6 --disable-test-modules --without-ensurepip "${none[@]}"
}

compile_python() {
  cd "$work/python-build"
  # The time of the build is in sys.version; the same source shall make the same module.
  SOURCE_DATE_EPOCH=0 make -j"$jobs" libpython3.11.a Modules/_decimal/libmpdec/libmpdec.a \
    Modules/expat/libexpat.a
}

# What linking and packing need: static libraries, headers, the library in Python.
keep_python() {
  mkdir "$work/cpython"
  cd "$work/cpython"
  cp -R "$work/python/Include" include
  cp "$work/python-build/pyconfig.h" include
  cp "$work"/python-build/{libpython3.11,Modules/_decimal/libmpdec/libmpdec}.a \
    "$work/python-build/Modules/expat/libexpat.a" "$work"/libraries/lib{sqlite3,z}.a .
  cp -R "$work/python/Lib" Lib
  { basename "$work"/apt/*.dsc .dsc
    printf '%s\n' "$python_crates"
    python3.11 --version; } >built-from
}

build_cpython() {
  step 'fetching the source of CPython' fetch_python
  step 'editing the source of CPython' edit_python
  step 'compiling SQLite and zlib' build_libraries
  step 'configuring CPython' configure_python
  step 'compiling CPython' compile_python
  step 'keeping CPython for later builds' keep_python
}
