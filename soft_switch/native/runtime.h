/* Runtime of generated pipelines: wide numbers, byte order, hashes, tables, meters.
 *
 * Numbers are exact: the generator picks for each expression a type that holds all its values. Nothing here allocates
 * memory: Python owns tables and cells and passes their addresses.
 */
#include <stdint.h>
#include <string.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
typedef int8_t i8;
typedef int16_t i16;
typedef int32_t i32;
typedef int64_t i64;
typedef unsigned __int128 u128;
typedef __int128 i128;

#define INLINE static inline __attribute__((always_inline, unused))
#define UNUSED __attribute__((unused))

enum { DROPPED = -1, FAULT = -2, TOO_LONG = -3, FAILED = -4 };

/* ---- byte order ---- */

INLINE u64 load16(const u8 *p) { u16 x; memcpy(&x, p, 2); return __builtin_bswap16(x); }
INLINE u64 load32(const u8 *p) { u32 x; memcpy(&x, p, 4); return __builtin_bswap32(x); }
INLINE u64 load64(const u8 *p) { u64 x; memcpy(&x, p, 8); return __builtin_bswap64(x); }

/* n <= 8 bytes, most significant first */
INLINE u64 load(const u8 *p, int n)
{
    u64 x = 0;
    if (n == 8) return load64(p);
    if (n >= 4) { x = load32(p); p += 4; n -= 4; }
    if (n >= 2) { x = x << 16 | load16(p); p += 2; n -= 2; }
    return n ? x << 8 | *p : x;
}

INLINE u128 load_128(const u8 *p, int n)
{
    return n <= 8 ? (u128)load(p, n) : (u128)load(p, n - 8) << 64 | load64(p + n - 8);
}

INLINE void store(u8 *p, int n, u64 x)
{
    if (n == 8) { x = __builtin_bswap64(x); memcpy(p, &x, 8); return; }
    for (int i = n - 1; i >= 0; i--) { p[i] = (u8)x; x >>= 8; }
}

INLINE void store_128(u8 *p, int n, u128 x)
{
    if (n <= 8) { store(p, n, (u64)x); return; }
    store(p + n - 8, 8, (u64)x);
    store(p, n - 8, (u64)(x >> 64));
}

/* ---- shifts by computed counts, floor division ---- */

INLINE u64 shl_64(u64 x, u64 c) { return c < 64 ? x << c : 0; }
INLINE u128 shl_128(u128 x, u64 c) { return c < 128 ? x << c : 0; }
INLINE u64 shr_u64(u64 x, u64 c) { return c < 64 ? x >> c : 0; }
INLINE i64 shr_i64(i64 x, u64 c) { return x >> (c < 64 ? c : 63); }
INLINE u128 shr_u128(u128 x, u64 c) { return c < 128 ? x >> c : 0; }
INLINE i128 shr_i128(i128 x, u64 c) { return x >> (c < 128 ? c : 127); }
INLINE i128 floor_div(i128 a, i128 b) { i128 q = a / b; return q * b != a && (a < 0) != (b < 0) ? q - 1 : q; }
INLINE i128 floor_mod(i128 a, i128 b) { i128 r = a % b; return r && (r < 0) != (b < 0) ? r + b : r; }
INLINE u64 bits_of(u64 x) { return x ? 64 - (u64)__builtin_clzll(x) : 0; }
INLINE u64 bits_of_128(u128 x) { return x >> 64 ? 64 + bits_of((u64)(x >> 64)) : bits_of((u64)x); }

/* ---- numbers of N 64-bit words, least significant first, two's complement ---- */

