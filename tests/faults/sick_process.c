/* Loaded into the coordinator by LD_PRELOAD: makes its disk and its clock as sick as a shared page of numbers says.
 * The page is a file named by FAULT_CONTROL; it has six 64-bit numbers, see preload.py: Control. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

struct control {
    volatile int64_t sync_delay_us, sync_errno, write_errno, clock_shift_ms;
    volatile int64_t syncs_seen, struck;
};

static struct control healthy, *control = &healthy;

/* A test that is killed leaves no coordinator behind. */
__attribute__((constructor)) static void die_with_parent(void) { prctl(PR_SET_PDEATHSIG, SIGKILL); }

__attribute__((constructor)) static void open_control(void) {
    const char *path = getenv("FAULT_CONTROL");
    int file = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (file < 0) return;
    void *page = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (page != MAP_FAILED) control = page;
}

#define REAL(name) static __typeof__(name) *real; if (!real) real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

static int sick_sync(void) {
    __sync_fetch_and_add(&control->syncs_seen, 1);
    if (control->sync_delay_us) {
        __sync_fetch_and_add(&control->struck, 1);
        usleep((useconds_t)control->sync_delay_us);
    }
    if (control->sync_errno) {
        __sync_fetch_and_add(&control->struck, 1);
        errno = (int)control->sync_errno;
        return -1;
    }
    return 0;
}

int fsync(int fd) { REAL(fsync); return sick_sync() ? -1 : real(fd); }
int fdatasync(int fd) { REAL(fdatasync); return sick_sync() ? -1 : real(fd); }

/* Only positioned writes: SQLite writes its files so, and nobody logs so. */
static int sick_write(void) {
    if (!control->write_errno) return 0;
    __sync_fetch_and_add(&control->struck, 1);
    errno = (int)control->write_errno;
    return -1;
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t at) {
    REAL(pwrite); return sick_write() ? -1 : real(fd, data, size, at);
}
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at) {
    REAL(pwrite64); return sick_write() ? -1 : real(fd, data, size, at);
}

int clock_gettime(clockid_t which, struct timespec *now) {
    REAL(clock_gettime);
    int status = real(which, now);
    if (status || (which != CLOCK_REALTIME && which != CLOCK_REALTIME_COARSE)) return status;
    int64_t shift = control->clock_shift_ms;
    if (!shift) return status;
    __sync_fetch_and_add(&control->struck, 1);
    now->tv_sec += shift / 1000;
    now->tv_nsec += (shift % 1000) * 1000000;
    if (now->tv_nsec < 0) { now->tv_nsec += 1000000000; now->tv_sec--; }
    if (now->tv_nsec >= 1000000000) { now->tv_nsec -= 1000000000; now->tv_sec++; }
    return status;
}
