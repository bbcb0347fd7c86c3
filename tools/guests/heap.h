/* Where a guest's new objects lie, for the guests that are interpreters. */
#ifndef HERONRY_HEAP_H
#define HERONRY_HEAP_H

#include <stdint.h>
#include <stdlib.h>

/* Uses up what malloc has free between the template's blocks, so that an agent's own blocks lie
 * together in fresh pages instead of one here and one there in the template's. What it takes is
 * never freed; it costs the template memory that nobody could use, once for all agents. Returns 0
 * without memory. */
static int heap_settle(void) {
  /* More than most free blocks: what a warm-up has freed in one larger piece stays one. The steps
   * down to the smallest leave none of any size. */
  enum { FRESH_BYTES = 1 << 20, STEP_BYTES = 16 };
  void *fresh = malloc(FRESH_BYTES);
  if (fresh == NULL) return 0;
  for (size_t bytes = FRESH_BYTES / 2; bytes >= STEP_BYTES; bytes -= bytes / 8) {
    void *block = malloc(bytes);
    while (block != NULL && (uintptr_t)block < (uintptr_t)fresh) block = malloc(bytes);
    free(block);
  }
  free(fresh);
  return 1;
}

#endif
