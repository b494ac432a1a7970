/* A disk that refuses, also to native code: loaded before the C library, it counts every call that changes a file below
   DISK_ROOT, notes it in DISK_LOG, and fails those that the control page (DISK_CONTROL, shared by all processes) names. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

struct control {
    _Atomic int64_t calls;  /* so many changes were asked for */
    _Atomic int64_t first;  /* the first that fails, 0: none */
    _Atomic int64_t is_one; /* only that one fails, else all that need room from it on */
    _Atomic int64_t code;
    _Atomic int64_t failed; /* so many failed */
    _Atomic int64_t is_logged;
};
static struct control *control;
static char root[PATH_MAX];
static size_t root_bytes;
static int log_fd = -1;

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

__attribute__((constructor)) static void begin(void) {
    const char *at = getenv("DISK_CONTROL"), *below = getenv("DISK_ROOT"), *log = getenv("DISK_LOG");
    if (!at || !below || !log || !realpath(below, root)) return;
    root_bytes = strlen(root);
    int fd = (int)syscall(SYS_openat, AT_FDCWD, at, O_RDWR | O_CLOEXEC);
    if (fd < 0) return;
    void *page = mmap(NULL, sizeof(struct control), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    syscall(SYS_close, fd);
    log_fd = (int)syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_APPEND | O_CLOEXEC);
    if (page != MAP_FAILED && log_fd >= 0) control = page;
}

static int is_below(const char *path) {
    return strncmp(path, root, root_bytes) == 0 && path[root_bytes] == '/';
}

/* The path of an open file, or of a name in a folder; empty when it is none of ours. */
static void path_of(int fd, char *out) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t size = readlink(link, out, PATH_MAX - 1);
    out[size < 0 ? 0 : size] = 0;
    if (!is_below(out)) out[0] = 0;
}

static void path_at(int folder, const char *name, char *out) {
    char base[PATH_MAX];
    out[0] = 0;
    if (!name) return;
    if (name[0] == '/') {
        snprintf(out, PATH_MAX, "%s", name);
    } else {
        if (folder == AT_FDCWD) {
            if (!getcwd(base, sizeof base)) return;
        } else {
            path_of(folder, base);
        }
        if (strlen(base) + strlen(name) + 2 < PATH_MAX) {
            strcpy(out, base);
            strcat(out, "/");
            strcat(out, name);
        }
    }
    if (!is_below(out)) out[0] = 0;
}

static int is_full(void) {
    return control && !control->is_one && control->first && control->calls >= control->first;
}

/* Whether this change fails; sets errno. */
static int fails(const char *what, const char *path, int needs_room) {
    if (!control || !path[0]) return 0;
    int64_t number = atomic_fetch_add(&control->calls, 1) + 1, first = control->first;
    int is_failed = first && (control->is_one ? number == first : number >= first && needs_room);
    if (control->is_logged || is_failed) {
        char line[PATH_MAX + 64];
        int size = snprintf(line, sizeof line, "%lld %d %s %s\n", (long long)number, is_failed, what, path);
        if (size > 0) syscall(SYS_write, log_fd, line, (size_t)size);
    }
    if (!is_failed) return 0;
    atomic_fetch_add(&control->failed, 1);
    errno = (int)control->code;
    return 1;
}

#define ON_FD(what, needs_room, refused) \
    do { char path_[PATH_MAX]; path_of(fd, path_); if (fails(what, path_, needs_room)) return refused; } while (0)

ssize_t write(int fd, const void *data, size_t size) {
    ON_FD("write", 1, -1);
    return syscall(SYS_write, fd, data, size);
}
ssize_t pwrite(int fd, const void *data, size_t size, off_t at) { ON_FD("write", 1, -1); return REAL(pwrite)(fd, data, size, at); }
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at) { ON_FD("write", 1, -1); return REAL(pwrite64)(fd, data, size, at); }
ssize_t writev(int fd, const struct iovec *parts, int count) { ON_FD("write", 1, -1); return REAL(writev)(fd, parts, count); }
ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t at) { ON_FD("write", 1, -1); return REAL(pwritev)(fd, parts, count, at); }
int fsync(int fd) { ON_FD("fsync", 0, -1); return REAL(fsync)(fd); }
int fdatasync(int fd) { ON_FD("fsync", 0, -1); return REAL(fdatasync)(fd); }
int fallocate(int fd, int mode, off_t at, off_t size) { ON_FD("write", 1, -1); return REAL(fallocate)(fd, mode, at, size); }
int posix_fallocate(int fd, off_t at, off_t size) { ON_FD("write", 1, errno); return REAL(posix_fallocate)(fd, at, size); }
int posix_fallocate64(int fd, off64_t at, off64_t size) { ON_FD("write", 1, errno); return REAL(posix_fallocate64)(fd, at, size); }
ssize_t sendfile(int fd, int from, off_t *at, size_t size) { ON_FD("write", 1, -1); return syscall(SYS_sendfile, fd, from, at, size); }
ssize_t sendfile64(int fd, int from, off64_t *at, size_t size) { ON_FD("write", 1, -1); return syscall(SYS_sendfile, fd, from, at, size); }
ssize_t copy_file_range(int from, off64_t *begin, int fd, off64_t *at, size_t size, unsigned flags) {
    ON_FD("write", 1, -1);
    return REAL(copy_file_range)(from, begin, fd, at, size, flags);
}

