/* CPython as a Heronry guest: the guest ABI of docs/guest-abi.md over the interpreter.
 *
 * Owns: the exports the host calls, the builtin module `_heronry` (the host's imports for Python),
 * the start of the interpreter, the compiler of exec requests.  Not: what a message means; that is
 * heronry/runtime.py, whose functions are looked up once and called here.
 * G1  the buffer lent by heronry_alloc is read before anything else runs in the guest.
 * G2  an exception never leaves an export: it becomes `fail` and the result 1.
 * G3  the same sources make the same memory: hash seed, paths and environment are fixed.
 */
#define PY_SSIZE_T_CLEAN
#define Py_BUILD_CORE 1
#include <Python.h>
#include <internal/pycore_ast.h>
#include <internal/pycore_asdl.h>
#include <internal/pycore_code.h>
#include <internal/pycore_compile.h>
#include <internal/pycore_dict.h>
#include <internal/pycore_opcode.h>
#include <internal/pycore_parser.h>
#include <internal/pycore_runtime.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "heap.h"

#define HOST(name) __attribute__((import_module("heronry"), import_name(#name)))
#define GUEST(name) __attribute__((export_name("heronry_" #name)))

HOST(reply) void host_reply(int64_t request, const char *ptr, int32_t len);
HOST(refuse) void host_refuse(int64_t request, const char *ptr, int32_t len);
HOST(fail) void host_fail(const char *ptr, int32_t len);
HOST(send) int32_t host_send(const char *key, int32_t keylen, const char *ptr, int32_t len);
HOST(call) int64_t host_call(const char *key, int32_t keylen, const char *ptr, int32_t len);
HOST(sleep) int64_t host_sleep(int64_t ns);
HOST(http) int64_t host_http(const char *ptr, int32_t len);
HOST(checkpoint) int64_t host_checkpoint(const char *label, int32_t len);
HOST(fork) int64_t host_fork(int32_t count);
HOST(rollback) int64_t host_rollback(const char *label, int32_t len);
HOST(key) int32_t host_key(char *ptr, int32_t cap);
HOST(log) void host_log(const char *ptr, int32_t len);

enum { LEND_BYTES = 4096, KEY_BYTES_MAX = 1024, PAGE_BYTES = 4096 };
/* Of pymalloc: its size classes, and the head of a pool at most. */
enum { SMALL_BYTES_MAX = 512, SMALL_BYTES_STEP = 16, POOL_HEAD_BYTES_MAX = 64 };

/* ---- the module _heronry ---- */

static PyObject *py_reply(PyObject *self, PyObject *args) {
  long long request;
  const char *ptr;
  Py_ssize_t len;
  if (!PyArg_ParseTuple(args, "Ly#", &request, &ptr, &len)) return NULL;
  host_reply(request, ptr, (int32_t)len);
  Py_RETURN_NONE;
}

static PyObject *py_refuse(PyObject *self, PyObject *args) {
  long long request;
  const char *ptr;
  Py_ssize_t len;
  if (!PyArg_ParseTuple(args, "Ly#", &request, &ptr, &len)) return NULL;
  host_refuse(request, ptr, (int32_t)len);
  Py_RETURN_NONE;
}

static PyObject *py_fail(PyObject *self, PyObject *args) {
  const char *ptr;
  Py_ssize_t len;
  if (!PyArg_ParseTuple(args, "y#", &ptr, &len)) return NULL;
  host_fail(ptr, (int32_t)len);
  Py_RETURN_NONE;
}

static PyObject *py_send(PyObject *self, PyObject *args) {
  const char *key, *ptr;
  Py_ssize_t keylen, len;
  if (!PyArg_ParseTuple(args, "s#y#", &key, &keylen, &ptr, &len)) return NULL;
  return PyLong_FromLong(host_send(key, (int32_t)keylen, ptr, (int32_t)len));
}

