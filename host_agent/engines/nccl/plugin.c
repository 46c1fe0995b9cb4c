// SPDX-License-Identifier: Apache-2.0
// A profiler plugin of NCCL that notes over which sockets and queue pairs collectives send. NCCL calls it in its proxy
// threads, so it only looks and notes: no lock, no allocation, no input or output, and rarely a system call. The engine
// in the same process reads what is noted (host_agent/engines/nccl/__init__.py) and asks the host agent.
#include "profiler.h"

#include <stdatomic.h>
#include <sys/socket.h>

#ifndef SO_COOKIE
#define SO_COOKIE 57
#endif
#define EXPORT __attribute__((visibility("default")))
#define FILES_MAX 65536
#define QUEUE_PAIRS_MAX 4096
// A descriptor that was closed may come back as another socket; the cookie is asked for again after so many events.
#define EVENTS_PER_LOOK 256

static _Atomic uint64_t cookies[FILES_MAX];
static _Atomic uint32_t seen[FILES_MAX];
static _Atomic int files;
static _Atomic uint32_t queue_pairs[QUEUE_PAIRS_MAX];

static void note_socket(int fd)
{
    uint64_t cookie = 0;
    socklen_t size = sizeof(cookie);
    int highest = atomic_load_explicit(&files, memory_order_relaxed);

    if (fd < 0 || fd >= FILES_MAX)
        return;
    if (atomic_fetch_add_explicit(&seen[fd], 1, memory_order_relaxed) % EVENTS_PER_LOOK)
        return;
    if (getsockopt(fd, SOL_SOCKET, SO_COOKIE, &cookie, &size))
        return;
    atomic_store(&cookies[fd], cookie);
    while (highest <= fd && !atomic_compare_exchange_weak(&files, &highest, fd + 1))
        ;
}

static void note_queue_pair(uint32_t number)
{
    for (int place = 0; place < QUEUE_PAIRS_MAX; place++) {
        uint32_t held = 0;

        if (atomic_load_explicit(&queue_pairs[place], memory_order_relaxed) == number ||
            atomic_compare_exchange_strong(&queue_pairs[place], &held, number) || held == number)
            return;
    }
}

// Returns up to `room` cookies of sockets in `found`, and their number.
EXPORT int mfs_nccl_sockets(uint64_t *found, int room)
{
    int count = 0, highest = atomic_load(&files);

    for (int fd = 0; fd < highest && count < room; fd++) {
        uint64_t cookie = atomic_load(&cookies[fd]);

        if (cookie)
            found[count++] = cookie;
    }
    return count;
}

// Returns up to `room` numbers of this host's queue pairs in `found`, and their number.
EXPORT int mfs_nccl_queue_pairs(uint32_t *found, int room)
{
    int count = 0;

    while (count < room && count < QUEUE_PAIRS_MAX && (found[count] = atomic_load(&queue_pairs[count])))
        count++;
    return count;
}

static int init(void **context, int *mask, const char *communicator, uint64_t hash, int nodes, int ranks, int rank,
                void (*log)(int, unsigned long, const char *, int, const char *, ...))
{
    (void)communicator, (void)hash, (void)nodes, (void)ranks, (void)rank, (void)log;
    *context = 0;
    *mask = EVENT_NET_PLUGIN;
    return RESULT_SUCCESS;
}

static int start(void *context, void **handle, struct event *event)
{
    (void)context;
    *handle = 0;
    if (event->type != EVENT_NET_PLUGIN || !event->net.data || (event->net.id & NET_VERSION_MASK) != 1)
        return RESULT_SUCCESS;
    if ((event->net.id & ~NET_VERSION_MASK) == NET_SOCKET) {
        const struct socket_event *at = event->net.data;

        if (at->type == NET_EVENT && at->socket.operation == SOCKET_SEND)
            note_socket(at->socket.fd);
    } else if ((event->net.id & ~NET_VERSION_MASK) == NET_IB) {
        const struct queue_pair_event *at = event->net.data;

        if (at->type == NET_EVENT && at->queue_pair.number > 0)
            note_queue_pair((uint32_t)at->queue_pair.number);
    }
    return RESULT_SUCCESS;
}

static int stop(void *handle)
{
    (void)handle;
    return RESULT_SUCCESS;
}

static int record(void *handle, int state, void *arguments)
{
    (void)handle, (void)state, (void)arguments;
    return RESULT_SUCCESS;
}

static int finalize(void *context)
{
    (void)context;
    return RESULT_SUCCESS;
}

EXPORT const struct profiler ncclProfiler_v4 = {"mfs", init, start, stop, record, finalize};