#define WIDE(N)                                                                                                        \
    typedef struct { u64 w[N]; } w##N;                                                                                 \
    INLINE w##N w##N##_u(u128 x)                                                                                       \
    {                                                                                                                  \
        w##N r = {{(u64)x, (u64)(x >> 64)}};                                                                           \
        return r;                                                                                                      \
    }                                                                                                                  \
    INLINE w##N w##N##_s(i128 x)                                                                                       \
    {                                                                                                                  \
        w##N r;                                                                                                        \
        r.w[0] = (u64)x;                                                                                               \
        r.w[1] = (u64)((u128)x >> 64);                                                                                 \
        for (int i = 2; i < N; i++) r.w[i] = x < 0 ? ~(u64)0 : 0;                                                      \
        return r;                                                                                                      \
    }                                                                                                                  \
    INLINE w##N w##N##_of(const u64 *w, int n, int is_signed)                                                          \
    {                                                                                                                  \
        w##N r;                                                                                                        \
        u64 fill = is_signed && w[n - 1] >> 63 ? ~(u64)0 : 0;                                                          \
        for (int i = 0; i < N; i++) r.w[i] = i < n ? w[i] : fill;                                                      \
        return r;                                                                                                      \
    }                                                                                                                  \
    INLINE u128 w##N##_low(w##N a) { return (u128)a.w[1] << 64 | a.w[0]; }                                             \
    INLINE w##N w##N##_and(w##N a, w##N b)                                                                             \
    {                                                                                                                  \
        for (int i = 0; i < N; i++) a.w[i] &= b.w[i];                                                                  \
        return a;                                                                                                      \
    }                                                                                                                  \
    INLINE w##N w##N##_or(w##N a, w##N b)                                                                              \
    {                                                                                                                  \
        for (int i = 0; i < N; i++) a.w[i] |= b.w[i];                                                                  \
        return a;                                                                                                      \
    }                                                                                                                  \
    INLINE w##N w##N##_xor(w##N a, w##N b)                                                                             \
    {                                                                                                                  \
        for (int i = 0; i < N; i++) a.w[i] ^= b.w[i];                                                                  \
        return a;                                                                                                      \
    }                                                                                                                  \
    INLINE w##N w##N##_not(w##N a)                                                                                     \
    {                                                                                                                  \
        for (int i = 0; i < N; i++) a.w[i] = ~a.w[i];                                                                  \
        return a;                                                                                                      \
    }                                                                                                                  \
    INLINE w##N w##N##_add(w##N a, w##N b)                                                                             \
    {                                                                                                                  \
        u128 carry = 0;                                                                                                \
        for (int i = 0; i < N; i++) {                                                                                  \
            carry += (u128)a.w[i] + b.w[i];                                                                            \
            a.w[i] = (u64)carry;                                                                                       \
            carry >>= 64;                                                                                              \
        }                                                                                                              \
        return a;                                                                                                      \
    }                                                                                                                  \
    INLINE w##N w##N##_neg(w##N a) { return w##N##_add(w##N##_not(a), w##N##_u(1)); }                                  \
    INLINE w##N w##N##_sub(w##N a, w##N b) { return w##N##_add(a, w##N##_neg(b)); }                                    \
    UNUSED static w##N w##N##_mul(w##N a, w##N b)                                                                      \
    {                                                                                                                  \
        w##N r = {{0}};                                                                                                \
        for (int i = 0; i < N; i++) {                                                                                  \
            u128 carry = 0;                                                                                            \
            for (int j = 0; i + j < N; j++) {                                                                          \
                carry += (u128)a.w[i] * b.w[j] + r.w[i + j];                                                           \
                r.w[i + j] = (u64)carry;                                                                               \
                carry >>= 64;                                                                                          \
            }                                                                                                          \
        }                                                                                                              \
        return r;                                                                                                      \
    }                                                                                                                  \
    INLINE w##N w##N##_shl(w##N a, u64 c)                                                                              \
    {                                                                                                                  \
        w##N r;                                                                                                        \
        u64 words = c / 64, bits = c % 64;                                                                             \
        for (u64 i = 0; i < N; i++) {                                                                                  \
            u64 low = i >= words ? a.w[i - words] : 0, below = i >= words + 1 ? a.w[i - words - 1] : 0;                \
            r.w[i] = bits ? low << bits | below >> (64 - bits) : low;                                                  \
        }                                                                                                              \
        return r;                                                                                                      \
    }                                                                                                                  \
    INLINE w##N w##N##_shr(w##N a, u64 c, int is_signed)                                                               \
    {                                                                                                                  \
        w##N r;                                                                                                        \
        u64 words = c / 64, bits = c % 64, fill = is_signed && a.w[N - 1] >> 63 ? ~(u64)0 : 0;                         \
        for (u64 i = 0; i < N; i++) {                                                                                  \
            u64 low = words < N && i + words < N ? a.w[i + words] : fill;                                              \
            u64 above = words < N && i + words + 1 < N ? a.w[i + words + 1] : fill;                                    \
            r.w[i] = bits ? low >> bits | above << (64 - bits) : low;                                                  \
        }                                                                                                              \
        return r;                                                                                                      \
    }                                                                                                                  \
    INLINE int w##N##_cmp(w##N a, w##N b, int is_signed)                                                               \
    {                                                                                                                  \
        if (is_signed) { a.w[N - 1] ^= (u64)1 << 63; b.w[N - 1] ^= (u64)1 << 63; }                                     \
        for (int i = N - 1; i >= 0; i--)                                                                               \
            if (a.w[i] != b.w[i]) return a.w[i] < b.w[i] ? -1 : 1;                                                     \
        return 0;                                                                                                      \
    }                                                                                                                  \
    INLINE int w##N##_any(w##N a)                                                                                      \
    {                                                                                                                  \
        u64 all = 0;                                                                                                   \
        for (int i = 0; i < N; i++) all |= a.w[i];                                                                     \
        return all != 0;                                                                                               \
    }                                                                                                                  \
    /* of a number that is not negative, m < 2^32 */                                                                   \
    INLINE u64 w##N##_mod(w##N a, u64 m)                                                                               \
    {                                                                                                                  \
        u64 r = 0;                                                                                                     \
        if (m == 65535) { /* 2^32 is 1 modulo 65535 */                                                                 \
            for (int i = 0; i < N; i++) r += (a.w[i] >> 32) + (a.w[i] & 0xFFFFFFFF);                                   \
            return r % 65535;                                                                                          \
        }                                                                                                              \
        for (int i = N - 1; i >= 0; i--) {                                                                             \
            r = (r << 32 | a.w[i] >> 32) % m;                                                                          \
            r = (r << 32 | (a.w[i] & 0xFFFFFFFF)) % m;                                                                 \
        }                                                                                                              \
        return r;                                                                                                      \
    }                                                                                                                  \
    INLINE u64 w##N##_bits(w##N a)                                                                                     \
    {                                                                                                                  \
        for (int i = N - 1; i >= 0; i--)                                                                               \
            if (a.w[i]) return 64 * (u64)i + bits_of(a.w[i]);                                                          \
        return 0;                                                                                                      \
    }                                                                                                                  \
    INLINE w##N w##N##_load(const u8 *p, u64 n)                                                                        \
    {                                                                                                                  \
        w##N r = {{0}};                                                                                                \
        for (int i = 0; i < N && n > 0; i++) {                                                                         \
            int m = n < 8 ? (int)n : 8;                                                                                \
            n -= (u64)m;                                                                                               \
            r.w[i] = load(p + n, m);                                                                                   \
        }                                                                                                              \
        return r;                                                                                                      \
    }                                                                                                                  \
    INLINE void w##N##_store(u8 *p, u64 n, w##N a)                                                                     \
    {                                                                                                                  \
        for (int i = 0; i < N && n > 0; i++) {                                                                         \
            int m = n < 8 ? (int)n : 8;                                                                                \
            n -= (u64)m;                                                                                               \
            store(p + n, m, a.w[i]);                                                                                   \
        }                                                                                                              \
    }

