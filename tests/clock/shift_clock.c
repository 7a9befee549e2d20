/* Shifts the wall clock of one program, for tests: LD_PRELOAD=shift_clock.so SHIFT_CLOCK=<file> redis-server ...
 *
 * The file holds two numbers as the machine stores them: microseconds that the clock is ahead (int64), and how fast it goes
 * (double, 1.0 is right), counted from when the program began. Monotonic clocks are left alone. Whoever writes the file steps the clock. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

struct shift { volatile int64_t ahead; volatile double rate; };
static struct shift *shift;
static int64_t began;
static int (*real)(clockid_t, struct timespec *);

static int64_t now_us(clockid_t clock) {
    struct timespec t;
    real(clock, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

__attribute__((constructor)) static void begin(void) {
    real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    const char *path = getenv("SHIFT_CLOCK");
    int fd = path ? open(path, O_RDONLY) : -1;
    void *page = fd < 0 ? MAP_FAILED : mmap(NULL, sizeof *shift, PROT_READ, MAP_SHARED, fd, 0);
    if (page != MAP_FAILED) shift = page;
    began = now_us(CLOCK_MONOTONIC);
}

static int64_t shifted(clockid_t clock) {
    if (!shift) return now_us(clock);
    int64_t passed = now_us(CLOCK_MONOTONIC) - began;
    return now_us(clock) + shift->ahead + (int64_t)((shift->rate - 1.0) * (double)passed);
}

int clock_gettime(clockid_t clock, struct timespec *t) {
    if (!real) begin();
    if (clock != CLOCK_REALTIME && clock != CLOCK_REALTIME_COARSE) return real(clock, t);
    int64_t us = shifted(clock);
    t->tv_sec = us / 1000000;
    t->tv_nsec = us % 1000000 * 1000;
    return 0;
}

int gettimeofday(struct timeval *restrict t, void *restrict zone) {
    (void)zone;
    if (!real) begin();
    int64_t us = shifted(CLOCK_REALTIME);
    t->tv_sec = us / 1000000;
    t->tv_usec = us % 1000000;
    return 0;
}

time_t time(time_t *out) {
    if (!real) begin();
    time_t seconds = shifted(CLOCK_REALTIME) / 1000000;
    if (out) *out = seconds;
    return seconds;
}
