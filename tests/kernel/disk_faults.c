/* Makes calls on the files of a store fail or hang, for tests: preloaded into a broker. What is to
   happen stands in the file that DISK_FAULTS names: an operation (sync, read, write or make) and what
   becomes of it (EIO, ENOSPC or hang, which lasts as long as the file says so); empty: nothing. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

/* Whether the file is part of a log. */
static int of_a_log(int fd) {
    char name[64], path[4096];
    snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(name, path, sizeof path - 1);
    if (length < 4) return 0;
    path[length] = 0;
    return strcmp(path + length - 4, ".seg") == 0;
}

/* What is to become of the operation now: an error, -1 to hang, or 0. */
static int told(const char *operation) {
    const char *place = getenv("DISK_FAULTS");
    char wanted[16] = "", outcome[16] = "";
    FILE *file = place ? fopen(place, "r") : NULL;
    if (!file) return 0;
    int count = fscanf(file, "%15s %15s", wanted, outcome);
    fclose(file);
    if (count != 2 || strcmp(wanted, operation) != 0) return 0;
    if (strcmp(outcome, "hang") == 0) return -1;
    return strcmp(outcome, "ENOSPC") == 0 ? ENOSPC : EIO;
}

static int fails(const char *operation, int fd) {
    if (!of_a_log(fd)) return 0;
    int outcome;
    while ((outcome = told(operation)) == -1) usleep(5000);
    if (outcome) errno = outcome;
    return outcome;
}

#define REAL(name, type) static __typeof__(type) real; if (!real) real = (type)dlsym(RTLD_NEXT, name)

int fdatasync(int fd) {
    REAL("fdatasync", int (*)(int));
    return fails("sync", fd) ? -1 : real(fd);
}

int fsync(int fd) {
    REAL("fsync", int (*)(int));
    return fails("sync", fd) ? -1 : real(fd);
}

ssize_t pread64(int fd, void *bytes, size_t count, off64_t offset) {
    REAL("pread64", ssize_t (*)(int, void *, size_t, off64_t));
    return fails("read", fd) ? -1 : real(fd, bytes, count, offset);
}

ssize_t pread(int fd, void *bytes, size_t count, off_t offset) {
    REAL("pread", ssize_t (*)(int, void *, size_t, off_t));
    return fails("read", fd) ? -1 : real(fd, bytes, count, offset);
}

ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t offset) {
    REAL("pwrite64", ssize_t (*)(int, const void *, size_t, off64_t));
    return fails("write", fd) ? -1 : real(fd, bytes, count, offset);
}

ssize_t pwrite(int fd, const void *bytes, size_t count, off_t offset) {
    REAL("pwrite", ssize_t (*)(int, const void *, size_t, off_t));
    return fails("write", fd) ? -1 : real(fd, bytes, count, offset);
}

int fallocate(int fd, int mode, off_t offset, off_t length) {
    REAL("fallocate", int (*)(int, int, off_t, off_t));
    return fails("make", fd) ? -1 : real(fd, mode, offset, length);
}

int fallocate64(int fd, int mode, off64_t offset, off64_t length) {
    REAL("fallocate64", int (*)(int, int, off64_t, off64_t));
    return fails("make", fd) ? -1 : real(fd, mode, offset, length);
}
