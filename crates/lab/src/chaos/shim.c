/* Faults of the machine below one process: preloaded into it, and told what to do through a shared page. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

/* As `Slot` in shim.rs. */
enum { CLOCK, SYNC_FAILS, WRITE_TEARS, TEAR_PER_MILLE, WHERE, SYNC_DELAY, HITS };

static volatile long *page;

__attribute__((constructor)) static void map_page(void) {
    const char *path = getenv("BONAFIDE_CHAOS_SHIM");
    int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (fd < 0) return;
    void *mapped = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (mapped != MAP_FAILED) page = mapped;
    close(fd);
}

static void *real(const char *name) { return dlsym(RTLD_NEXT, name); }

/* Whether the file is of those that faults are for. */
static int is_meant(int fd) {
    static const char *const parts[] = { "", "store.sqlite", "/ledger/" };
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length <= 0 || page[WHERE] < 0 || page[WHERE] > 2) return 0;
    path[length] = 0;
    return strstr(path, parts[page[WHERE]]) != NULL;
}

/* Counts down to the one call that is hit. */
static int is_hit(int slot, int fd) {
    if (!page || page[slot] <= 0 || !is_meant(fd)) return 0;
    if (__sync_sub_and_fetch(&page[slot], 1) != 0) return 0;
    __sync_add_and_fetch(&page[HITS], 1);
    return 1;
}

static int synced(int fd, int (*sync)(int)) {
    if (is_hit(SYNC_FAILS, fd)) {
        errno = EIO;
        return -1;
    }
    if (page && page[SYNC_DELAY] > 0 && is_meant(fd)) usleep(page[SYNC_DELAY] * 1000);
    return sync(fd);
}

int fsync(int fd) { return synced(fd, (int (*)(int))real("fsync")); }
int fdatasync(int fd) { return synced(fd, (int (*)(int))real("fdatasync")); }

/* Part of a write reaches the disk, and then the power is gone. */
static void tear(int fd, const void *bytes, size_t count, off_t at) {
    size_t part = count * page[TEAR_PER_MILLE] / 1000;
    if (at < 0) at = lseek(fd, 0, SEEK_CUR);
    syscall(SYS_pwrite64, fd, bytes, part, at);
    syscall(SYS_fdatasync, fd);
    kill(getpid(), SIGKILL);
    for (;;) pause();
}

ssize_t write(int fd, const void *bytes, size_t count) {
    if (is_hit(WRITE_TEARS, fd)) tear(fd, bytes, count, -1);
    return syscall(SYS_write, fd, bytes, count);
}

ssize_t pwrite64(int fd, const void *bytes, size_t count, off_t at) {
    if (is_hit(WRITE_TEARS, fd)) tear(fd, bytes, count, at);
    return syscall(SYS_pwrite64, fd, bytes, count, at);
}

ssize_t pwrite(int fd, const void *bytes, size_t count, off_t at) { return pwrite64(fd, bytes, count, at); }

static long shift(void) { return page ? page[CLOCK] : 0; }

int clock_gettime(clockid_t clock, struct timespec *now) {
    static int (*next)(clockid_t, struct timespec *);
    if (!next) next = (int (*)(clockid_t, struct timespec *))real("clock_gettime");
    int failed = next(clock, now);
    if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += shift();
    return failed;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    int failed = syscall(SYS_gettimeofday, now, zone);
    if (!failed && now) now->tv_sec += shift();
    return failed;
}

time_t time(time_t *out) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (out) *out = now.tv_sec;
    return now.tv_sec;
}