static PyObject *py_call(PyObject *self, PyObject *args) {
  const char *key, *ptr;
  Py_ssize_t keylen, len;
  if (!PyArg_ParseTuple(args, "s#y#", &key, &keylen, &ptr, &len)) return NULL;
  return PyLong_FromLongLong(host_call(key, (int32_t)keylen, ptr, (int32_t)len));
}

static PyObject *py_sleep(PyObject *self, PyObject *args) {
  long long ns;
  if (!PyArg_ParseTuple(args, "L", &ns)) return NULL;
  return PyLong_FromLongLong(host_sleep(ns));
}

static PyObject *py_http(PyObject *self, PyObject *args) {
  const char *ptr;
  Py_ssize_t len;
  if (!PyArg_ParseTuple(args, "y#", &ptr, &len)) return NULL;
  return PyLong_FromLongLong(host_http(ptr, (int32_t)len));
}

static PyObject *py_checkpoint(PyObject *self, PyObject *args) {
  const char *label;
  Py_ssize_t len;
  if (!PyArg_ParseTuple(args, "s#", &label, &len)) return NULL;
  return PyLong_FromLongLong(host_checkpoint(label, (int32_t)len));
}

static PyObject *py_fork(PyObject *self, PyObject *args) {
  int count;
  if (!PyArg_ParseTuple(args, "i", &count)) return NULL;
  return PyLong_FromLongLong(host_fork(count));
}

static PyObject *py_rollback(PyObject *self, PyObject *args) {
  const char *label;
  Py_ssize_t len;
  if (!PyArg_ParseTuple(args, "s#", &label, &len)) return NULL;
  return PyLong_FromLongLong(host_rollback(label, (int32_t)len));
}

static PyObject *py_key(PyObject *self, PyObject *args) {
  char key[KEY_BYTES_MAX];
  int32_t len = host_key(key, KEY_BYTES_MAX);
  if (len < 0 || len > KEY_BYTES_MAX) len = 0;
  return PyUnicode_DecodeUTF8(key, len, "replace");
}

static PyObject *py_log(PyObject *self, PyObject *args) {
  const char *ptr;
  Py_ssize_t len;
  if (!PyArg_ParseTuple(args, "s#", &ptr, &len)) return NULL;
  host_log(ptr, (int32_t)len);
  Py_RETURN_NONE;
}

/* compile_exec(source, filename, name) -> code: like exec(), but the value of a last expression is
 * assigned to the global `name`, and `await` is allowed at the top level. Works on the parser's own
 * tree: making Python objects of it would cost more than the code of a typical request. */
static PyObject *py_compile_exec(PyObject *self, PyObject *args) {
  const char *source;
  PyObject *filename, *name;
  if (!PyArg_ParseTuple(args, "sUU", &source, &filename, &name)) return NULL;
  PyArena *arena = _PyArena_New();
  if (arena == NULL) return NULL;
  PyCompilerFlags flags = _PyCompilerFlags_INIT;
  flags.cf_flags = PyCF_ALLOW_TOP_LEVEL_AWAIT | PyCF_IGNORE_COOKIE;
  PyObject *code = NULL;
  mod_ty module = _PyParser_ASTFromString(source, filename, Py_file_input, &flags, arena);
  if (module == NULL) goto done;
  asdl_stmt_seq *body = module->v.Module.body;
  stmt_ty last = asdl_seq_LEN(body) > 0 ? asdl_seq_GET(body, asdl_seq_LEN(body) - 1) : NULL;
  if (last != NULL && last->kind == Expr_kind) {
    Py_INCREF(name);
    if (_PyArena_AddPyObject(arena, name) < 0) {
      Py_DECREF(name);
      goto done;
    }
    asdl_expr_seq *targets = _Py_asdl_expr_seq_new(1, arena);
    if (targets == NULL) goto done;
    int line = last->lineno, column = last->col_offset;
    int line_end = last->end_lineno, column_end = last->end_col_offset;
    expr_ty target = _PyAST_Name(name, Store, line, column, line_end, column_end, arena);
    if (target == NULL) goto done;
    asdl_seq_SET(targets, 0, target);
    stmt_ty assign = _PyAST_Assign(targets, last->v.Expr.value, NULL, line, column, line_end,
                                   column_end, arena);
    if (assign == NULL) goto done;
    asdl_seq_SET(body, asdl_seq_LEN(body) - 1, assign);
  }
  code = (PyObject *)_PyAST_Compile(module, filename, &flags, -1, arena);
done:
  _PyArena_Free(arena);
  return code;
}

