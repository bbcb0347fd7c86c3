/* QuickJS-NG as a Heronry guest: the guest ABI of docs/guest-abi.md over the engine.
 *
 * Owns: the exports the host calls, the object `host` (the host's imports for JavaScript), loading
 * the agent's module, running jobs until none is left.  Not: what a message means; that is
 * runtime.js, whose functions are looked up once and called here.
 * G1  the buffer lent by heronry_alloc is read before anything else runs in the guest.
 * G2  an exception never leaves an export: it becomes `fail` and the result 1.
 * G3  a call returns only when no job is pending; then the agent is between turns.
 */
#include <quickjs.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime.h"

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

void engine_limit_stack(JSRuntime *runtime, size_t bytes);
int engine_settle(JSRuntime *runtime);

enum {
  LEND_BYTES = 4096,
  KEY_BYTES_MAX = 1024,
  PAGE_BYTES = 4096,
  STACK_BYTES_MAX = 192 * 1024,
  GC_BYTES = 1 << 20,
  RANDOM_BYTES_MAX = 65536,
};

static JSRuntime *runtime;
static JSContext *context;
/* Functions and values of runtime.js. */
static JSValue on_loaded, on_message, on_result, on_exec, on_restored, on_finish, on_describe,
    on_rejection, library;

/* ---- bytes ---- */

typedef struct {
  const char *ptr;
  size_t len;
  const char *text; /* what to free, if it came from a string */
} Bytes;

/* The bytes of a Uint8Array, or of a value's text; 0 with an exception set. */
static int bytes_of(JSValueConst value, Bytes *bytes) {
  bytes->text = NULL;
  if (JS_GetTypedArrayType(value) == JS_TYPED_ARRAY_UINT8) {
    bytes->ptr = (const char *)JS_GetUint8Array(context, &bytes->len, value);
    return bytes->ptr != NULL || bytes->len == 0;
  }
  bytes->text = bytes->ptr = JS_ToCStringLen(context, &bytes->len, value);
  return bytes->ptr != NULL;
}

static void bytes_done(Bytes *bytes) {
  if (bytes->text != NULL) JS_FreeCString(context, bytes->text);
}

static int is_utf8(const uint8_t *ptr, size_t len) {
  size_t at = 0;
  while (at < len) {
    uint8_t first = ptr[at++];
    if (first < 0x80) continue;
    size_t more = first >= 0xc2 && first < 0xe0   ? 1
                  : first >= 0xe0 && first < 0xf0 ? 2
                  : first >= 0xf0 && first < 0xf5 ? 3
                                                  : 0;
    if (more == 0 || len - at < more) return 0;
    uint8_t low = first == 0xe0 ? 0xa0 : first == 0xf0 ? 0x90 : 0x80;
    uint8_t high = first == 0xed ? 0x9f : first == 0xf4 ? 0x8f : 0xbf;
    if (ptr[at] < low || ptr[at] > high) return 0;
    for (size_t idx = 1; idx < more; idx++) {
      if ((ptr[at + idx] & 0xc0) != 0x80) return 0;
    }
    at += more;
  }
  return 1;
}

/* A payload as JavaScript sees it: text, or a Uint8Array where it is not UTF-8. */
static JSValue payload_of(const char *ptr, size_t len) {
  if (is_utf8((const uint8_t *)ptr, len)) return JS_NewStringLen(context, ptr, len);
  return JS_NewUint8ArrayCopy(context, (const uint8_t *)ptr, len);
}

/* ---- the object `host` ---- */

#define NATIVE(name) \
  static JSValue name(JSContext *ctx, JSValueConst self, int argc, JSValueConst *argv)

NATIVE(js_reply) {
  int64_t request;
  Bytes bytes;
  if (JS_ToInt64(ctx, &request, argv[0]) || !bytes_of(argv[1], &bytes)) return JS_EXCEPTION;
  host_reply(request, bytes.ptr, (int32_t)bytes.len);
  bytes_done(&bytes);
  return JS_UNDEFINED;
}

