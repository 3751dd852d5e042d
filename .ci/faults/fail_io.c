/* Lets the FAIL_AT-th write or sync of the process fail with EIO, and with FAIL_FOR_GOOD=1 every one behind it. With HANG_MS it
 * takes so long instead, and succeeds. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/types.h>
#include <unistd.h>

static atomic_long calls;

static int fails(void)
{
    static long at = -1, for_good, hang_ms;
    if (at < 0) {
        const char *said = getenv("FAIL_AT"), *good = getenv("FAIL_FOR_GOOD");
        const char *hang = getenv("HANG_MS");
        for_good = good && *good == '1';
        hang_ms = hang ? atol(hang) : 0;
        at = said ? atol(said) : 0;
    }
    long call = atomic_fetch_add(&calls, 1) + 1;
    if (at == 0 || (for_good ? call < at : call != at))
        return 0;
    if (hang_ms) {
        usleep(hang_ms * 1000);
        return 0;
    }
    errno = EIO;
    return 1;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

ssize_t pwrite64(int file, const void *bytes, size_t count, off64_t offset)
{
    return fails() ? -1 : REAL(pwrite64)(file, bytes, count, offset);
}

int fdatasync(int file)
{
    return fails() ? -1 : REAL(fdatasync)(file);
}

int fsync(int file)
{
    return fails() ? -1 : REAL(fsync)(file);
}