/* ---- hashes over concatenated bits, padded with zeros to whole bytes ---- */

struct packer { u8 *at; u32 bits; };

INLINE void put(struct packer *p, u64 x, u32 width)
{
    while (width > 0) {
        u32 used = p->bits & 7, room = 8 - used, take = width < room ? width : room;
        u8 *byte = p->at + (p->bits >> 3);
        u8 piece = (u8)((x >> (width - take) & ((1u << take) - 1)) << (room - take));
        *byte = used ? *byte | piece : piece;
        p->bits += take;
        width -= take;
    }
}

/* a number of several words, least significant first */
INLINE void put_words(struct packer *p, const u64 *w, u32 width)
{
    u32 top = width % 64;
    for (u32 i = (width + 63) / 64; i-- > 0;) {
        u32 part = top ? top : 64;
        top = 0;
        put(p, part < 64 ? w[i] & (((u64)1 << part) - 1) : w[i], part);
    }
}

INLINE u32 packed(const struct packer *p) { return (p->bits + 7) / 8; }

static u32 crc16_table[256], crc32_table[256];

__attribute__((constructor)) static void fill_crc_tables(void)
{
    for (u32 i = 0; i < 256; i++) {
        u32 r = i, q = i;
        for (int k = 0; k < 8; k++) {
            r = r >> 1 ^ (r & 1 ? 0xA001 : 0);
            q = q >> 1 ^ (q & 1 ? 0xEDB88320u : 0);
        }
        crc16_table[i] = r;
        crc32_table[i] = q;
    }
}

