/* A core from snapshot bytes. Nothing in them is believed: every length, id, order and count is checked where
 * it is read, and the state hash at the end. */
#include "base/error.h"
#include "base/text.h"
#include "session/near_private.h"
#include "session/wire.h"

#include <endian.h>
#include <inttypes.h>
#include <string.h>

static const char *const section_names[] = {
    [DN_SECTION_META] = "meta",       [DN_SECTION_ITEMS] = "items",
    [DN_SECTION_SOURCES] = "sources", [DN_SECTION_TOMBSTONES] = "tombstones",
    [DN_SECTION_USERS] = "users",     [DN_SECTION_DEAD] = "dead letters",
    [DN_SECTION_STALL] = "stall",     [DN_SECTION_NEAR] = "near",
};

static enum dn_code corrupt(const struct dn_source *in, struct dn_error *err, uint8_t tag, const char *what)
{
    if (in->code != DN_OK) { /* the stream's own trouble: cut short, or its file cannot be read */
        return dn_fail(err, in->code, "snapshot of a shard: section %s: %s", section_names[tag],
                       in->error.message);
    }
    return dn_fail(err, DN_CORRUPT, "snapshot of a shard: section %s: %s before byte %" PRIu64,
                   section_names[tag], what, in->total);
}

static bool time_ok(int64_t time_ms)
{
    return time_ms >= 0 && time_ms < DN_TIME_MAX_MS;
}

static enum dn_code read_section(struct dn_source *in, uint8_t tag, uint32_t max, uint32_t *ret_count,
                                 struct dn_error *err)
{
    uint8_t found = dn_source_u8(in);
    uint32_t count = dn_source_u32(in);
    if (in->code != DN_OK || found != tag || count > max) {
        return corrupt(in, err, tag, "bad head");
    }
    *ret_count = count;
    return DN_OK;
}

static enum dn_code read_meta(struct dn_core *core, struct dn_source *in, uint16_t version,
                              struct dn_error *err)
{
    uint32_t count = 0;
    enum dn_code code = read_section(in, DN_SECTION_META, 1, &count, err);
    if (code != DN_OK) {
        return code;
    }
    struct dn_meta *meta = &core->meta;
    meta->time_ms = dn_source_i64(in);
    meta->max_event_ms = dn_source_i64(in);
    meta->forget_floor_ms = dn_source_i64(in);
    meta->touch = dn_source_u64(in);
    meta->unref = dn_source_u64(in);
    meta->erase_order = dn_source_u64(in);
    meta->trend_landmark_ms = dn_source_i64(in);
    meta->trend_epoch = dn_source_u32(in);
    meta->events_applied = dn_source_u64(in);
    meta->duplicates = dn_source_u64(in);
    meta->late = dn_source_u64(in);
    meta->refused = dn_source_u64(in);
    meta->erased = dn_source_u64(in);
    meta->evicted = dn_source_u64(in);
    meta->expired = dn_source_u64(in);
    bool near = version >= DN_SNAPSHOT_VERSION;
    meta->has_near = near;
    size_t settings_bytes = DN_SETTINGS_BYTES + (near ? DN_SETTINGS_NEAR_BYTES : 0);
    const uint8_t *bytes = dn_source_bytes(in, settings_bytes);
    struct dn_reader reader;
    dn_reader_init(&reader, bytes, bytes == NULL ? 0 : settings_bytes);
    bool whole = dn_decode_settings(&reader, near, &meta->settings);
    if (near) {
        meta->near_landmark_ms = dn_source_i64(in);
        meta->near_epoch = dn_source_u32(in);
    }
    if (!whole || count != 1 || dn_shard_settings_check(&meta->settings, NULL) != DN_OK) {
        return corrupt(in, err, DN_SECTION_META, "bad settings");
    }
    if (!time_ok(meta->time_ms) || !time_ok(meta->max_event_ms) || meta->forget_floor_ms < 0 ||
        meta->forget_floor_ms >= 2 * DN_TIME_MAX_MS || meta->trend_landmark_ms > meta->time_ms ||
        meta->trend_landmark_ms < -DN_TIME_MAX_MS ||
        meta->time_ms - meta->trend_landmark_ms >= DN_TREND_SHIFT * meta->settings.trend_half_life_ms ||
        !time_ok(meta->near_landmark_ms) || meta->near_landmark_ms > meta->time_ms) {
        return corrupt(in, err, DN_SECTION_META, "bad time");
    }
    dn_popular_advance(core);
    return DN_OK;
}