/* Objects that immortal() has found and not yet looked into. */
static struct {
  PyObject **objects;
  size_t count, room;
} reached;

/* The count of what was found: the interpreter's static objects have another, as high. */
enum { FOUND_COUNT = HERONRY_IMMORTAL + HERONRY_IMMORTAL / 2 };

static int reach(PyObject *object, void *failed) {
  if (object == NULL || object->ob_refcnt == FOUND_COUNT) return 0;
  if (reached.count == reached.room) {
    size_t room = reached.room * 2 + 1024;
    PyObject **objects = realloc(reached.objects, room * sizeof *objects);
    if (objects == NULL) return *(int *)failed = 1;
    reached.objects = objects;
    reached.room = room;
  }
  object->ob_refcnt = FOUND_COUNT;
  reached.objects[reached.count++] = object;
  return 0;
}

static void reach_type(PyTypeObject *type, int *failed) {
  /* A type gets the number that caches know it by at its first look-up: here, not in each agent. */
  _PyType_Lookup(type, &_Py_ID(__class__));
  PyObject *parts[] = {type->tp_dict,  type->tp_bases,       type->tp_mro,
                       type->tp_cache, type->tp_subclasses, (PyObject *)type->tp_base};
  for (size_t idx = 0; idx < sizeof parts / sizeof *parts; idx++) reach(parts[idx], failed);
  if (!PyType_HasFeature(type, Py_TPFLAGS_HEAPTYPE)) return;
  PyHeapTypeObject *heap = (PyHeapTypeObject *)type;
  PyObject *names[] = {heap->ht_name, heap->ht_qualname, heap->ht_slots, heap->ht_module};
  for (size_t idx = 0; idx < sizeof names / sizeof *names; idx++) reach(names[idx], failed);
  PyDictKeysObject *keys = heap->ht_cached_keys;
  for (Py_ssize_t idx = 0; keys != NULL && idx < keys->dk_nentries; idx++) {
    reach(DK_UNICODE_ENTRIES(keys)[idx].me_key, failed);
  }
}

/* Lets the library's code stay as it has specialised: instructions that have not will not, and none
 * counts how often it misses what it is specialised for. The agent's own code goes on adapting. */
static void freeze(PyCodeObject *code) {
  const char *file = PyUnicode_AsUTF8(code->co_filename);
  if (file == NULL) return PyErr_Clear();
  if (file[0] != '/' && strncmp(file, "<frozen", strlen("<frozen")) != 0) return;
  _Py_CODEUNIT *units = _PyCode_CODE(code);
  for (Py_ssize_t idx = 0; idx < Py_SIZE(code); idx++) {
    int plain = _PyOpcode_Deopt[_Py_OPCODE(units[idx])], caches = _PyOpcode_Caches[plain];
    if (caches == 0) continue;
    if (_Py_OPCODE(units[idx]) == _PyOpcode_Adaptive[plain]) _Py_SET_OPCODE(units[idx], plain);
    units[idx + 1] = HERONRY_FROZEN;
    idx += caches;
  }
  code->co_warmup = 0;
}