UNUSED static u64 crc16(const u8 *p, u64 n, const u8 *q, u64 m)
{
    u32 r = 0;
    for (; n > 0; n--) r = r >> 8 ^ crc16_table[(r ^ *p++) & 0xFF];
    for (; m > 0; m--) r = r >> 8 ^ crc16_table[(r ^ *q++) & 0xFF];
    return r;
}

UNUSED static u64 crc32(const u8 *p, u64 n, const u8 *q, u64 m)
{
    u32 r = 0xFFFFFFFFu;
    for (; n > 0; n--) r = r >> 8 ^ crc32_table[(r ^ *p++) & 0xFF];
    for (; m > 0; m--) r = r >> 8 ^ crc32_table[(r ^ *q++) & 0xFF];
    return r ^ 0xFFFFFFFFu;
}

/* sum or exclusive or of the 16-bit words of p followed by q; an odd last byte is padded on the right */
UNUSED static u64 csum16(const u8 *p, u64 n, const u8 *q, u64 m)
{
    u64 sum = 0, odd = n & 1;
    for (u64 i = 0; i < n; i++) sum += (u64)p[i] << (i & 1 ? 0 : 8);
    for (u64 i = 0; i < m; i++) sum += (u64)q[i] << ((i ^ odd) & 1 ? 0 : 8);
    return sum ? (65535 - sum % 65535) % 65535 : 65535;
}

UNUSED static u64 xor16(const u8 *p, u64 n, const u8 *q, u64 m)
{
    u64 sum = 0, odd = n & 1;
    for (u64 i = 0; i < n; i++) sum ^= (u64)p[i] << (i & 1 ? 0 : 8);
    for (u64 i = 0; i < m; i++) sum ^= (u64)q[i] << ((i ^ odd) & 1 ? 0 : 8);
    return sum;
}

UNUSED static u64 identity(const u8 *p, u64 n, const u8 *q, u64 m)
{
    u64 x = 0;
    int taken = 0;
    for (; n > 0 && taken < 8; n--, taken++) x = x << 8 | *p++;
    for (; m > 0 && taken < 8; m--, taken++) x = x << 8 | *q++;
    return x;
}

/* ---- meters: RFC 2698, colour-blind; tokens in billionths of a unit ---- */

enum { METER_STATE, METER_CIR, METER_CBURST, METER_PIR, METER_PBURST, METER_COMMITTED, METER_PEAK = 7, METER_LAST = 9 };
enum { METER_OFF, METER_RUNS, METER_FRESH };

UNUSED static u64 meter_execute(u64 *m, u64 units, u64 now_ns)
{
    const u64 nano = 1000000000;
    if (m[METER_STATE] == METER_OFF) return 0;
    u128 committed, peak, most = (u128)m[METER_PBURST] * nano, few = (u128)m[METER_CBURST] * nano;
    if (m[METER_STATE] == METER_FRESH) {
        m[METER_STATE] = METER_RUNS;
        m[METER_LAST] = now_ns;
        committed = few;
        peak = most;
    } else {
        memcpy(&committed, m + METER_COMMITTED, 16);
        memcpy(&peak, m + METER_PEAK, 16);
    }
    if (now_ns > m[METER_LAST]) {
        u128 elapsed = now_ns - m[METER_LAST];
        m[METER_LAST] = now_ns;
        peak += elapsed * m[METER_PIR];
        committed += elapsed * m[METER_CIR];
        if (peak > most) peak = most;
        if (committed > few) committed = few;
    }
    u128 need = (u128)units * nano;
    u64 colour = 2;
    if (peak >= need) {
        peak -= need;
        colour = 1;
        if (committed >= need) {
            committed -= need;
            colour = 0;
        }
    }
    memcpy(m + METER_COMMITTED, &committed, 16);
    memcpy(m + METER_PEAK, &peak, 16);
    return colour;
}

