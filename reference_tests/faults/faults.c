/* SPDX-License-Identifier: MIT */
/* Makes system calls and allocations of a program fail, to see what it does then.  Loaded with LD_PRELOAD.
 *
 *   DSV4_FAULT=KIND:N[+][:ERRNO]   the N-th call of that kind (from 1) fails; with + every later one, too
 *   DSV4_FAULT_COUNTS=FILE         at the end, how many calls of each kind there were: "write 12" a line
 *
 * KIND  open      files of the program: under the folders of DSV4_FAULT_ROOTS (colons between)
 *       write     to anything but standard error (stdio's own writes to standard output are not seen here)
 *       fsync rename mkdir flock
 *       mmap      of files
 *       malloc    and calloc, realloc, aligned_alloc, posix_memalign
 *       cut       mmap works, and then the file is cut to nothing: touching it raises SIGBUS
 * Calls count once the program has set its handler for SIGBUS, the first thing that dsv4 does. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { k_open, k_write, k_fsync, k_rename, k_mkdir, k_flock, k_mmap, k_malloc, k_cut, kinds };
static const char* const names[kinds] = {"open", "write", "fsync", "rename", "mkdir", "flock", "mmap", "malloc", "cut"};
static atomic_long counts[kinds];
static atomic_int counting;
static int fault_kind = -1, fault_errno = ENOSPC, fault_later;
static long fault_at;
static const char *roots, *counts_file;

static void* real(const char* name) { return dlsym(RTLD_NEXT, name); }
#define REAL(type, name)        \
  static __typeof__(type) call; \
  if (!call) call = (__typeof__(type))real(#name)

__attribute__((constructor)) static void read_environment(void) {
  static const struct { const char* name; int value; } errors[] = {
      {"ENOSPC", ENOSPC}, {"EIO", EIO}, {"EACCES", EACCES}, {"ENOMEM", ENOMEM}, {"EMFILE", EMFILE},
      {"EROFS", EROFS},   {"EDQUOT", EDQUOT}, {"ENODEV", ENODEV}, {"ENOLCK", ENOLCK}};
  roots = getenv("DSV4_FAULT_ROOTS");
  counts_file = getenv("DSV4_FAULT_COUNTS");
  const char* fault = getenv("DSV4_FAULT");
  if (!fault) return;
  const char* number = strchr(fault, ':');
  for (int k = 0; number && k < kinds; ++k)
    if (strlen(names[k]) == (size_t)(number - fault) && strncmp(fault, names[k], (size_t)(number - fault)) == 0) fault_kind = k;
  if (fault_kind < 0) abort();
  char* rest;
  fault_at = strtol(number + 1, &rest, 10);
  fault_later = *rest == '+';
  const char* code = strchr(rest, ':');
  for (size_t i = 0; code && i < sizeof errors / sizeof *errors; ++i)
    if (strcmp(code + 1, errors[i].name) == 0) fault_errno = errors[i].value;
}

static void write_counts(void) {
  char text[512];
  size_t used = 0;
  if (!counts_file || !atomic_load(&counting)) return;
  for (int k = 0; k < kinds; ++k)
    used += (size_t)snprintf(text + used, sizeof text - used, "%s %ld\n", names[k], atomic_load(&counts[k]));
  atomic_store(&counting, 0);
  const int fd = open(counts_file, O_WRONLY | O_CREAT | O_TRUNC, 0600);
  if (fd < 0 || write(fd, text, used) != (ssize_t)used) abort();
  close(fd);
}
__attribute__((destructor)) static void at_end(void) { write_counts(); }

/* Counts one call; is it the one that fails? */
static int fails(int kind) {
  if (!atomic_load(&counting)) return 0;
  const long n = atomic_fetch_add(&counts[kind], 1) + 1;
  if (kind != fault_kind || !(n == fault_at || (fault_later && n > fault_at))) return 0;
  errno = fault_errno;
  return 1;
}
static int ours(const char* path) {
  if (!roots || !path) return 0;
  for (const char* root = roots; *root;) {
    const size_t n = strcspn(root, ":");
    if (n && strncmp(path, root, n) == 0) return 1;
    root += n + (root[n] == ':');
  }
  return 0;
}

