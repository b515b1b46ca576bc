/* Failures of the disk, for a program that is started with this library in LD_PRELOAD.

   fault(folder, calls, at, times, error) has some calls on the files below a folder fail: those whose names are in
   `calls`, from the one with number `at` on (the first is 1), `times` of them. `error` is an errno; 0 has a write take
   half of its bytes only. fault_hits() is how many have failed. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static char folder[1024], calls[256];
static long at, times, count, hits;
static int error;

void fault(const char *new_folder, const char *new_calls, long new_at, long new_times, int new_error) {
    snprintf(folder, sizeof folder, "%s", new_folder);
    snprintf(calls, sizeof calls, ",%s,", new_calls);
    at = new_at, times = new_times, error = new_error, count = hits = 0;
}

long fault_hits(void) { return hits; }

static int fails(const char *call, const char *path) {
    char name[40];
    snprintf(name, sizeof name, ",%s,", call);
    if (!at || !strstr(calls, name) || !path || strncmp(path, folder, strlen(folder))) return 0;
    if (++count < at || count >= at + times) return 0;
    hits++;
    errno = error;
    return 1;
}

static int fails_on(const char *call, int descriptor) {
    char link[40], path[1024];
    if (!at) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t size = readlink(link, path, sizeof path - 1);
    if (size < 0) return 0;
    path[size] = 0;
    return fails(call, path);
}

#define REAL(name) static __typeof__(&name) real; if (!real) real = dlsym(RTLD_NEXT, #name)

ssize_t write(int descriptor, const void *data, size_t size) {
    REAL(write);
    if (!fails_on("write", descriptor)) return real(descriptor, data, size);
    return error ? -1 : real(descriptor, data, size / 2);
}

#define PWRITE(name, offset_type) \
    ssize_t name(int descriptor, const void *data, size_t size, offset_type offset) { \
        REAL(name); \
        if (!fails_on("pwrite", descriptor)) return real(descriptor, data, size, offset); \
        return error ? -1 : real(descriptor, data, size / 2, offset); \
    }
PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)

#define ON_DESCRIPTOR(name, call) \
    int name(int descriptor) { \
        REAL(name); \
        return fails_on(call, descriptor) ? -1 : real(descriptor); \
    }
ON_DESCRIPTOR(fsync, "fsync")
ON_DESCRIPTOR(fdatasync, "fsync")

#define FTRUNCATE(name, size_type) \
    int name(int descriptor, size_type size) { \
        REAL(name); \
        return fails_on("ftruncate", descriptor) ? -1 : real(descriptor, size); \
    }
FTRUNCATE(ftruncate, off_t)
FTRUNCATE(ftruncate64, off64_t)

#define OPEN(name) \
    int name(const char *path, int flags, ...) { \
        REAL(name); \
        va_list more; \
        va_start(more, flags); \
        mode_t mode = va_arg(more, mode_t); \
        va_end(more); \
        return fails("open", path) ? -1 : real(path, flags, mode); \
    }
OPEN(open)
OPEN(open64)

int unlink(const char *path) {
    REAL(unlink);
    return fails("unlink", path) ? -1 : real(path);
}

int rename(const char *old, const char *new) {
    REAL(rename);
    return fails("rename", old) ? -1 : real(old, new);
}
