/* Moves packets between packet sockets and a pipeline in machine code: rings, queues, arbiter and pacing.
 *
 * The rules are those of soft_switch.queues.traffic_manager.Port, soft_switch.queues.arbiter.PriorityArbiter,
 * soft_switch.realtime.pacer and soft_switch.realtime.packet_socket; tests check one against the other.
 */
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

typedef uint8_t u8;
typedef uint32_t u32;
typedef uint64_t u64;
typedef int64_t i64;

enum { QUEUES = 8, PORT_NUMBERS = 512, MINIMUM_FRAME = 60, WIRE_OVERHEAD = 24 };
enum { FOR_USER = 1, CHECKSUM_MISSING = 8, VLAN = 0x10, VLAN_TYPE = 0x40 };
enum { DROPPED = -1, FAILED = -4 };
static const u64 NEVER = (u64)1 << 62;

typedef i64 (*ingress_function)(void *, u64, const u8 *, u64, u64, const u64 *);
typedef i64 (*egress_function)(void *, const u8 *, const u8 *, u64, u64, u64, u64, u64);

struct packet {
    struct packet *next;
    u64 enqueued_ns, length, depth;
    u8 bytes[]; /* the state, then the frame */
};

struct queue {
    struct packet *head, *tail;
    u64 packets, bytes, limit, numerator, denominator, due;
    u64 enqueued_packets, enqueued_bytes, dequeued_packets, dequeued_bytes, dropped_packets, dropped_bytes;
};

struct port {
    u64 number;
    int fd;
    u8 *ring;
    u64 slot_bytes, slots, at, longest;
    struct queue queues[QUEUES];
    u64 busy, sent, next_due;
    i64 next_queue;
    u64 rate_bps, excess;
    u64 is_sending, free_ns;
    u64 sent_packets, sent_bytes, unfinished, oversized, unsent;
};

struct forwarder {
    void *pipeline;
    ingress_function ingress;
    egress_function egress;
    const u8 *state, *frame;
    u64 state_bytes;
    struct port *ports;
    u64 port_count;
    struct port *by_number[PORT_NUMBERS];
    i64 cpu_port; /* -1 for none */
    void (*packet_in)(const u8 *, u64);
    u64 catch_up_ns, slipped_ns, worst_ns, undeliverable, faults;
};

static u64 monotonic_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (u64)t.tv_sec * 1000000000u + (u64)t.tv_nsec;
}

static u64 wire_bytes(u64 length) { return (length > MINIMUM_FRAME ? length : MINIMUM_FRAME) + WIRE_OVERHEAD; }

/* ---- the arbiter ---- */

static void backlogged(struct port *p, u64 index, u64 head)
{
    struct queue *q = p->queues + index;
    p->busy |= (u64)1 << index;
    if (q->numerator) {
        q->due = p->sent + head * q->denominator / q->numerator;
        if (q->due < p->next_due) {
            p->next_due = q->due;
            p->next_queue = (i64)index;
        }
    }
}

static void find_next(struct port *p)
{
    p->next_due = NEVER;
    p->next_queue = -1;
    for (u64 i = 0; i < QUEUES; i++)
        if (p->queues[i].due < p->next_due) {
            p->next_due = p->queues[i].due;
            p->next_queue = (i64)i;
        }
}

static i64 choose(const struct port *p)
{
    if (p->sent >= p->next_due) return p->next_queue;
    return p->busy ? 63 - __builtin_clzll(p->busy) : -1;
}

static void served(struct port *p, u64 index, u64 sent, u64 head)
{
    struct queue *q = p->queues + index;
    p->sent += sent;
    if (!head) {
        p->busy &= ~((u64)1 << index);
        q->due = NEVER;
    } else if (q->numerator) {
        q->due = (q->due < p->sent ? q->due : p->sent) + head * q->denominator / q->numerator;
    } else {
        return;
    }
    if ((i64)index == p->next_queue || q->due < p->next_due) find_next(p);
}

/* ---- a port ---- */