/* Items are numbered anew, without holes: names[id in the bytes] is the id here plus one. Otherwise a few
 * bytes with a high id could ask for all memory that the most items need. */
static enum dn_code read_items(struct dn_core *core, struct dn_source *in, uint32_t *names,
                               struct dn_error *err)
{
    uint32_t count = 0;
    enum dn_code code = read_section(in, DN_SECTION_ITEMS, DN_ITEMS_LIMIT, &count, err);
    if (code != DN_OK) {
        return code;
    }
    int64_t last = -1;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t id = dn_source_u32(in);
        uint64_t trend = dn_source_u64(in);
        uint32_t epoch = dn_source_u32(in);
        uint64_t unref = dn_source_u64(in);
        uint8_t in_heap = dn_source_u8(in);
        uint16_t length = dn_source_u16(in);
        const char *bytes = (const char *)dn_source_bytes(in, length);
        if (in->code != DN_OK || id >= DN_ITEM_IDS || (int64_t)id <= last || in_heap > 1 ||
            epoch > core->meta.trend_epoch || unref > core->meta.unref || !dn_id_valid(bytes, length)) {
            return corrupt(in, err, DN_SECTION_ITEMS, "bad item");
        }
        last = id;
        if (!dn_item_restore(core, i, bytes, length, trend, epoch, unref)) {
            return corrupt(in, err, DN_SECTION_ITEMS, "item twice");
        }
        if (in_heap == 1 && !dn_trend_restore(core, i)) {
            return corrupt(in, err, DN_SECTION_ITEMS, "too many trending");
        }
        names[id] = i + 1;
    }
    core->item_bound = count;
    return DN_OK;
}

static bool progress_ok(const struct dn_source_progress *progress)
{
    return time_ok(progress->floor_ms) && progress->next_offset >= DN_OFFSET_UNSET &&
           (progress->newest_ms == DN_TIME_NONE || time_ok(progress->newest_ms));
}

/* Whose place is given away must not depend on where they stand. */
static bool finished_ok(const struct dn_core *core)
{
    const struct dn_source_list *list = atomic_load_explicit(&core->sources, memory_order_relaxed);
    struct dn_order *order = dn_slab_alloc(core->slab, DN_SOURCES_MAX * sizeof *order);
    size_t count = 0;
    for (uint32_t i = 0; i < list->count; i++) {
        uint64_t finished = dn_source_progress(list->sources[i]).finished;
        if (finished != 0) {
            order[count++] = (struct dn_order){.at = finished, .id = i};
        }
    }
    bool good = dn_order_sort(order, count) && (count == 0 || order[count - 1].at < UINT64_MAX);
    dn_slab_free(core->slab, order, DN_SOURCES_MAX * sizeof *order);
    return good;
}

static enum dn_code read_sources(struct dn_core *core, struct dn_source *in, uint16_t version,
                                 struct dn_error *err)
{
    uint32_t count = 0;
    enum dn_code code = read_section(in, DN_SECTION_SOURCES, DN_SOURCES_MAX, &count, err);
    if (code != DN_OK) {
        return code;
    }
    for (uint32_t i = 0; i < count; i++) {
        size_t length = 0;
        char name[DN_SOURCE_MAX]; /* what the stream points at is gone with its next value */
        const uint8_t *bytes = dn_source_blob(in, sizeof name, &length);
        if (bytes != NULL) {
            memcpy(name, bytes, length);
        }
        uint32_t partition = dn_source_u32(in);
        struct dn_source_progress progress = {.floor_ms = dn_source_i64(in), .newest_ms = DN_TIME_NONE};
        progress.next_offset = dn_source_i64(in);
        if (version >= 2) {
            progress.newest_ms = dn_source_i64(in);
            progress.events = dn_source_u64(in);
        }
        if (version >= 3) {
            progress.finished = dn_source_u64(in);
        }
        if (in->code != DN_OK || !progress_ok(&progress) ||
            dn_source_find(core, name, length, partition) != NULL) {
            return corrupt(in, err, DN_SECTION_SOURCES, "bad source");
        }
        dn_source_move(core, dn_source_add(core, name, length, partition), &progress);
    }
    return finished_ok(core) ? DN_OK : corrupt(in, err, DN_SECTION_SOURCES, "two finished at once");
}