NATIVE(js_refuse) {
  int64_t request;
  Bytes bytes;
  if (JS_ToInt64(ctx, &request, argv[0]) || !bytes_of(argv[1], &bytes)) return JS_EXCEPTION;
  host_refuse(request, bytes.ptr, (int32_t)bytes.len);
  bytes_done(&bytes);
  return JS_UNDEFINED;
}

NATIVE(js_send) {
  Bytes key, bytes;
  if (!bytes_of(argv[0], &key)) return JS_EXCEPTION;
  if (!bytes_of(argv[1], &bytes)) {
    bytes_done(&key);
    return JS_EXCEPTION;
  }
  int32_t code = host_send(key.ptr, (int32_t)key.len, bytes.ptr, (int32_t)bytes.len);
  bytes_done(&bytes);
  bytes_done(&key);
  return JS_NewInt32(ctx, code);
}

NATIVE(js_call) {
  Bytes key, bytes;
  if (!bytes_of(argv[0], &key)) return JS_EXCEPTION;
  if (!bytes_of(argv[1], &bytes)) {
    bytes_done(&key);
    return JS_EXCEPTION;
  }
  int64_t call = host_call(key.ptr, (int32_t)key.len, bytes.ptr, (int32_t)bytes.len);
  bytes_done(&bytes);
  bytes_done(&key);
  return JS_NewInt64(ctx, call);
}

NATIVE(js_sleep) {
  int64_t ns;
  if (JS_ToInt64(ctx, &ns, argv[0])) return JS_EXCEPTION;
  return JS_NewInt64(ctx, host_sleep(ns));
}

NATIVE(js_fork) {
  int32_t count;
  if (JS_ToInt32(ctx, &count, argv[0])) return JS_EXCEPTION;
  return JS_NewInt64(ctx, host_fork(count));
}

/* Operations that take one text; `magic` says which. */
enum { HTTP, CHECKPOINT, ROLLBACK, LOG };

static JSValue js_text(JSContext *ctx, JSValueConst self, int argc, JSValueConst *argv,
                       int magic) {
  Bytes text;
  int64_t call = 0;
  if (!bytes_of(argv[0], &text)) return JS_EXCEPTION;
  if (magic == HTTP) call = host_http(text.ptr, (int32_t)text.len);
  if (magic == CHECKPOINT) call = host_checkpoint(text.ptr, (int32_t)text.len);
  if (magic == ROLLBACK) call = host_rollback(text.ptr, (int32_t)text.len);
  if (magic == LOG) host_log(text.ptr, (int32_t)text.len);
  bytes_done(&text);
  return JS_NewInt64(ctx, call);
}

NATIVE(js_key) {
  char key[KEY_BYTES_MAX];
  int32_t len = host_key(key, KEY_BYTES_MAX);
  return JS_NewStringLen(ctx, key, len < 0 || len > KEY_BYTES_MAX ? 0 : (size_t)len);
}

NATIVE(js_random) {
  int32_t len;
  if (JS_ToInt32(ctx, &len, argv[0])) return JS_EXCEPTION;
  if (len < 0 || len > RANDOM_BYTES_MAX) {
    return JS_ThrowRangeError(ctx, "%d random bytes asked for; 0 to 65536 are possible", len);
  }
  uint8_t *bytes = js_malloc(ctx, len == 0 ? 1 : (size_t)len);
  if (bytes == NULL) return JS_EXCEPTION;
  for (int32_t at = 0; at < len; at += 256) {
    if (getentropy(bytes + at, len - at < 256 ? (size_t)(len - at) : 256) != 0) abort();
  }
  JSValue array = JS_NewUint8ArrayCopy(ctx, bytes, (size_t)len);
  js_free(ctx, bytes);
  return array;
}

NATIVE(js_write) {
  int32_t descriptor;
  Bytes text;
  if (JS_ToInt32(ctx, &descriptor, argv[0]) || !bytes_of(argv[1], &text)) return JS_EXCEPTION;
  size_t done = 0;
  while (done < text.len) {
    ssize_t wrote = write(descriptor, text.ptr + done, text.len - done);
    if (wrote <= 0) break;
    done += (size_t)wrote;
  }
  bytes_done(&text);
  return JS_UNDEFINED;
}