/* Queues a packet; returns 0 if the queue has no room for it. */
static int enqueue(struct forwarder *f, struct port *p, u64 priority, const u8 *state, const u8 *data, u64 n, u64 now_ns)
{
    struct queue *q = p->queues + priority % QUEUES;
    struct packet *k;
    if (q->bytes + n > q->limit || !(k = malloc(sizeof *k + f->state_bytes + n))) {
        q->dropped_packets++;
        q->dropped_bytes += n;
        return 0;
    }
    k->next = 0;
    k->enqueued_ns = now_ns;
    k->length = n;
    k->depth = q->packets;
    memcpy(k->bytes, state, f->state_bytes);
    memcpy(k->bytes + f->state_bytes, data, n);
    if (q->head) q->tail->next = k;
    else q->head = k;
    q->tail = k;
    q->packets++;
    q->bytes += n;
    q->enqueued_packets++;
    q->enqueued_bytes += n;
    if (q->packets == 1) backlogged(p, priority % QUEUES, wire_bytes(n));
    if (!p->is_sending) {
        p->is_sending = 1;
        p->free_ns = monotonic_ns();
    }
    return 1;
}

static struct packet *next_packet(struct port *p, u64 *left)
{
    i64 index = choose(p);
    if (index < 0) {
        p->excess = 0;
        return 0;
    }
    struct queue *q = p->queues + index;
    struct packet *k = q->head;
    q->head = k->next;
    *left = --q->packets;
    q->bytes -= k->length;
    q->dequeued_packets++;
    q->dequeued_bytes += k->length;
    served(p, (u64)index, wire_bytes(k->length), q->head ? wire_bytes(q->head->length) : 0);
    return k;
}

static u64 transmission_ns(struct port *p, u64 length)
{
    u64 wire = wire_bytes(length), need = wire * 8000000000u - p->excess;
    u64 duration = (need + p->rate_bps - 1) / p->rate_bps;
    p->excess = duration * p->rate_bps - need;
    p->sent_packets++;
    p->sent_bytes += wire;
    return duration;
}

/* Puts the frame that the port sends next into f->frame. Returns its length, 0 if the port is idle, FAILED if Python
 * failed. */
static i64 transmit(struct forwarder *f, struct port *p, u64 now_ns)
{
    struct packet *k;
    u64 left;
    while ((k = next_packet(p, &left))) {
        i64 length = f->egress(f->pipeline, k->bytes, k->bytes + f->state_bytes, k->length, p->number, k->enqueued_ns,
                               now_ns, k->depth | left << 32);
        free(k);
        if (length >= 0) return length;
        if (length == FAILED) return FAILED;
        if (length != DROPPED) f->faults++;
    }
    return 0;
}

/* ---- the loop ---- */

/* Takes a frame that came in. Returns 0, or FAILED if Python failed. */
i64 forwarder_receive(struct forwarder *f, u64 port, const u8 *data, u64 n, u64 now_ns)
{
    i64 code = f->ingress(f->pipeline, port, data, n, now_ns, 0);
    if (code >= 0) {
        u64 number = (u64)code & 0xFFFFFFFFu;
        struct port *out = number < PORT_NUMBERS ? f->by_number[number] : 0;
        if (out) {
            enqueue(f, out, (u64)code >> 32, f->state, data, n, now_ns);
        } else if ((i64)number == f->cpu_port) {
            code = f->egress(f->pipeline, f->state, data, n, number, now_ns, now_ns, 0);
            if (code >= 0) f->packet_in(f->frame, (u64)code);
            else if (code == FAILED) return FAILED;
        } else {
            f->undeliverable++;
        }
        return 0;
    }
    if (code == FAILED) return FAILED;
    if (code != DROPPED) f->faults++;
    return 0;
}

static i64 take_in(struct forwarder *f, struct port *p, u64 most, u64 *moved)
{
    u8 tagged[65536];
    for (u64 count = 0; p->ring && count < most; count++) {
        u8 *slot = p->ring + p->at * p->slot_bytes;
        u32 status = __atomic_load_n((u32 *)slot, __ATOMIC_ACQUIRE), length, held;
        uint16_t mac, tag, type;
        if (!(status & FOR_USER)) return 0;
        memcpy(&length, slot + 4, 4);
        memcpy(&held, slot + 8, 4);
        memcpy(&mac, slot + 12, 2);
        memcpy(&tag, slot + 24, 2);
        memcpy(&type, slot + 26, 2);
        const u8 *data = slot + mac;
        u64 n = held;
        i64 code = 0;
        if (length > p->longest || length != held || (u64)mac + held > p->slot_bytes) {
            p->oversized++;
        } else if (status & CHECKSUM_MISSING) {
            p->unfinished++;
        } else {
            if (status & VLAN && n >= 12 && n + 4 <= sizeof tagged) {
                if (!(status & VLAN_TYPE)) type = 0x8100;
                memcpy(tagged, data, 12);
                tagged[12] = (u8)(type >> 8);
                tagged[13] = (u8)type;
                tagged[14] = (u8)(tag >> 8);
                tagged[15] = (u8)tag;
                memcpy(tagged + 16, data + 12, n - 12);
                data = tagged;
                n += 4;
            }
            code = forwarder_receive(f, p->number, data, n, monotonic_ns());
        }
        __atomic_store_n((u32 *)slot, 0, __ATOMIC_RELEASE);
        p->at = p->at + 1 < p->slots ? p->at + 1 : 0;
        ++*moved;
        if (code) return code;
    }
    return 0;
}