/* Every number that was ever given has been counted: the counts' sum is the next one. */
static bool read_dead_counts(struct dn_core *core, struct dn_source *in, uint32_t count)
{
    uint64_t counts[DN_DEAD_REASON_MAX + 1] = {0}, next = 0, written = dn_source_u64(in);
    for (size_t reason = 1; reason <= DN_DEAD_REASON_MAX; reason++) {
        counts[reason] = dn_source_u64(in);
        if (counts[reason] > UINT64_MAX - next) {
            return false;
        }
        next += counts[reason];
    }
    if (in->code != DN_OK || next < count || written != next - count || next > UINT64_MAX - DN_DEAD_MAX) {
        return false;
    }
    dn_dead_begin(core, written, counts);
    return true;
}

static enum dn_code read_dead(struct dn_core *core, struct dn_source *in, struct dn_error *err)
{
    uint32_t count = 0;
    enum dn_code code = read_section(in, DN_SECTION_DEAD, DN_DEAD_MAX, &count, err);
    if (code != DN_OK) {
        return code;
    }
    if (!read_dead_counts(core, in, count)) {
        return corrupt(in, err, DN_SECTION_DEAD, "bad counts");
    }
    uint64_t waiting[DN_DEAD_REASON_MAX + 1] = {0};
    const struct dn_source_list *sources = atomic_load_explicit(&core->sources, memory_order_relaxed);
    for (uint32_t i = 0; i < count; i++) {
        struct dn_dead letter = {.source = dn_source_u32(in)};
        letter.offset = dn_source_i64(in);
        letter.time_ms = dn_source_i64(in);
        letter.reason = dn_source_u8(in);
        if (in->code != DN_OK || letter.source >= sources->count || letter.offset < 0 ||
            !time_ok(letter.time_ms) || letter.time_ms > core->meta.time_ms ||
            letter.reason < DN_DEAD_UNDECODABLE || letter.reason > DN_DEAD_REASON_MAX ||
            ++waiting[letter.reason] > core->dead.counts[letter.reason]) {
            return corrupt(in, err, DN_SECTION_DEAD, "bad letter");
        }
        dn_dead_append(core, &letter);
    }
    return DN_OK;
}

static enum dn_code read_stall(struct dn_core *core, struct dn_source *in, struct dn_error *err)
{
    uint32_t count = 0;
    enum dn_code code = read_section(in, DN_SECTION_STALL, 1, &count, err);
    if (code != DN_OK || count == 0) {
        return code;
    }
    size_t length = 0;
    int64_t since_ms = dn_source_i64(in);
    const char *reason = (const char *)dn_source_blob(in, DN_STALL_REASON_MAX, &length);
    if (in->code != DN_OK || since_ms == 0 || !time_ok(since_ms)) {
        return corrupt(in, err, DN_SECTION_STALL, "bad stall");
    }
    dn_stall_set(core, since_ms, reason, length);
    return DN_OK;
}

static enum dn_code read_tombstones(struct dn_core *core, struct dn_source *in, struct dn_error *err)
{
    uint32_t count = 0;
    enum dn_code code = read_section(in, DN_SECTION_TOMBSTONES, DN_TOMBSTONES_MAX, &count, err);
    if (code != DN_OK) {
        return code;
    }
    uint64_t last = 0;
    for (uint32_t i = 0; i < count; i++) {
        struct dn_tombstone tombstone = {.user = {.high = dn_source_u64(in)}};
        tombstone.user.low = dn_source_u64(in);
        tombstone.until_ms = dn_source_i64(in);
        tombstone.request_id = dn_source_u64(in);
        tombstone.order = dn_source_u64(in);
        uint8_t existed = dn_source_u8(in);
        if (in->code != DN_OK || existed > 1 || tombstone.until_ms < 0 ||
            tombstone.until_ms >= 2 * DN_TIME_MAX_MS || tombstone.order <= last ||
            tombstone.order > core->meta.erase_order ||
            tombstone.until_ms < dn_tombstone_until(core, tombstone.user)) {
            return corrupt(in, err, DN_SECTION_TOMBSTONES, "bad tombstone");
        }
        last = tombstone.order;
        tombstone.existed = existed == 1;
        dn_tombstone_add(core, &tombstone);
    }
    if (core->tombstones.count != count) {
        return corrupt(in, err, DN_SECTION_TOMBSTONES, "too many of one user");
    }
    return DN_OK;
}

/* ---- users ----------------------------------------------------------------------------------------- */

static inline uint64_t take(const uint8_t **at, size_t bytes)
{
    uint64_t value = 0;
    memcpy(&value, *at, bytes);
    *at += bytes;
    return le64toh(value);
}