/* ---- tables ---- */

/* A record: action id, whether it is a hit, address of the entry's cells, parameters. The record of a group: GROUP, 1,
 * cells, number of the record of its first member, number of members. */
enum { RECORD_ACTION, RECORD_HIT, RECORD_CELLS, RECORD_PARAMETERS };
enum { SEARCH_NONE, SEARCH_EXACT, SEARCH_INTERVALS, SEARCH_BITS, SEARCH_MASKS, SEARCH_PREFIXES };

/* A key field of a search by bits: sorted starts of intervals, each with the set of entries that accept it; a field with
 * masks has sorted values for each mask instead. */
struct column { u32 word, words; u64 parts; const u64 *masks, *starts, *bounds, *sets; };

/* A combination of masks of a search by masks: a hash table, as for exact fields, of entry numbers; best is the first of
 * them. In a search by prefixes, longest first, it holds record numbers, or REMOVED for removed entries. */
struct group { const u64 *masks, *slots; u64 slot_mask, best; };

struct table {
    u64 kind, words, stride, miss;
    const u64 *records;
    /* exact: open addressing, a slot is a record's number + 1 or 0, then the key */
    u64 *slots;
    u64 slot_mask;
    /* intervals: starts of words each, the record of each */
    const u64 *starts, *winners;
    u64 count;
    /* bits */
    const struct column *columns;
    u64 column_count, set_words;
    /* masks */
    const struct group *groups;
    u64 group_count;
    /* results of searches by bits and by masks: generation, record, key */
    u64 *memo;
    u64 memo_mask, generation;
};

INLINE u64 mix(const u64 *key, u64 words)
{
    u64 h = 0x9E3779B97F4A7C15u;
    for (u64 i = 0; i < words; i++) {
        h = (h ^ key[i]) * 0xBF58476D1CE4E5B9u;
        h ^= h >> 32;
    }
    return h;
}

INLINE int same(const u64 *a, const u64 *b, u64 words)
{
    for (u64 i = 0; i < words; i++)
        if (a[i] != b[i]) return 0;
    return 1;
}

INLINE int less_equal(const u64 *a, const u64 *b, u64 words)
{
    for (u64 i = words; i-- > 0;)
        if (a[i] != b[i]) return a[i] < b[i];
    return 1;
}

/* index of the last of count sorted numbers that is not greater than key; the first number is 0 */
INLINE u64 at_or_below(const u64 *starts, u64 count, const u64 *key, u64 words)
{
    u64 low = 0, high = count;
    while (high - low > 1) {
        u64 middle = (low + high) / 2;
        if (less_equal(starts + middle * words, key, words)) low = middle;
        else high = middle;
    }
    return low;
}

UNUSED static u64 search_bits(const struct table *t, const u64 *key)
{
    u64 set[t->set_words];
    memset(set, 0xFF, sizeof set);
    for (u64 c = 0; c < t->column_count; c++) {
        const struct column *column = t->columns + c;
        const u64 *value = key + column->word;
        u64 words = column->words;
        if (!column->masks) {
            const u64 *sets = column->sets + at_or_below(column->starts, column->parts, value, words) * t->set_words;
            for (u64 i = 0; i < t->set_words; i++) set[i] &= sets[i];
            continue;
        }
        u64 some[t->set_words];
        memset(some, 0, sizeof some);
        for (u64 p = 0; p < column->parts; p++) {
            u64 masked[words], first = column->bounds[p], count = column->bounds[p + 1] - first;
            for (u64 i = 0; i < words; i++) masked[i] = value[i] & column->masks[p * words + i];
            u64 low = 0, high = count;
            while (low < high) {
                u64 middle = (low + high) / 2;
                if (less_equal(masked, column->starts + (first + middle) * words, words)) high = middle;
                else low = middle + 1;
            }
            if (low < count && same(column->starts + (first + low) * words, masked, words))
                for (u64 i = 0; i < t->set_words; i++) some[i] |= column->sets[(first + low) * t->set_words + i];
        }
        for (u64 i = 0; i < t->set_words; i++) set[i] &= some[i];
    }
    for (u64 i = 0; i < t->set_words; i++)
        if (set[i]) return 64 * i + (u64)__builtin_ctzll(set[i]);
    return ~(u64)0;
}