static i64 send_due(struct forwarder *f, u64 most, u64 *moved)
{
    for (u64 sent = 0; sent < most;) {
        u64 now_ns = monotonic_ns();
        struct port *p = 0;
        for (u64 i = 0; i < f->port_count; i++) {
            struct port *q = f->ports + i;
            if (q->is_sending && q->free_ns <= now_ns && (!p || q->free_ns < p->free_ns)) p = q;
        }
        if (!p) return 0;
        i64 length = transmit(f, p, now_ns);
        if (length == FAILED) return FAILED;
        if (!length) {
            p->is_sending = 0;
            continue;
        }
        u64 late = now_ns - p->free_ns;
        if (late > f->worst_ns) f->worst_ns = late;
        if (late > f->catch_up_ns) {
            f->slipped_ns += late - f->catch_up_ns;
            p->free_ns = now_ns - f->catch_up_ns;
        }
        p->free_ns += transmission_ns(p, (u64)length);
        if (p->fd >= 0 && send(p->fd, f->frame, (size_t)length, MSG_DONTWAIT) != length) p->unsent++;
        sent++;
        ++*moved;
    }
    return 0;
}

/* Moves packets for at most most_ns. *next_ns tells when to call it again: 0 for at once, ~0 if nothing waits, else the
 * time when a port with a waiting packet is free. Returns 0, or FAILED if Python failed. */
i64 forwarder_run(struct forwarder *f, u64 arrivals, u64 departures, u64 most_ns, u64 poll_ns, u64 *next_ns)
{
    u64 end_ns = monotonic_ns() + most_ns;
    *next_ns = 0;
    for (;;) {
        u64 moved = 0;
        for (u64 i = 0; i < f->port_count; i++) {
            i64 code = take_in(f, f->ports + i, arrivals, &moved);
            if (!code) code = send_due(f, departures, &moved);
            if (code) return code;
        }
        u64 now_ns = monotonic_ns();
        if (now_ns >= end_ns) return 0;
        if (moved) continue;
        u64 first = ~(u64)0;
        for (u64 i = 0; i < f->port_count; i++)
            if (f->ports[i].is_sending && f->ports[i].free_ns < first) first = f->ports[i].free_ns;
        /* Timers are less exact than that: poll for the remaining time. */
        if (first != ~(u64)0 && first <= now_ns + poll_ns) continue;
        *next_ns = first;
        return 0;
    }
}

/* Drops all queued packets; returns how many there were. */
u64 forwarder_clear(struct forwarder *f)
{
    u64 count = 0, left;
    for (u64 i = 0; i < f->port_count; i++) {
        struct packet *k;
        while ((k = next_packet(f->ports + i, &left))) {
            free(k);
            count++;
        }
    }
    return count;
}

/* For tests: queue a packet, and take one out. */
int forwarder_enqueue(struct forwarder *f, u64 port, u64 priority, const u8 *data, u64 n, u64 now_ns)
{
    return enqueue(f, f->by_number[port], priority, f->state, data, n, now_ns);
}

/* Returns the number of the queue, or -1; out gets length, depth when it was queued, depth left. */
i64 forwarder_next(struct forwarder *f, u64 port, u64 *out)
{
    struct port *p = f->by_number[port];
    i64 index = choose(p);
    struct packet *k = next_packet(p, out + 2);
    if (!k) return -1;
    out[0] = k->length;
    out[1] = k->depth;
    free(k);
    return index;
}

u64 forwarder_transmission_ns(struct forwarder *f, u64 port, u64 length)
{
    return transmission_ns(f->by_number[port], length);
}
