// SPDX-License-Identifier: Apache-2.0
// Integer types, byte order and the kernel's BPF helper functions.
#pragma once
#include <linux/bpf.h>
#include <linux/pkt_cls.h>

typedef __u8 u8;
typedef __u16 u16;
typedef __u32 u32;
typedef __u64 u64;
typedef __s32 s32;
typedef __s64 s64;

#define SECTION(name) __attribute__((section(name), used))
#define INLINE static inline __attribute__((always_inline))
#define NETWORK16(x) __builtin_bswap16(x)
#define NETWORK32(x) __builtin_bswap32(x)
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the byte swaps assume a little-endian machine");

static void *(*map_lookup)(const void *, const void *) = (void *)BPF_FUNC_map_lookup_elem;
static long (*map_update)(const void *, const void *, const void *, u64) = (void *)BPF_FUNC_map_update_elem;
static u64 (*time_ns)(void) = (void *)BPF_FUNC_ktime_get_ns;
static u64 (*socket_cookie)(void *) = (void *)BPF_FUNC_get_socket_cookie;
static u64 (*cgroup_id)(void *) = (void *)BPF_FUNC_skb_cgroup_id;
static long (*load_bytes)(const void *, u32, void *, u32) = (void *)BPF_FUNC_skb_load_bytes;
static long (*store_bytes)(void *, u32, const void *, u32, u64) = (void *)BPF_FUNC_skb_store_bytes;
static long (*replace_checksum)(void *, u32, u64, u64, u64) = (void *)BPF_FUNC_l4_csum_replace;
static long (*change_head)(void *, u32, u64) = (void *)BPF_FUNC_skb_change_head;
static long (*pull_data)(void *, u32) = (void *)BPF_FUNC_skb_pull_data;
static long (*adjust_room)(void *, s32, u32, u64) = (void *)BPF_FUNC_skb_adjust_room;
static long (*push_tag)(void *, u16, u16) = (void *)BPF_FUNC_skb_vlan_push;
static long (*pop_tag)(void *) = (void *)BPF_FUNC_skb_vlan_pop;
static long (*redirect)(u32, u64) = (void *)BPF_FUNC_redirect;
static u64 (*namespace_cookie)(void *) = (void *)BPF_FUNC_get_netns_cookie;
static struct bpf_sock *(*full_socket)(struct bpf_sock *) = (void *)BPF_FUNC_sk_fullsock;
static void *(*socket_storage)(void *, struct bpf_sock *, void *, u64) = (void *)BPF_FUNC_sk_storage_get;
static long (*set_callbacks)(struct bpf_sock_ops *, int) = (void *)BPF_FUNC_sock_ops_cb_flags_set;
static long (*reserve_option)(struct bpf_sock_ops *, u32, u64) = (void *)BPF_FUNC_reserve_hdr_opt;
static long (*load_option)(struct bpf_sock_ops *, void *, u32, u64) = (void *)BPF_FUNC_load_hdr_opt;
static long (*adjust_head)(void *, int) = (void *)BPF_FUNC_xdp_adjust_head;