NATIVE(js_encode) {
  Bytes text;
  if (!bytes_of(argv[0], &text)) return JS_EXCEPTION;
  JSValue array = JS_NewUint8ArrayCopy(ctx, (const uint8_t *)text.ptr, text.len);
  bytes_done(&text);
  return array;
}

NATIVE(js_decode) {
  Bytes bytes;
  if (!bytes_of(argv[0], &bytes)) return JS_EXCEPTION;
  JSValue text = JS_NewStringLen(ctx, bytes.ptr, bytes.len);
  bytes_done(&bytes);
  return text;
}

NATIVE(js_gc) {
  JS_RunGC(runtime);
  return JS_UNDEFINED;
}

NATIVE(js_evaluate) {
  Bytes source;
  if (!bytes_of(argv[0], &source)) return JS_EXCEPTION;
  const char *name = JS_ToCString(ctx, argv[1]);
  int flags = JS_EVAL_TYPE_GLOBAL | JS_EVAL_FLAG_ASYNC | JS_EVAL_FLAG_BACKTRACE_BARRIER;
  JSValue promise = name == NULL ? JS_EXCEPTION
                                 : JS_Eval(ctx, source.ptr, source.len, name, flags);
  JS_FreeCString(ctx, name);
  bytes_done(&source);
  return promise;
}

static const JSCFunctionListEntry host_functions[] = {
    JS_CFUNC_DEF("reply", 2, js_reply),
    JS_CFUNC_DEF("refuse", 2, js_refuse),
    JS_CFUNC_DEF("send", 2, js_send),
    JS_CFUNC_DEF("call", 2, js_call),
    JS_CFUNC_DEF("sleep", 1, js_sleep),
    JS_CFUNC_DEF("fork", 1, js_fork),
    JS_CFUNC_MAGIC_DEF("http", 1, js_text, HTTP),
    JS_CFUNC_MAGIC_DEF("checkpoint", 1, js_text, CHECKPOINT),
    JS_CFUNC_MAGIC_DEF("rollback", 1, js_text, ROLLBACK),
    JS_CFUNC_MAGIC_DEF("log", 1, js_text, LOG),
    JS_CFUNC_DEF("key", 0, js_key),
    JS_CFUNC_DEF("random", 1, js_random),
    JS_CFUNC_DEF("write", 2, js_write),
    JS_CFUNC_DEF("encode", 1, js_encode),
    JS_CFUNC_DEF("decode", 1, js_decode),
    JS_CFUNC_DEF("gc", 0, js_gc),
    JS_CFUNC_DEF("evaluate", 2, js_evaluate),
};

/* ---- entering and leaving the engine ---- */

static void fail_text(const char *text) { host_fail(text, (int32_t)strlen(text)); }

/* G2: tells the host of the exception that is set; returns 1. */
static int32_t fail_exception(void) {
  JSValue error = JS_GetException(context);
  JSValue text = JS_UNDEFINED;
  if (JS_IsFunction(context, on_describe)) {
    text = JS_Call(context, on_describe, JS_UNDEFINED, 1, (JSValueConst *)&error);
  }
  size_t len;
  int described = !JS_IsUndefined(text) && !JS_IsException(text);
  const char *ptr = JS_ToCStringLen(context, &len, described ? text : error);
  if (ptr != NULL) {
    host_fail(ptr, (int32_t)len);
    JS_FreeCString(context, ptr);
  } else {
    fail_text("an exception that cannot be shown");
  }
  JS_FreeValue(context, text);
  JS_FreeValue(context, error);
  JS_FreeValue(context, JS_GetException(context));
  return 1;
}

/* Runs jobs until none is pending, then ends the turn (G3). */
static int32_t finish(void) {
  JSContext *at;
  int ran;
  while ((ran = JS_ExecutePendingJob(runtime, &at)) > 0) {
  }
  if (ran < 0) return fail_exception();
  JSValue failure = JS_Call(context, on_finish, JS_UNDEFINED, 0, NULL);
  if (JS_IsException(failure)) return fail_exception();
  if (JS_IsUndefined(failure)) return 0;
  Bytes text;
  if (!bytes_of(failure, &text)) return fail_exception();
  host_fail(text.ptr, (int32_t)text.len);
  bytes_done(&text);
  JS_FreeValue(context, failure);
  return 1;
}