/* What an object refers to, also where the garbage collector need not look. */
static void look_into(PyObject *object, int *failed) {
  PyTypeObject *type = Py_TYPE(object);
  reach((PyObject *)type, failed);
  if (PyType_Check(object)) reach_type((PyTypeObject *)object, failed);
  if (PyObject_IS_GC(object) && type->tp_traverse != NULL) {
    type->tp_traverse(object, reach, failed);
  }
  if (PyDict_Check(object)) {
    PyObject *key, *value;
    for (Py_ssize_t at = 0; PyDict_Next(object, &at, &key, &value);) reach(key, failed);
  }
  if (PyCode_Check(object)) {
    PyCodeObject *code = (PyCodeObject *)object;
    PyObject *parts[] = {code->co_consts,          code->co_names,         code->co_exceptiontable,
                         code->co_localsplusnames, code->co_localspluskinds, code->co_filename,
                         code->co_name,            code->co_qualname,      code->co_linetable};
    for (size_t idx = 0; idx < sizeof parts / sizeof *parts; idx++) reach(parts[idx], failed);
    freeze(code);
  }
}

PyObject *heronry_freeze_interned(void); /* cpython.sh has added it to the interpreter */

/* immortal(roots): from now on nobody counts references to the objects in the list `roots`, to all
 * that these refer to, nor to interned strings: an agent that uses an object of the template does
 * not write to it. None is ever freed. */
static PyObject *py_immortal(PyObject *self, PyObject *roots) {
  if (!PyList_Check(roots)) return PyErr_Format(PyExc_TypeError, "immortal takes a list");
  int failed = 0;
  PyObject *interned = heronry_freeze_interned(), *string, *same;
  if (interned == NULL) return NULL;
  for (Py_ssize_t at = 0; PyDict_Next(interned, &at, &string, &same);) reach(string, &failed);
  for (Py_ssize_t idx = 0; idx < PyList_GET_SIZE(roots); idx++) {
    reach(PyList_GET_ITEM(roots, idx), &failed);
  }
  while (reached.count > 0 && !failed) look_into(reached.objects[--reached.count], &failed);
  free(reached.objects);
  memset(&reached, 0, sizeof reached);
  if (failed) return PyErr_NoMemory();
  Py_RETURN_NONE;
}

/* settle(): uses up what is free between the template's objects, as heap.h says. */
static PyObject *py_settle(PyObject *self, PyObject *args) {
  for (size_t bytes = 1; bytes <= SMALL_BYTES_MAX; bytes += SMALL_BYTES_STEP) {
    void *before = NULL, *block = PyObject_Malloc(bytes);
    /* A pool whose first two blocks come one after the other was empty. */
    while (block != NULL &&
           !((uintptr_t)before % PAGE_BYTES <= POOL_HEAD_BYTES_MAX &&
             (uintptr_t)block - (uintptr_t)before < 2 * SMALL_BYTES_STEP + bytes)) {
      before = block;
      block = PyObject_Malloc(bytes);
    }
    PyObject_Free(before);
    PyObject_Free(block);
  }
  if (!heap_settle()) return PyErr_NoMemory();
  Py_RETURN_NONE;
}

/* ignore(request, payload): stands for reply and refuse when nobody asked. */
static PyObject *py_ignore(PyObject *self, PyObject *args) { Py_RETURN_NONE; }