/* the number of a key in a hash table with open addressing, ~0 if it is not in it */
INLINE u64 hashed(const u64 *slots, u64 slot_mask, const u64 *key, u64 words)
{
    for (u64 i = mix(key, words) & slot_mask;; i = (i + 1) & slot_mask) {
        const u64 *slot = slots + i * (words + 1);
        if (!slot[0]) return ~(u64)0;
        if (same(slot + 1, key, words)) return slot[0] - 1;
    }
}

UNUSED static u64 search_masks(const struct table *t, const u64 *key, u64 words)
{
    u64 best = ~(u64)0;
    for (u64 g = 0; g < t->group_count && t->groups[g].best < best; g++) {
        const struct group *group = t->groups + g;
        u64 masked[words];
        for (u64 i = 0; i < words; i++) masked[i] = key[i] & group->masks[i];
        u64 rank = hashed(group->slots, group->slot_mask, masked, words);
        if (rank < best) best = rank;
    }
    return best;
}

static const u64 REMOVED = (u64)1 << 62;

UNUSED static u64 search_prefixes(const struct table *t, const u64 *key, u64 words)
{
    for (u64 g = 0; g < t->group_count; g++) {
        const struct group *group = t->groups + g;
        u64 masked[words];
        for (u64 i = 0; i < words; i++) masked[i] = key[i] & group->masks[i];
        u64 record = hashed(group->slots, group->slot_mask, masked, words);
        if (record < REMOVED) return record;
    }
    return t->miss;
}

INLINE const u64 *look_up(const struct table *t, const u64 *key, u64 words)
{
    u64 record = t->miss;
    if (t->kind == SEARCH_EXACT) {
        u64 found = hashed(t->slots, t->slot_mask, key, words);
        if (found != ~(u64)0) record = found;
    } else if (t->kind == SEARCH_INTERVALS) {
        record = t->winners[at_or_below(t->starts, t->count, key, words)];
    } else if (t->kind != SEARCH_NONE) {
        u64 *memo = t->memo + (mix(key, words) & t->memo_mask) * (words + 2);
        if (memo[0] == t->generation && same(memo + 2, key, words)) {
            record = memo[1];
        } else if (t->kind == SEARCH_PREFIXES) {
            memo[0] = t->generation;
            memo[1] = record = search_prefixes(t, key, words);
            memcpy(memo + 2, key, words * 8);
        } else {
            u64 rank = t->kind == SEARCH_BITS ? search_bits(t, key) : search_masks(t, key, words);
            record = rank < t->count ? t->winners[rank] : t->miss;
            memo[0] = t->generation;
            memo[1] = record;
            memcpy(memo + 2, key, words * 8);
        }
    }
    return t->records + record * t->stride;
}

INLINE const u64 *choose(const struct table *t, const u64 *record, u64 hash)
{
    return t->records + (record[RECORD_PARAMETERS] + hash % record[RECORD_PARAMETERS + 1]) * t->stride;
}

/* puts a key into a hash table that has room for it, or changes its number */
void pipeline_put(u64 *slots, u64 slot_mask, const u64 *key, u64 words, u64 number)
{
    u64 i = mix(key, words) & slot_mask;
    while (slots[i * (words + 1)] && !same(slots + i * (words + 1) + 1, key, words)) i = (i + 1) & slot_mask;
    slots[i * (words + 1)] = number + 1;
    memcpy(slots + i * (words + 1) + 1, key, words * 8);
}

/* the number of the record that a key finds, for tests */
u64 pipeline_search(const struct table *t, const u64 *key, u64 words)
{
    return (u64)(look_up(t, key, words) - t->records) / t->stride;
}

/* ---- a pipeline ---- */

/* Does what only Python can do. args holds the arguments, then the results. A result other than 0 is a failure, which ends
 * the processing of the packet. */
typedef int64_t (*call_python)(void *handle, u64 what, u64 *args);

struct pipeline {
    u64 **cells;
    struct table *tables;
    u8 *frame;
    u64 frame_bytes;
    call_python call;
    void *handle;
    u8 *state;
};

UNUSED static u64 draw(struct pipeline *s, u64 what, u64 low, u64 high)
{
    u64 args[] = {low, high};
    return s->call(s->handle, what, args) ? low : args[0];
}
