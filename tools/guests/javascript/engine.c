/* QuickJS-NG with what upstream lacks for a guest: a stack limit (on WASI an endless recursion
 * would end in a trap instead of a RangeError), and a start that many agents share.
 *
 * Owns: engine_limit_stack, engine_settle.  Not: anything else; the engine is the crate's source
 * with the few lines that tools/guests/build edits.
 */
#define HERONRY_IMMORTAL 0x20000000
#include "quickjs.c"

#include "heap.h"

void engine_limit_stack(JSRuntime *runtime, size_t bytes);
int engine_settle(JSRuntime *runtime);

/* Lets scripts use `bytes` of the stack below the caller. */
void engine_limit_stack(JSRuntime *runtime, size_t bytes) {
  runtime->stack_limit = js_get_stack_pointer() - bytes;
}

/* Makes what exists now the template's, for good: an agent that uses it does not write to it.
 * Nobody counts references to its objects and names, no collection visits them, and new ones lie
 * elsewhere. None is ever freed. Returns 0 without memory. */
int engine_settle(JSRuntime *runtime) {
  static struct list_head kept = LIST_HEAD_INIT(kept);
  enum { COUNT = HERONRY_IMMORTAL + HERONRY_IMMORTAL / 2 };
  JS_RunGC(runtime);
  struct list_head *at, *next;
  list_for_each_safe(at, next, &runtime->gc_obj_list) {
    JSGCObjectHeader *object = list_entry(at, JSGCObjectHeader, link);
    JS_REF_COUNT(object) = COUNT;
    list_del(at);
    list_add_tail(at, &kept);
  }
  for (int atom = 0; atom < runtime->atom_size; atom++) {
    JSAtomStruct *name = runtime->atom_array[atom];
    if (!atom_is_free(name)) JS_REF_COUNT(name) = COUNT;
  }
  return heap_settle();
}