/* Calls a function of runtime.js, runs the jobs. Takes ownership of `args`. */
static int32_t enter(JSValueConst function, int count, JSValue *args) {
  if (context == NULL) {
    fail_text("the engine has not been started");
    return 1;
  }
  int failed = 0;
  for (int idx = 0; idx < count; idx++) failed |= JS_IsException(args[idx]);
  JSValue result = JS_EXCEPTION;
  if (!failed) result = JS_Call(context, function, JS_UNDEFINED, count, (JSValueConst *)args);
  for (int idx = 0; idx < count; idx++) JS_FreeValue(context, args[idx]);
  if (JS_IsException(result)) return fail_exception();
  JS_FreeValue(context, result);
  return finish();
}

/* ---- modules ---- */

static const char *const library_names[] = {"ctx", "Refused", "Forked"};
enum { LIBRARY_NAMES = sizeof library_names / sizeof *library_names };

static int library_start(JSContext *ctx, JSModuleDef *module) {
  for (int idx = 0; idx < LIBRARY_NAMES; idx++) {
    JSValue value = JS_GetPropertyStr(ctx, library, library_names[idx]);
    if (JS_IsException(value)) return -1;
    JS_SetModuleExport(ctx, module, library_names[idx], value);
  }
  return 0;
}

/* `import { ctx } from "heronry"`; there are no other modules. */
static JSModuleDef *load_module(JSContext *ctx, const char *name, void *opaque) {
  if (strcmp(name, "heronry") != 0) {
    JS_ThrowReferenceError(ctx, "no module '%s' in the sandbox, only 'heronry'", name);
    return NULL;
  }
  JSModuleDef *module = JS_NewCModule(ctx, name, library_start);
  for (int idx = 0; module != NULL && idx < LIBRARY_NAMES; idx++) {
    JS_AddModuleExport(ctx, module, library_names[idx]);
  }
  return module;
}

/* Runs a module at deploy time: the agent's, whose exports go to the runtime, or the warm-up, after
 * which nothing more is the template's. */
static int32_t load_source(const char *ptr, size_t len, const char *name, bool agent) {
  int flags = JS_EVAL_TYPE_MODULE | JS_EVAL_FLAG_COMPILE_ONLY;
  JSValue compiled = JS_Eval(context, ptr, len, name, flags);
  if (JS_IsException(compiled)) return fail_exception();
  JSModuleDef *module = JS_VALUE_GET_PTR(compiled);
  JSValue promise = JS_EvalFunction(context, compiled);
  if (JS_IsException(promise)) return fail_exception();
  JSContext *at;
  while (JS_ExecutePendingJob(runtime, &at) > 0) {
  }
  JSPromiseStateEnum state = JS_PromiseState(context, promise);
  if (state == JS_PROMISE_REJECTED) JS_Throw(context, JS_PromiseResult(context, promise));
  JS_FreeValue(context, promise);
  if (state == JS_PROMISE_REJECTED) return fail_exception();
  if (state == JS_PROMISE_PENDING) {
    fail_text("the module awaits something while it is loaded; await in onMessage instead");
    return 1;
  }
  if (agent) {
    JSValue args[] = {JS_GetModuleNamespace(context, module)};
    return enter(on_loaded, 1, args);
  }
  if (!engine_settle(runtime)) {
    fail_text("no memory to keep the template in");
    return 1;
  }
  JS_SetGCThreshold(runtime, GC_BYTES);
  return 0;
}

/* ---- the start ---- */

static void rejected(JSContext *ctx, JSValueConst promise, JSValueConst reason, bool handled,
                     void *opaque) {
  if (!JS_IsFunction(ctx, on_rejection)) return;
  JSValueConst args[] = {promise, reason, JS_NewBool(ctx, handled)};
  JS_FreeValue(ctx, JS_Call(ctx, on_rejection, JS_UNDEFINED, 3, args));
}