int sigaction(int number, const struct sigaction* now, struct sigaction* before) {
  REAL(int (*)(int, const struct sigaction*, struct sigaction*), sigaction);
  const int r = call(number, now, before);
  if (number == SIGBUS && now) atomic_store(&counting, 1);
  return r;
}
void _exit(int code) {
  REAL(void (*)(int), _exit);
  write_counts();
  call(code);
  __builtin_unreachable();
}

#define OPEN(name)                                              \
  int name(const char* path, int flags, ...) {                  \
    mode_t mode = 0;                                            \
    REAL(int (*)(const char*, int, ...), name);                 \
    if (flags & (O_CREAT | O_TMPFILE)) {                        \
      va_list more;                                             \
      va_start(more, flags);                                    \
      mode = va_arg(more, mode_t);                              \
      va_end(more);                                             \
    }                                                           \
    return ours(path) && fails(k_open) ? -1 : call(path, flags, mode); \
  }
OPEN(open)
OPEN(open64)
#define FOPEN(name)                                                    \
  FILE* name(const char* path, const char* mode) {                     \
    REAL(FILE * (*)(const char*, const char*), name);                  \
    return ours(path) && fails(k_open) ? NULL : call(path, mode);      \
  }
FOPEN(fopen)
FOPEN(fopen64)

ssize_t write(int fd, const void* data, size_t bytes) {
  REAL(ssize_t (*)(int, const void*, size_t), write);
  if (fd == STDERR_FILENO || !fails(k_write)) return call(fd, data, bytes);
  /* A full disk takes a part. */
  if (fault_errno == ENOSPC && bytes > 1 && fault_later && atomic_load(&counts[k_write]) == fault_at) return call(fd, data, bytes / 2);
  errno = fault_errno;
  return -1;
}
int fsync(int fd) {
  REAL(int (*)(int), fsync);
  return fails(k_fsync) ? -1 : call(fd);
}
int rename(const char* from, const char* to) {
  REAL(int (*)(const char*, const char*), rename);
  return fails(k_rename) ? -1 : call(from, to);
}
int mkdir(const char* path, mode_t mode) {
  REAL(int (*)(const char*, mode_t), mkdir);
  return fails(k_mkdir) ? -1 : call(path, mode);
}
int flock(int fd, int how) {
  REAL(int (*)(int, int), flock);
  return fails(k_flock) ? -1 : call(fd, how);
}

static void cut_file(int fd) {
  char link[64], path[4096];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  const ssize_t n = readlink(link, path, sizeof path - 1);
  if (n <= 0) return;
  path[n] = '\0';
  if (ours(path) && truncate(path, 0) != 0) abort();
}
#define MMAP(name, offset_type)                                                     \
  void* name(void* at, size_t bytes, int access, int flags, int fd, offset_type offset) { \
    REAL(void* (*)(void*, size_t, int, int, int, offset_type), name);               \
    if (fd >= 0 && fails(k_mmap)) return MAP_FAILED;                                \
    void* p = call(at, bytes, access, flags, fd, offset);                           \
    if (fd >= 0 && p != MAP_FAILED && fails(k_cut)) cut_file(fd);                   \
    return p;                                                                       \
  }
MMAP(mmap, off_t)
MMAP(mmap64, off64_t)

/* dlsym itself allocates: these call what glibc has under other names. */
extern void* __libc_malloc(size_t);
extern void* __libc_calloc(size_t, size_t);
extern void* __libc_realloc(void*, size_t);
extern void* __libc_memalign(size_t, size_t);
static int no_memory(void) {
  const int kept = errno;
  if (!fails(k_malloc)) {
    errno = kept;
    return 0;
  }
  errno = ENOMEM;
  return 1;
}
void* malloc(size_t bytes) { return no_memory() ? NULL : __libc_malloc(bytes); }
void* calloc(size_t n, size_t bytes) { return no_memory() ? NULL : __libc_calloc(n, bytes); }
void* realloc(void* p, size_t bytes) { return no_memory() ? NULL : __libc_realloc(p, bytes); }
void* aligned_alloc(size_t align, size_t bytes) { return no_memory() ? NULL : __libc_memalign(align, bytes); }
int posix_memalign(void** to, size_t align, size_t bytes) {
  if (no_memory()) return ENOMEM;
  *to = __libc_memalign(align, bytes);
  return *to ? 0 : ENOMEM;
}
