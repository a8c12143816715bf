/* Makes a reading of the clock on a certain thread fail, for tests: preloaded into a broker. Rust's
   standard library panics then, in a build of any kind. A thread fails once for each file of its name
   in the directory that PANICS names, at its next reading of the monotonic clock, or of the time of
   day for a file of its name with ".day". The file is removed. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

static __thread char paths[2][4096];

static int is_told(int of_day) {
    const char *place = getenv("PANICS");
    if (!place) return 0;
    char *path = paths[of_day];
    if (!path[0]) {
        char name[17] = "";
        prctl(PR_GET_NAME, name);
        snprintf(path, sizeof paths[0], "%s/%s%s", place, name, of_day ? ".day" : "");
    }
    return unlink(path) == 0;
}

int clock_gettime(clockid_t clock, struct timespec *time) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int saved = errno;
    if ((clock == CLOCK_MONOTONIC || clock == CLOCK_REALTIME) && is_told(clock == CLOCK_REALTIME)) {
        errno = EINVAL;
        return -1;
    }
    errno = saved;
    return real(clock, time);
}
