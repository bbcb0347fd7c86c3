/* QuickJS-NG with a stack limit: upstream has none on WASI, where an endless recursion would end in
 * a trap instead of a RangeError.
 *
 * Owns: engine_limit_stack.  Not: anything else; the engine is the crate's source, unchanged.
 */
#include "quickjs.c"

void engine_limit_stack(JSRuntime *runtime, size_t bytes);

/* Lets scripts use `bytes` of the stack below the caller. */
void engine_limit_stack(JSRuntime *runtime, size_t bytes) {
  runtime->stack_limit = js_get_stack_pointer() - bytes;
}
