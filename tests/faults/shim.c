/* For LD_PRELOAD: counts the calls that change files below FAULT_FOLDER, and at number FAULT_AT does what FAULT_MODE says:
   "kill": the process ends, the call is not made; "torn": half of a write is made first; a number: the call fails with that errno,
   and with FAULT_STAYS so do all later ones of the kinds that need space.
   FAULT_LOG names a file that gets a line for each call. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

static atomic_long calls;

/* Whether the path lies below the folder; `at` is the folder of a relative one. */
static int below(int at, const char *path) {
    const char *folder = getenv("FAULT_FOLDER");
    char whole[4096] = "", link[64];
    if (!folder || !path) return 0;
    if (path[0] != '/') {
        snprintf(link, sizeof link, "/proc/self/fd/%d", at);
        ssize_t n = at == AT_FDCWD ? -1 : readlink(link, whole, sizeof whole - 1);
        whole[n < 0 ? 0 : n] = 0;
    }
    size_t used = strlen(whole);
    snprintf(whole + used, sizeof whole - used, "%s%s", used ? "/" : "", path);
    return strncmp(whole, folder, strlen(folder)) == 0;
}

static int file_below(int fd) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n < 0) return 0;
    path[n] = 0;
    return below(AT_FDCWD, path);
}

/* Counts a call; an errno with which it has to fail, or 0. `half`, if any, is the first half of what is to be written to `fd`. */
static int fault(const char *kind, const char *path, int fd, const void *half, size_t size) {
    const char *mode = getenv("FAULT_MODE"), *at = getenv("FAULT_AT"), *log = getenv("FAULT_LOG");
    long number = atomic_fetch_add(&calls, 1) + 1;
    if (log) {
        char line[4400], link[64], name[4096] = "";
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        ssize_t n = path ? -1 : readlink(link, name, sizeof name - 1);
        name[n < 0 ? 0 : n] = 0;
        int length = snprintf(line, sizeof line, "%ld %s %s\n", number, kind, path ? path : name);
        int out = syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_CREAT | O_APPEND, 0644);
        syscall(SYS_write, out, line, (size_t)length);
        syscall(SYS_close, out);
    }
    if (!mode || !at) return 0;
    long chosen = atol(at);
    int needs_space = !strcmp(kind, "write") || !strcmp(kind, "mkdir") || !strcmp(kind, "open");
    if (number != chosen && !(getenv("FAULT_STAYS") && number > chosen && needs_space)) return 0;
    if (mode[0] >= '0' && mode[0] <= '9') return atoi(mode);
    if (!strcmp(mode, "torn") && half) syscall(SYS_write, fd, half, size);
    syscall(SYS_kill, getpid(), SIGKILL);
    return EIO;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define FAIL_IF(condition, ...)                  \
    if (condition) {                             \
        int failed = fault(__VA_ARGS__);         \
        if (failed) { errno = failed; return -1; } \
    }

int rename(const char *from, const char *to) {
    FAIL_IF(below(AT_FDCWD, to), "rename", to, -1, 0, 0)
    return REAL(rename)(from, to);
}
int unlink(const char *path) {
    FAIL_IF(below(AT_FDCWD, path), "unlink", path, -1, 0, 0)
    return REAL(unlink)(path);
}
int rmdir(const char *path) {
    FAIL_IF(below(AT_FDCWD, path), "rmdir", path, -1, 0, 0)
    return REAL(rmdir)(path);
}
int unlinkat(int at, const char *path, int flags) {
    FAIL_IF(below(at, path), flags & AT_REMOVEDIR ? "rmdir" : "unlink", path, -1, 0, 0)
    return REAL(unlinkat)(at, path, flags);
}
int mkdir(const char *path, mode_t mode) {
    FAIL_IF(below(AT_FDCWD, path), "mkdir", path, -1, 0, 0)
    return REAL(mkdir)(path, mode);
}
int fsync(int fd) {
    FAIL_IF(file_below(fd), "fsync", 0, fd, 0, 0)
    return REAL(fsync)(fd);
}
int fdatasync(int fd) {
    FAIL_IF(file_below(fd), "fsync", 0, fd, 0, 0)
    return REAL(fdatasync)(fd);
}
ssize_t write(int fd, const void *bytes, size_t size) {
    FAIL_IF(fd > 2 && file_below(fd), "write", 0, fd, bytes, size / 2)
    return REAL(write)(fd, bytes, size);
}
int ftruncate64(int fd, off64_t size) {
    FAIL_IF(file_below(fd), "truncate", 0, fd, 0, 0)
    return REAL(ftruncate64)(fd, size);
}
int open64(const char *path, int flags, ...) {
    va_list rest;
    va_start(rest, flags);
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0;
    va_end(rest);
    FAIL_IF((flags & O_ACCMODE) != O_RDONLY && below(AT_FDCWD, path), "open", path, -1, 0, 0)
    return REAL(open64)(path, flags, mode);
}