static PyMethodDef methods[] = {
    {"reply", py_reply, METH_VARARGS, NULL},
    {"refuse", py_refuse, METH_VARARGS, NULL},
    {"fail", py_fail, METH_VARARGS, NULL},
    {"send", py_send, METH_VARARGS, NULL},
    {"call", py_call, METH_VARARGS, NULL},
    {"sleep", py_sleep, METH_VARARGS, NULL},
    {"http", py_http, METH_VARARGS, NULL},
    {"checkpoint", py_checkpoint, METH_VARARGS, NULL},
    {"fork", py_fork, METH_VARARGS, NULL},
    {"rollback", py_rollback, METH_VARARGS, NULL},
    {"key", py_key, METH_NOARGS, NULL},
    {"log", py_log, METH_VARARGS, NULL},
    {"compile_exec", py_compile_exec, METH_VARARGS, NULL},
    {"ignore", py_ignore, METH_VARARGS, NULL},
    {"immortal", py_immortal, METH_O, NULL},
    {"settle", py_settle, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_heronry", "The host's functions.", -1, methods,
};

static PyObject *module_new(void) { return PyModule_Create(&definition); }

/* ---- memory: arenas on page boundaries, so that no pool straddles two pages ---- */

static void *arena_new(void *ctx, size_t bytes) { return aligned_alloc(PAGE_BYTES, bytes); }
static void arena_free(void *ctx, void *ptr, size_t bytes) { free(ptr); }

/* ---- the interpreter ---- */

/* Functions of heronry/runtime.py, looked up once. */
static PyObject *on_load, *on_warm, *on_message, *on_result, *on_exec, *on_restored;

static void fail_text(const char *text) { host_fail(text, (int32_t)strlen(text)); }

/* G2: tells the host of the exception that is set, with its traceback; returns 1. */
static int32_t fail_exception(void) {
  PyObject *type, *value, *trace;
  PyErr_Fetch(&type, &value, &trace);
  PyErr_NormalizeException(&type, &value, &trace);
  if (trace != NULL && value != NULL) PyException_SetTraceback(value, trace);
  PyObject *module = PyImport_ImportModule("traceback");
  PyObject *lines = NULL;
  if (module != NULL) {
    lines = PyObject_CallMethod(module, "format_exception", "O", value ? value : Py_None);
  }
  PyObject *empty = PyUnicode_FromString("");
  PyObject *text = lines == NULL || empty == NULL ? NULL : PyUnicode_Join(empty, lines);
  Py_ssize_t len = 0;
  const char *ptr = text == NULL ? NULL : PyUnicode_AsUTF8AndSize(text, &len);
  if (ptr != NULL) {
    host_fail(ptr, (int32_t)len);
  } else {
    PyErr_Clear();
    fail_text(type == NULL ? "unknown failure" : ((PyTypeObject *)type)->tp_name);
  }
  Py_XDECREF(text);
  Py_XDECREF(empty);
  Py_XDECREF(lines);
  Py_XDECREF(module);
  Py_XDECREF(type);
  Py_XDECREF(value);
  Py_XDECREF(trace);
  PyErr_Clear();
  return 1;
}

/* Calls a function of the runtime, which returns an int. Takes ownership of `args`. */
static int32_t enter(PyObject *function, PyObject **args, size_t count) {
  if (function == NULL) {
    fail_text("the interpreter has not been started");
    return 1;
  }
  PyObject *result = NULL;
  size_t made = 0;
  while (made < count && args[made] != NULL) made++;
  if (made == count) result = PyObject_Vectorcall(function, args, count, NULL);
  for (size_t idx = 0; idx < count; idx++) Py_XDECREF(args[idx]);
  if (result == NULL) return fail_exception();
  long code = PyLong_AsLong(result);
  Py_DECREF(result);
  return code == -1 && PyErr_Occurred() ? fail_exception() : (int32_t)code;
}

static int find(PyObject *module, const char *name, PyObject **function) {
  *function = PyObject_GetAttrString(module, name);
  return *function != NULL;
}

static PyStatus start(void) {
  PyConfig config;
  PyConfig_InitIsolatedConfig(&config);
  config.site_import = 0;
  config.write_bytecode = 0;
  config.use_hash_seed = 1;
  config.hash_seed = 0;
  config.install_signal_handlers = 0;
  config.buffered_stdio = 0;
  config.pathconfig_warnings = 0;
  config.module_search_paths_set = 1;
  static const struct {
    size_t offset;
    const wchar_t *value;
  } texts[] = {
      {offsetof(PyConfig, home), L"/"},
      {offsetof(PyConfig, prefix), L"/"},
      {offsetof(PyConfig, base_prefix), L"/"},
      {offsetof(PyConfig, exec_prefix), L"/"},
      {offsetof(PyConfig, base_exec_prefix), L"/"},
      {offsetof(PyConfig, executable), L""},
      {offsetof(PyConfig, base_executable), L""},
      {offsetof(PyConfig, stdlib_dir), L"/lib/python3.11"},
      {offsetof(PyConfig, filesystem_encoding), L"utf-8"},
      {offsetof(PyConfig, filesystem_errors), L"surrogateescape"},
      {offsetof(PyConfig, stdio_encoding), L"utf-8"},
      {offsetof(PyConfig, stdio_errors), L"backslashreplace"},
  };
  PyStatus status = PyWideStringList_Append(&config.module_search_paths, L"/lib/python3.11");
  for (size_t idx = 0; idx < sizeof texts / sizeof *texts; idx++) {
    if (PyStatus_Exception(status)) break;
    wchar_t **field = (wchar_t **)((char *)&config + texts[idx].offset);
    status = PyConfig_SetString(&config, field, texts[idx].value);
  }
  if (!PyStatus_Exception(status)) status = Py_InitializeFromConfig(&config);
  PyConfig_Clear(&config);
  return status;
}

GUEST(init) int32_t guest_init(void) {
  PyObjectArenaAllocator arenas = {NULL, arena_new, arena_free};
  PyObject_SetArenaAllocator(&arenas);
  PyPreConfig before;
  PyPreConfig_InitIsolatedConfig(&before);
  before.utf8_mode = 1;
  PyStatus status = Py_PreInitialize(&before);
  if (!PyStatus_Exception(status) && PyImport_AppendInittab("_heronry", module_new) < 0) {
    status = PyStatus_NoMemory();
  }
  if (!PyStatus_Exception(status)) status = start();
  if (PyStatus_Exception(status)) {
    fail_text(status.err_msg != NULL ? status.err_msg : "the interpreter did not start");
    return 1;
  }
  PyObject *runtime = PyImport_ImportModule("heronry.runtime");
  if (runtime == NULL) return fail_exception();
  int found = find(runtime, "load", &on_load) && find(runtime, "warm", &on_warm) &&
              find(runtime, "message", &on_message) && find(runtime, "result", &on_result) &&
              find(runtime, "execute", &on_exec) && find(runtime, "restored", &on_restored);
  Py_DECREF(runtime);
  return found ? 0 : fail_exception();
}

/* ---- exports ---- */

static char lend_small[LEND_BYTES] __attribute__((aligned(PAGE_BYTES)));
static char *lend_large;

GUEST(alloc) char *guest_alloc(int32_t len) {
  free(lend_large);
  lend_large = NULL;
  if (len >= 0 && len <= LEND_BYTES) return lend_small;
  lend_large = len < 0 ? NULL : malloc((size_t)len);
  return lend_large;
}

/* G1: the lent bytes as an object; a large buffer is freed at once. */
static PyObject *take(const char *ptr, int32_t len) {
  PyObject *bytes = PyBytes_FromStringAndSize(ptr, len);
  if (ptr == lend_large) {
    free(lend_large);
    lend_large = NULL;
  }
  return bytes;
}

GUEST(load) int32_t guest_load(const char *ptr, int32_t len) {
  PyObject *args[] = {take(ptr, len)};
  return enter(on_load, args, 1);
}

GUEST(warm) int32_t guest_warm(const char *ptr, int32_t len) {
  PyObject *args[] = {take(ptr, len)};
  return enter(on_warm, args, 1);
}

GUEST(message) int32_t guest_message(int64_t request, const char *ptr, int32_t len) {
  PyObject *bytes = take(ptr, len);
  PyObject *args[] = {bytes, PyLong_FromLongLong(request)};
  return enter(on_message, args, 2);
}

GUEST(result) int32_t guest_result(int64_t call, int32_t status, const char *ptr, int32_t len) {
  PyObject *bytes = take(ptr, len);
  PyObject *args[] = {bytes, PyLong_FromLongLong(call), PyLong_FromLong(status)};
  return enter(on_result, args, 3);
}

GUEST(exec) int32_t guest_exec(int64_t request, const char *ptr, int32_t len) {
  PyObject *bytes = take(ptr, len);
  PyObject *args[] = {bytes, PyLong_FromLongLong(request)};
  return enter(on_exec, args, 2);
}

GUEST(restored) void guest_restored(int32_t why) {
  PyObject *args[] = {PyLong_FromLong(why)};
  enter(on_restored, args, 1);
}
