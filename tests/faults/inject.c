/*
 * Makes system calls of tproxy fail on demand. Loaded with LD_PRELOAD.
 *
 * What fails, how often and how stands in a page that the test has in a file and that is mapped here before tproxy
 * forks, so that it reaches a worker that can open nothing any more. Nothing in here makes a system call that the
 * worker does not make itself.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

/* The same order as `Call` in inject.rs. */
enum call {
    ACCEPT4, PIPE2, SPLICE, CONNECT, SOCKET, EPOLL_CTL, EPOLL_WAIT, RECV, SEND, SETSOCKOPT, GETSOCKOPT,
    GETSOCKNAME, SHUTDOWN, FORK, CALLS
};

/* The same values as `Role` in inject.rs. */
enum role { OTHER = 0, GUARDIAN = 1, WORKER = 2, RESOLVER = 4, RULES = 8 };

/* In place of an errno: the call does less than it was asked to. */
#define SHORT 10000

struct rule {
    uint32_t every; /* one call in so many fails; 0: none */
    uint32_t error;
    uint32_t roles;
    uint32_t seed;
    uint64_t calls;
    uint64_t hits;
};

struct page {
    int64_t clock; /* seconds by which the wall clock is wrong */
    struct rule rules[CALLS];
};

static struct page *page;
static enum role role = OTHER;

/* The events that a descriptor was registered for, to ask for its edge once more. */
static struct { int epoll; struct epoll_event event; } interest[65536];

#define REAL(name) static __typeof__(name) *real_##name
REAL(accept4); REAL(pipe2); REAL(splice); REAL(connect); REAL(socket); REAL(epoll_ctl); REAL(epoll_wait); REAL(recv);
REAL(send); REAL(setsockopt); REAL(getsockopt); REAL(getsockname); REAL(shutdown); REAL(fork); REAL(clock_gettime); REAL(prctl);

/* Constructors of other libraries call these functions before ours has run. */
static void find(void)
{
    if (real_prctl)
        return;
#define FIND(name) real_##name = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)
    FIND(accept4); FIND(pipe2); FIND(splice); FIND(connect); FIND(socket); FIND(epoll_ctl); FIND(epoll_wait);
    FIND(recv); FIND(send); FIND(setsockopt); FIND(getsockopt); FIND(getsockname); FIND(shutdown); FIND(fork); FIND(clock_gettime); FIND(prctl);
}

