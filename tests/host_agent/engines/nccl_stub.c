// SPDX-License-Identifier: Apache-2.0
// Drives the plugin of NCCL's profiler as NCCL does: `nccl_stub PLUGIN`. Sends over two connections, receives over a
// third, and reports events that the plugin must ignore. Prints the cookies of all sockets, and what the plugin noted.
#include "profiler.h"

#include <arpa/inet.h>
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

enum { CONNECTIONS = 3, THREADS = 4, ROUNDS = 1000 };

static const struct profiler *profiler;
static int ends[CONNECTIONS][2];
static void *context;

static void connect_all(void)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof(at);
    int listener = socket(AF_INET, SOCK_STREAM, 0);

    bind(listener, (struct sockaddr *)&at, size);
    listen(listener, CONNECTIONS);
    getsockname(listener, (struct sockaddr *)&at, &size);
    for (int number = 0; number < CONNECTIONS; number++) {
        ends[number][0] = socket(AF_INET, SOCK_STREAM, 0);
        connect(ends[number][0], (struct sockaddr *)&at, sizeof(at));
        ends[number][1] = accept(listener, 0, 0);
    }
    close(listener);
}

static unsigned long long cookie_of(int fd)
{
    uint64_t cookie = 0;
    socklen_t size = sizeof(cookie);

    getsockopt(fd, SOL_SOCKET, 57, &cookie, &size);
    return cookie;
}

static void report(uint8_t type, int64_t id, void *data)
{
    struct event event = {.type = type, .net = {.id = id, .data = data}};
    void *handle = &event;

    if (profiler->start(context, &handle, &event) || profiler->record(handle, 0, 0) || profiler->stop(handle))
        printf("refused\n");
}

static void *proxy_thread(void *unused)
{
    for (int round = 0; round < ROUNDS; round++) {
        for (int number = 0; number < CONNECTIONS; number++) {
            struct socket_event socket = {NET_EVENT, {ends[number][0], number == 2 ? 1 : SOCKET_SEND, 4096}};

            report(EVENT_NET_PLUGIN, NET_SOCKET | 1, &socket);
        }
        struct queue_pair_event pair = {NET_EVENT, {0, round, 0, 0x1a2b + round % 2, 4096}};
        report(EVENT_NET_PLUGIN, NET_IB | 1, &pair);
    }
    return unused;
}

int main(int count, char **arguments)
{
    struct socket_event wrong = {NET_EVENT, {-1, SOCKET_SEND, 1}}, other;
    pthread_t threads[THREADS];
    uint64_t sockets[16];
    uint32_t pairs[16];
    int mask = 0;
    void *library = count == 2 ? dlopen(arguments[1], RTLD_NOW | RTLD_LOCAL) : 0;

    if (!library) {
        fprintf(stderr, "%s\n", count == 2 ? dlerror() : "usage: nccl_stub PLUGIN");
        return 1;
    }
    profiler = dlsym(library, "ncclProfiler_v4");
    int (*noted_sockets)(uint64_t *, int) = (int (*)(uint64_t *, int))dlsym(library, "mfs_nccl_sockets");
    int (*noted_pairs)(uint32_t *, int) = (int (*)(uint32_t *, int))dlsym(library, "mfs_nccl_queue_pairs");
    connect_all();
    if (profiler->init(&context, &mask, "world", 7, 2, 2, 0, 0) != RESULT_SUCCESS)
        return 1;
    printf("name %s\nmask %d\n", profiler->name, mask);
    for (int number = 0; number < CONNECTIONS; number++)
        printf("cookie %llu\n", cookie_of(ends[number][0]));
    // None of these is a send over a socket of a version that the plugin knows.
    other = (struct socket_event){NET_EVENT, {ends[2][1], SOCKET_SEND, 1}};
    report(EVENT_NET_PLUGIN, NET_SOCKET | 2, &other);
    report(EVENT_NET_PLUGIN, 3 << 16 | 1, &other);
    report(1 << 4, NET_SOCKET | 1, &other);
    report(EVENT_NET_PLUGIN, NET_SOCKET | 1, 0);
    report(EVENT_NET_PLUGIN, NET_SOCKET | 1, &wrong);
    for (int number = 0; number < THREADS; number++)
        pthread_create(&threads[number], 0, proxy_thread, 0);
    for (int number = 0; number < THREADS; number++)
        pthread_join(threads[number], 0);
    for (int number = noted_sockets(sockets, 16); number-- > 0;)
        printf("noted %llu\n", (unsigned long long)sockets[number]);
    for (int number = noted_pairs(pairs, 16); number-- > 0;)
        printf("pair %x\n", pairs[number]);
    return profiler->finalize(context);
}
