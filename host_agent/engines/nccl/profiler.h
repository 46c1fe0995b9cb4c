// SPDX-License-Identifier: Apache-2.0
// What this plugin uses of NCCL's profiler interface, version 4 (NCCL 2.27 and later load it), as NCCL documents it in
// ext-profiler/README.md: the table of functions, and the two network events. Fields that are not used keep their place.
#pragma once
#include <stddef.h>
#include <stdint.h>

enum { RESULT_SUCCESS = 0, RESULT_INTERNAL_ERROR = 3 };

// Kinds of events, one bit each; the bits are also the mask of what NCCL reports.
enum { EVENT_NET_PLUGIN = 1 << 7 };

// Of a network event: the transport in the upper half of the identifier, the version of its event in the lower.
enum { NET_VERSION_MASK = 0xFFFF, NET_IB = 1 << 16, NET_SOCKET = 2 << 16 };
enum { NET_EVENT = 1 << 0, SOCKET_SEND = 0 };

struct socket_event {
    uint8_t type;
    struct {
        int fd;
        int operation;
        size_t length;
    } socket;
};

struct queue_pair_event {
    uint8_t type;
    struct {
        int device;
        uint64_t work_request;
        int opcode;
        int number;
        size_t length;
    } queue_pair;
};

struct event {
    uint8_t type;
    void *parent;
    int rank;
    union {
        struct {
            int64_t id;
            void *data;
        } net;
        // The largest description, of a collective.
        struct {
            uint64_t sequence;
            const char *function;
            const void *send;
            void *receive;
            size_t count;
            int root;
            const char *type;
            uint8_t channels, warps;
            const char *algorithm, *protocol;
        } collective;
    };
};

struct profiler {
    const char *name;
    int (*init)(void **context, int *mask, const char *communicator, uint64_t hash, int nodes, int ranks, int rank,
                void (*log)(int, unsigned long, const char *, int, const char *, ...));
    int (*start)(void *context, void **handle, struct event *event);
    int (*stop)(void *handle);
    int (*record)(void *handle, int state, void *arguments);
    int (*finalize)(void *context);
};