__attribute__((constructor)) static void begin(void)
{
    find();
    const char *path = getenv("TPROXY_TEST_FAULTS");
    int file = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (file < 0)
        return;
    void *map = mmap(NULL, sizeof *page, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (map == MAP_FAILED)
        return;
    page = map;
    if (strcmp(program_invocation_short_name, "tproxy") == 0)
        role = GUARDIAN;
}

/* What happens to this call: an errno, SHORT, or 0. Which calls are struck looks random and is the same each time. */
static uint32_t verdict(enum call call)
{
    find();
    if (!page)
        return 0;
    struct rule *rule = &page->rules[call];
    uint32_t every = __atomic_load_n(&rule->every, __ATOMIC_ACQUIRE);
    if (every == 0 || !(rule->roles & role))
        return 0;
    uint64_t number = __atomic_add_fetch(&rule->calls, 1, __ATOMIC_RELAXED) ^ ((uint64_t)rule->seed << 32);
    number = (number ^ (number >> 30)) * 0xbf58476d1ce4e5b9u;
    number = (number ^ (number >> 27)) * 0x94d049bb133111ebu;
    if ((number >> 31) % every != 0)
        return 0;
    __atomic_add_fetch(&rule->hits, 1, __ATOMIC_RELAXED);
    return rule->error;
}

static int has_interest(int fd)
{
    return fd >= 0 && fd < 65536 && interest[fd].epoll > 0;
}

/* The kernel that says EAGAIN, or gives less than it has, says so again later: epoll(7), edge-triggered. */
static void ring_again(int fd)
{
    int saved = errno;
    if (has_interest(fd))
        real_epoll_ctl(interest[fd].epoll, EPOLL_CTL_MOD, fd, &interest[fd].event);
    errno = saved;
}

static int fails(enum call call, int fd)
{
    uint32_t error = verdict(call);
    if (error == 0 || error == SHORT)
        return 0;
    if (error == EAGAIN)
        ring_again(fd);
    errno = (int)error;
    return 1;
}

/* An error with which data does not move: whatever does not pass by itself is the end of a TCP connection. */
static ssize_t stuck(uint32_t error, int in, int out)
{
    struct sockaddr nowhere = {.sa_family = AF_UNSPEC};
    int ends[2] = {in, out};
    for (int i = 0; i < 2; i++) {
        if (error == EAGAIN)
            ring_again(ends[i]);
        else if (error != EINTR && error != ENOSYS)
            real_connect(ends[i], &nowhere, sizeof nowhere);
    }
    errno = (int)error;
    return -1;
}

int accept4(int fd, struct sockaddr *address, socklen_t *length, int flags)
{
    return fails(ACCEPT4, fd) ? -1 : real_accept4(fd, address, length, flags);
}

int pipe2(int ends[2], int flags)
{
    return fails(PIPE2, -1) ? -1 : real_pipe2(ends, flags);
}

ssize_t splice(int in, off64_t *in_at, int out, off64_t *out_at, size_t length, unsigned flags)
{
    uint32_t error = verdict(SPLICE);
    if (error == SHORT) {
        ssize_t count = real_splice(in, in_at, out, out_at, length > 1000 ? 1000 : 1, flags);
        ring_again(in);
        return count;
    }
    if (error != 0)
        return stuck(error, in, out);
    return real_splice(in, in_at, out, out_at, length, flags);
}

int connect(int fd, const struct sockaddr *address, socklen_t length)
{
    return fails(CONNECT, fd) ? -1 : real_connect(fd, address, length);
}

int socket(int domain, int type, int protocol)
{
    return fails(SOCKET, -1) ? -1 : real_socket(domain, type, protocol);
}

int epoll_ctl(int epoll, int operation, int fd, struct epoll_event *event)
{
    if (fails(EPOLL_CTL, fd))
        return -1;
    if (fd >= 0 && fd < 65536 && event && operation != EPOLL_CTL_DEL) {
        interest[fd].epoll = epoll;
        interest[fd].event = *event;
    }
    return real_epoll_ctl(epoll, operation, fd, event);
}

int epoll_wait(int epoll, struct epoll_event *events, int most, int timeout)
{
    return fails(EPOLL_WAIT, -1) ? -1 : real_epoll_wait(epoll, events, most, timeout);
}

ssize_t recv(int fd, void *buffer, size_t length, int flags)
{
    uint32_t error = verdict(RECV);
    /* Without an event that follows, this is not said of what is there: an answer on a netlink socket, say. */
    if ((error == EAGAIN || error == SHORT) && !has_interest(fd))
        error = 0;
    if (error == SHORT && length > 1) {
        ssize_t count = real_recv(fd, buffer, length > 1000 ? 1000 : 1, flags);
        ring_again(fd);
        return count;
    }
    if (error != 0 && error != SHORT)
        return stuck(error, fd, -1);
    return real_recv(fd, buffer, length, flags);
}

ssize_t send(int fd, const void *buffer, size_t length, int flags)
{
    uint32_t error = verdict(SEND);
    if (error == SHORT && length > 1)
        return real_send(fd, buffer, length > 1000 ? 1000 : 1, flags);
    if (error != 0 && error != SHORT)
        return stuck(error, fd, -1);
    return real_send(fd, buffer, length, flags);
}

int setsockopt(int fd, int level, int name, const void *value, socklen_t length)
{
    return fails(SETSOCKOPT, fd) ? -1 : real_setsockopt(fd, level, name, value, length);
}

int getsockopt(int fd, int level, int name, void *value, socklen_t *length)
{
    return fails(GETSOCKOPT, fd) ? -1 : real_getsockopt(fd, level, name, value, length);
}

int getsockname(int fd, struct sockaddr *address, socklen_t *length)
{
    return fails(GETSOCKNAME, fd) ? -1 : real_getsockname(fd, address, length);
}

int shutdown(int fd, int how)
{
    uint32_t error = verdict(SHUTDOWN);
    return error ? (int)stuck(error, fd, -1) : real_shutdown(fd, how);
}

pid_t fork(void)
{
    return fails(FORK, -1) ? -1 : real_fork();
}

int clock_gettime(clockid_t clock, struct timespec *time)
{
    find();
    int result = real_clock_gettime(clock, time);
    if (page && clock == CLOCK_REALTIME && result == 0)
        time->tv_sec += __atomic_load_n(&page->clock, __ATOMIC_RELAXED);
    return result;
}

/* tproxy names its processes (PR_SET_NAME), which tells them apart here. */
int prctl(int option, ...)
{
    unsigned long words[4];
    va_list list;
    va_start(list, option);
    for (int i = 0; i < 4; i++)
        words[i] = va_arg(list, unsigned long);
    va_end(list);
    if (option == PR_SET_NAME && page) {
        const char *name = (const char *)words[0];
        role = strcmp(name, "tproxy-worker") == 0     ? WORKER
               : strcmp(name, "tproxy-resolver") == 0 ? RESOLVER
               : strcmp(name, "tproxy-rules") == 0   ? RULES
                                                      : OTHER;
    }
    find();
    return real_prctl(option, words[0], words[1], words[2], words[3]);
}