static int grows(int fd, off64_t size) {
    struct stat found;
    return fstat(fd, &found) == 0 && size > found.st_size;
}
int ftruncate(int fd, off_t size) { ON_FD("truncate", grows(fd, size), -1); return REAL(ftruncate)(fd, size); }
int ftruncate64(int fd, off64_t size) { ON_FD("truncate", grows(fd, size), -1); return REAL(ftruncate64)(fd, size); }

static int opened(int folder, const char *name, int flags, mode_t mode) {
    char path[PATH_MAX];
    if (flags & O_CREAT || (flags & O_TMPFILE) == O_TMPFILE) {
        path_at(folder, name, path);
        int is_new = path[0] && syscall(SYS_faccessat, AT_FDCWD, path, F_OK, 0) != 0;
        if ((is_new || (flags & O_TMPFILE) == O_TMPFILE) && fails("create", path, 1)) return -1;
    }
    return (int)syscall(SYS_openat, folder, name, flags, mode);
}
#define MODE(flags) \
    mode_t mode = 0; \
    if ((flags) & (O_CREAT | O_TMPFILE)) { va_list more; va_start(more, flags); mode = (mode_t)va_arg(more, int); va_end(more); }
int open(const char *name, int flags, ...) { MODE(flags) return opened(AT_FDCWD, name, flags, mode); }
int open64(const char *name, int flags, ...) { MODE(flags) return opened(AT_FDCWD, name, flags | O_LARGEFILE, mode); }
int openat(int folder, const char *name, int flags, ...) { MODE(flags) return opened(folder, name, flags, mode); }
int openat64(int folder, const char *name, int flags, ...) { MODE(flags) return opened(folder, name, flags | O_LARGEFILE, mode); }
int creat(const char *name, mode_t mode) { return opened(AT_FDCWD, name, O_CREAT | O_WRONLY | O_TRUNC, mode); }

FILE *fopen(const char *name, const char *mode) {
    char path[PATH_MAX];
    path_at(AT_FDCWD, name, path);
    if (mode[0] != 'r' && path[0] && fails("create", path, 1)) return NULL;
    return REAL(fopen)(name, mode);
}
FILE *fopen64(const char *name, const char *mode) {
    char path[PATH_MAX];
    path_at(AT_FDCWD, name, path);
    if (mode[0] != 'r' && path[0] && fails("create", path, 1)) return NULL;
    return REAL(fopen64)(name, mode);
}

static int is_there(const char *path) {
    return path[0] && syscall(SYS_faccessat, AT_FDCWD, path, F_OK, 0) == 0;
}
#define ON_PATH(what, folder, name, needs_room, unless_there) \
    do { char path_[PATH_MAX]; path_at(folder, name, path_); \
         if (!((unless_there) && is_there(path_)) && fails(what, path_, needs_room)) return -1; } while (0)

int mkdir(const char *name, mode_t mode) { ON_PATH("mkdir", AT_FDCWD, name, 1, 1); return REAL(mkdir)(name, mode); }
int mkdirat(int folder, const char *name, mode_t mode) { ON_PATH("mkdir", folder, name, 1, 1); return REAL(mkdirat)(folder, name, mode); }
int link(const char *from, const char *to) { ON_PATH("link", AT_FDCWD, to, 1, 1); return REAL(link)(from, to); }
int linkat(int a, const char *from, int b, const char *to, int flags) { ON_PATH("link", b, to, 1, 1); return REAL(linkat)(a, from, b, to, flags); }
int symlink(const char *from, const char *to) { ON_PATH("link", AT_FDCWD, to, 1, 1); return REAL(symlink)(from, to); }
int symlinkat(const char *from, int b, const char *to) { ON_PATH("link", b, to, 1, 1); return REAL(symlinkat)(from, b, to); }
int rename(const char *from, const char *to) { ON_PATH("rename", AT_FDCWD, to, 0, 0); return REAL(rename)(from, to); }
int renameat(int a, const char *from, int b, const char *to) { ON_PATH("rename", b, to, 0, 0); return REAL(renameat)(a, from, b, to); }
int renameat2(int a, const char *from, int b, const char *to, unsigned flags) { ON_PATH("rename", b, to, 0, 0); return REAL(renameat2)(a, from, b, to, flags); }

int statvfs(const char *name, struct statvfs *out) {
    int done = REAL(statvfs)(name, out);
    char path[PATH_MAX], resolved[PATH_MAX];
    path_at(AT_FDCWD, realpath(name, resolved) ? resolved : name, path);
    if (done == 0 && is_full() && (path[0] || strcmp(resolved, root) == 0)) out->f_bavail = out->f_bfree = 0;
    return done;
}
int statvfs64(const char *name, struct statvfs64 *out) {
    int done = REAL(statvfs64)(name, out);
    char path[PATH_MAX], resolved[PATH_MAX];
    path_at(AT_FDCWD, realpath(name, resolved) ? resolved : name, path);
    if (done == 0 && is_full() && (path[0] || strcmp(resolved, root) == 0)) out->f_bavail = out->f_bfree = 0;
    return done;
}