#define BLOCK_HEAD_BYTES (7 * 8 + 4 + 2 * DN_EVENT_TYPE_MAX + 2 + 2)
#define EVENT_BYTES 23
#define WINDOW_ID_BYTES 16

_Static_assert(DN_EVENTS_PER_USER_MAX *EVENT_BYTES + DN_IDS_PER_USER_MAX * WINDOW_ID_BYTES <=
                   DN_STREAM_BUFFER_BYTES,
               "a user must lie together in a stream's buffer");

static bool read_event(const uint8_t **at, const uint32_t *names, struct dn_event *event)
{
    event->time_ms = (int64_t)take(at, 8);
    event->id = take(at, 8);
    uint32_t item = (uint32_t)take(at, 4);
    event->weight = (uint16_t)take(at, 2);
    event->type = (uint8_t)take(at, 1);
    event->reserved = 0;
    event->item = item < DN_ITEM_IDS ? names[item] : 0;
    return time_ok(event->time_ms) && event->type >= 1 && event->type <= DN_EVENT_TYPE_MAX &&
           event->item != 0;
}

static bool head_ok(const struct dn_core *core, const struct dn_block *block)
{
    return time_ok(block->arrival_ms) && block->arrival_ms <= core->meta.time_ms && block->touch > 0 &&
           block->touch <= core->meta.touch && time_ok(block->start_ms) && block->floor_ms >= 0 &&
           block->floor_ms < 2 * DN_TIME_MAX_MS && block->event_count >= 1 &&
           block->event_count <= DN_EVENTS_PER_USER_MAX && block->id_count <= DN_IDS_PER_USER_MAX;
}

static void read_head(const uint8_t *at, struct dn_block *block)
{
    block->user.high = take(&at, 8);
    block->user.low = take(&at, 8);
    block->version = take(&at, 8);
    block->arrival_ms = (int64_t)take(&at, 8);
    block->touch = take(&at, 8);
    block->start_ms = (int64_t)take(&at, 8);
    block->floor_ms = (int64_t)take(&at, 8);
    block->session_events = (uint32_t)take(&at, 4);
    for (size_t i = 0; i < DN_EVENT_TYPE_MAX; i++) {
        block->counts[i] = (uint16_t)take(&at, 2);
    }
    block->event_count = (uint16_t)take(&at, 2);
    block->id_count = (uint16_t)take(&at, 2);
    block->reserved = 0;
}

/* What the bytes say, in a block of its own; false if it breaks a rule (then the core is thrown away). */
static bool read_body(struct dn_core *core, const uint8_t *at, const uint32_t *names, struct dn_block *block)
{
    int64_t before_ms = 0;
    uint32_t rank = 0;
    for (size_t i = 0; i < block->event_count; i++) {
        struct dn_event *event = &block->events[i];
        if (!read_event(&at, names, event) || event->time_ms < before_ms) {
            return false;
        }
        event->item--;
        before_ms = event->time_ms;
        rank = dn_event_rank(block, i, rank);
        core->sum += dn_event_hash(block->user, event, dn_item_get(core, event->item)->hash, rank);
        dn_item_slot(core, event->item)->refs++;
        if (event->type != DN_EVENT_DISLIKE && event->type != DN_EVENT_REMOVE) {
            dn_popular_add(core, event->item, event->time_ms, event->weight);
        }
    }
    struct dn_window_id *ids = (struct dn_window_id *)(void *)(block->events + block->event_count);
    for (size_t i = 0; i < block->id_count; i++) {
        ids[i].id = take(&at, 8);
        ids[i].time_ms = (int64_t)take(&at, 8);
        if (ids[i].id == 0 || !time_ok(ids[i].time_ms) || ids[i].time_ms < block->floor_ms) {
            return false;
        }
        core->sum += dn_window_id_hash(block->user, &ids[i]);
    }
    core->sum += dn_block_hash(block);
    return block->start_ms <= before_ms;
}