static int find(JSValueConst object, const char *name, JSValue *value) {
  *value = JS_GetPropertyStr(context, object, name);
  return !JS_IsException(*value) && !JS_IsUndefined(*value);
}

GUEST(init) int32_t guest_init(void) {
  runtime = JS_NewRuntime();
  context = runtime == NULL ? NULL : JS_NewContext(runtime);
  if (context == NULL) {
    fail_text("no memory for the engine");
    return 1;
  }
  engine_limit_stack(runtime, STACK_BYTES_MAX);
  on_describe = on_rejection = JS_UNDEFINED;
  JS_SetModuleLoaderFunc(runtime, NULL, load_module, NULL);
  JS_SetHostPromiseRejectionTracker(runtime, rejected, NULL);
  JSValue host = JS_NewObject(context);
  JS_SetPropertyFunctionList(context, host, host_functions,
                             sizeof host_functions / sizeof *host_functions);
  JSValue start = JS_Eval(context, runtime_source, sizeof runtime_source - 1, "heronry:runtime",
                          JS_EVAL_TYPE_GLOBAL | JS_EVAL_FLAG_STRICT);
  if (JS_IsException(start)) return fail_exception();
  JSValue made = JS_Call(context, start, JS_UNDEFINED, 1, (JSValueConst *)&host);
  if (JS_IsException(made)) return fail_exception();
  int found = find(made, "loaded", &on_loaded) && find(made, "message", &on_message) &&
              find(made, "result", &on_result) && find(made, "execute", &on_exec) &&
              find(made, "restored", &on_restored) && find(made, "finish", &on_finish) &&
              find(made, "describe", &on_describe) && find(made, "rejection", &on_rejection) &&
              find(made, "library", &library);
  JS_FreeValue(context, made);
  JS_FreeValue(context, host);
  JS_FreeValue(context, start);
  if (!found) fail_text("runtime.js is not complete");
  return found ? 0 : 1;
}

/* ---- exports ---- */

static char lend_small[LEND_BYTES + 1] __attribute__((aligned(PAGE_BYTES)));
static char *lend_large;

GUEST(alloc) char *guest_alloc(int32_t len) {
  free(lend_large);
  lend_large = NULL;
  if (len >= 0 && len <= LEND_BYTES) return lend_small;
  lend_large = len < 0 || len == INT32_MAX ? NULL : malloc((size_t)len + 1);
  return lend_large;
}

/* G1: the lent bytes as a value; a large buffer is freed at once. */
static JSValue take(const char *ptr, int32_t len) {
  JSValue value = payload_of(ptr, (size_t)len);
  if (ptr == lend_large) {
    free(lend_large);
    lend_large = NULL;
  }
  return value;
}

/* The engine wants a 0 after the source: the lent buffer has room for it. */
static int32_t load_lent(char *ptr, int32_t len, const char *name, bool agent) {
  if (context == NULL) {
    fail_text("the engine has not been started");
    return 1;
  }
  ptr[len] = 0;
  return load_source(ptr, (size_t)len, name, agent);
}

GUEST(load) int32_t guest_load(char *ptr, int32_t len) {
  return load_lent(ptr, len, "agent.js", true);
}
GUEST(warm) int32_t guest_warm(char *ptr, int32_t len) {
  return load_lent(ptr, len, "warm.js", false);
}

GUEST(message) int32_t guest_message(int64_t request, const char *ptr, int32_t len) {
  JSValue args[] = {JS_NewInt64(context, request), take(ptr, len)};
  return enter(on_message, 2, args);
}

GUEST(result) int32_t guest_result(int64_t call, int32_t status, const char *ptr, int32_t len) {
  JSValue args[] = {JS_NewInt64(context, call), JS_NewInt32(context, status), take(ptr, len)};
  return enter(on_result, 3, args);
}

GUEST(exec) int32_t guest_exec(int64_t request, const char *ptr, int32_t len) {
  JSValue args[] = {JS_NewInt64(context, request), take(ptr, len)};
  return enter(on_exec, 2, args);
}

GUEST(restored) void guest_restored(int32_t why) {
  JSValue args[] = {JS_NewInt32(context, why)};
  enter(on_restored, 1, args);
}
