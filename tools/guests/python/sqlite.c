/* SQLite's view of a world without files: databases live in memory, so in the agent's image.
 *
 * Owns: the default VFS, which opens nothing, and SQLite's randomness and clock.
 * Not: the databases; `:memory:` and `file:/name?vfs=memdb` are SQLite's own.
 */
#include <sqlite3.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static int vfs_open(sqlite3_vfs *vfs, sqlite3_filename name, sqlite3_file *file, int flags,
                    int *out) {
  file->pMethods = NULL;
  return SQLITE_CANTOPEN;
}

static int vfs_delete(sqlite3_vfs *vfs, const char *name, int sync) { return SQLITE_OK; }

static int vfs_access(sqlite3_vfs *vfs, const char *name, int flags, int *found) {
  *found = 0;
  return SQLITE_OK;
}

static int vfs_path(sqlite3_vfs *vfs, const char *name, int cap, char *out) {
  if (strlen(name) >= (size_t)cap) return SQLITE_CANTOPEN;
  strcpy(out, name);
  return SQLITE_OK;
}

static int vfs_randomness(sqlite3_vfs *vfs, int len, char *out) {
  for (int done = 0; done < len; done += 256) {
    if (getentropy(out + done, len - done < 256 ? len - done : 256) != 0) return done;
  }
  return len;
}

static int vfs_sleep(sqlite3_vfs *vfs, int us) { return 0; }

static int vfs_now_ms(sqlite3_vfs *vfs, sqlite3_int64 *ms) {
  static const sqlite3_int64 unix_epoch_ms = 24405875 * (sqlite3_int64)8640000;
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  *ms = unix_epoch_ms + (sqlite3_int64)now.tv_sec * 1000 + now.tv_nsec / 1000000;
  return SQLITE_OK;
}

static int vfs_now(sqlite3_vfs *vfs, double *days) {
  sqlite3_int64 ms;
  vfs_now_ms(vfs, &ms);
  *days = (double)ms / 86400000.0;
  return SQLITE_OK;
}

static int vfs_error(sqlite3_vfs *vfs, int cap, char *out) { return 0; }

int sqlite3_os_init(void) {
  static sqlite3_vfs vfs = {
      .iVersion = 2,
      .szOsFile = sizeof(sqlite3_file),
      .mxPathname = 512,
      .zName = "none",
      .xOpen = vfs_open,
      .xDelete = vfs_delete,
      .xAccess = vfs_access,
      .xFullPathname = vfs_path,
      .xRandomness = vfs_randomness,
      .xSleep = vfs_sleep,
      .xCurrentTime = vfs_now,
      .xGetLastError = vfs_error,
      .xCurrentTimeInt64 = vfs_now_ms,
  };
  return sqlite3_vfs_register(&vfs, 1);
}

int sqlite3_os_end(void) { return SQLITE_OK; }