static enum dn_code read_users(struct dn_core *core, struct dn_source *in, const uint32_t *names,
                               struct dn_error *err)
{
    uint32_t count = 0;
    enum dn_code code = read_section(in, DN_SECTION_USERS, DN_USERS_LIMIT, &count, err);
    if (code != DN_OK) {
        return code;
    }
    for (uint32_t i = 0; i < count; i++) {
        struct dn_block head;
        const uint8_t *bytes = dn_source_bytes(in, BLOCK_HEAD_BYTES);
        if (bytes == NULL) {
            return corrupt(in, err, DN_SECTION_USERS, "cut short");
        }
        read_head(bytes, &head);
        if (!head_ok(core, &head)) {
            return corrupt(in, err, DN_SECTION_USERS, "bad user");
        }
        bytes = dn_source_bytes(in, head.event_count * (size_t)EVENT_BYTES +
                                        head.id_count * (size_t)WINDOW_ID_BYTES);
        if (bytes == NULL) {
            return corrupt(in, err, DN_SECTION_USERS, "cut short");
        }
        struct dn_block *block = dn_slab_alloc(core->slab, dn_block_bytes(head.event_count, head.id_count));
        *block = head;
        block->generation = core->generation;
        if (!read_body(core, bytes, names, block) || dn_user_find(core, block->user) != DN_ID_NONE) {
            return corrupt(in, err, DN_SECTION_USERS, "bad user");
        }
        dn_user_add(core, block);
    }
    return DN_OK;
}

static enum dn_code read_near(struct dn_core *core, struct dn_source *in, const uint32_t *names,
                              struct dn_error *err)
{
    uint32_t count = 0;
    enum dn_code code = read_section(in, DN_SECTION_NEAR, DN_ITEMS_LIMIT, &count, err);
    if (code != DN_OK) {
        return code;
    }
    return dn_near_read(core, in, names, count) ? DN_OK
                                                : corrupt(in, err, DN_SECTION_NEAR, "bad tables of an item");
}

static enum dn_code read_sections(struct dn_core *core, struct dn_source *in, uint16_t version,
                                  struct dn_error *err)
{
    uint32_t *names = dn_slab_zalloc(core->slab, DN_ITEM_IDS * sizeof *names); /* pages touched: few */
    enum dn_code code = read_meta(core, in, version, err);
    if (code == DN_OK) {
        code = read_items(core, in, names, err);
    }
    if (code == DN_OK) {
        code = read_sources(core, in, version, err);
    }
    if (code == DN_OK && version >= 2) {
        code = read_dead(core, in, err);
    }
    if (code == DN_OK && version >= 2) {
        code = read_stall(core, in, err);
    }
    if (code == DN_OK) {
        code = read_tombstones(core, in, err);
    }
    if (code == DN_OK) {
        code = read_users(core, in, names, err);
    }
    if (code == DN_OK && version >= DN_SNAPSHOT_VERSION) {
        code = read_near(core, in, names, err);
    }
    dn_slab_free(core->slab, names, DN_ITEM_IDS * sizeof *names);
    return code;
}

enum dn_code dn_core_restore(struct dn_core *core, struct dn_source *in, struct dn_error *err)
{
    uint32_t magic = dn_source_u32(in);
    uint16_t version = dn_source_u16(in);
    if (in->code != DN_OK) {
        return dn_fail(err, in->code, "snapshot of a shard: %s", in->error.message);
    }
    if (magic != DN_SNAPSHOT_MAGIC) {
        return dn_fail(err, DN_CORRUPT, "snapshot of a shard: does not begin as one");
    }
    if (version < 1 || version > DN_SNAPSHOT_VERSION) {
        return dn_fail(err, DN_CORRUPT, "snapshot of a shard: version %u, this program reads 1 to %u",
                       version, DN_SNAPSHOT_VERSION);
    }
    enum dn_code code = read_sections(core, in, version, err);
    if (code != DN_OK) {
        return code;
    }
    uint64_t hash = dn_source_u64(in);
    if (dn_source_end(in) != DN_OK) {
        return corrupt(in, err, DN_SECTION_USERS, "bytes missing or left over");
    }
    if (!dn_users_order(core)) {
        return corrupt(in, err, DN_SECTION_USERS, "two users changed at once");
    }
    if (!dn_items_order(core)) {
        return corrupt(in, err, DN_SECTION_ITEMS, "wrong order of unused items");
    }
    if (hash != dn_core_hash(core)) {
        return dn_fail(err, DN_CORRUPT,
                       "snapshot of a shard: state hash %016" PRIx64 " where %016" PRIx64 " was written",
                       dn_core_hash(core), hash);
    }
    for (uint32_t id = 0; id < core->item_bound; id++) {
        uint32_t clicks = atomic_load_explicit(&dn_item_slot(core, id)->clicks, memory_order_relaxed);
        if (clicks != 0) {
            dn_top_rise(core, DN_TOP_CLICKS, id, clicks);
        }
    }
    dn_trend_publish(core, true);
    return DN_OK;
}
